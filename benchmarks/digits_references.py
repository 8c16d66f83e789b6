"""The bundled teacher's own samples at many steps, from fixed noise: what `fewstep quickstart` compares with.

    python benchmarks/digits_references.py --teacher runs/digits-teacher/teacher

Writes src/fewstep/bundled/digits-references.safetensors (half precision, with the hash of the teacher's weights).
"""

import argparse
import sys
from pathlib import Path

from results_page import run_main

from fewstep import open_model
from fewstep.evaluation.teacher_samples import fixed_noise, key_of, references_file, save_references
from fewstep.models.metadata import bundled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, default=bundled("digits-teacher"))
    parser.add_argument("--out", type=Path, default=references_file())
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--steps", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--guidance-scale", type=float, nargs="+", default=[1.0, 2.0, 3.0, 5.0])
    arguments = parser.parse_args()
    teacher = open_model(arguments.teacher)
    noise, labels = fixed_noise(teacher, arguments.samples)
    samples = {}
    for scale in arguments.guidance_scale:
        for steps in arguments.steps:
            drawn = teacher.sample_tensor(labels, steps=steps, guidance_scale=scale, noise=noise, batch_size=250)
            samples[key_of(steps, scale)] = drawn.samples
            print(f"scale {scale:g}, {steps} steps: {drawn.seconds:.0f} s", file=sys.stderr, flush=True)
    save_references(arguments.out, arguments.teacher, samples)
    print(arguments.out)


if __name__ == "__main__":
    run_main(main)
