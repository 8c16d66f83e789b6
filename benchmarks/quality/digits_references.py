"""The bundled teacher's own samples at many steps, from fixed noise: what `fewstep quickstart` compares with.

    python -m benchmarks.quality.digits_references --teacher runs/digits-teacher/teacher

Writes src/fewstep/bundled/digits-references.safetensors (half precision, with the hash of the teacher's weights).
"""

from pathlib import Path

from safetensors.torch import save_file

from benchmarks.command import parser_of, progress, run_main
from fewstep import open_model
from fewstep.data.fingerprints import whole
from fewstep.evaluation.teacher_samples import REFERENCES, SEED, WEIGHTS, fixed_noise, key_of
from fewstep.models.metadata import bundled


def main(words: list[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--teacher", type=Path, default=bundled("digits-teacher"))
    parser.add_argument("--out", type=Path, default=REFERENCES)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--steps", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--guidance-scale", type=float, nargs="+", default=[1.0, 2.0, 3.0, 5.0])
    args = parser.parse_args(words)
    teacher = open_model(args.teacher)
    noise, labels = fixed_noise(teacher, args.samples)
    samples = {}
    for scale in args.guidance_scale:
        for steps in args.steps:
            drawn = teacher.sample_tensor(labels, steps=steps, guidance_scale=scale, noise=noise, batch_size=250)
            samples[key_of(steps, scale)] = drawn.samples.half()
            progress(f"scale {scale:g}, {steps} steps: {drawn.seconds:.0f} s")
    save_file(samples, args.out, {"weights": whole(args.teacher / WEIGHTS), "seed": str(SEED)})
    print(args.out)


if __name__ == "__main__":
    run_main(main)
