"""A guidance scale for each step of the bundled digits student of 4 steps: which schedule of scales gives the better curve.

    python -m benchmarks.quality.scale_by_step        benchmarks/results/scale-by-step.json; 2 minutes on one core

Each schedule over the same numbers s: 2,000 class-balanced samples from the same noise, Fréchet distance to the data against class negative log-likelihood in the
features of a classifier of digits. The first step is the one at the noise.
"""

from collections.abc import Callable

from benchmarks.command import Row, parser_of, progress, read_json, run_main, write_result
from benchmarks.quality import tables
from benchmarks.quality.class_curves import FINER, SCALES, Curves
from fewstep import open_model
from fewstep.data.loading import Data, open_data
from fewstep.models.metadata import bundled

SCHEDULES: dict[str, Callable[[float], list[float]]] = {
    "s s s s": lambda s: [s, s, s, s],
    "1 s s s": lambda s: [1, s, s, s],
    "1 1 s s": lambda s: [1, 1, s, s],
    "1 s s 1": lambda s: [1, s, s, 1],
    "s s s 1": lambda s: [s, s, s, 1],
    "s 1 1 1": lambda s: [s, 1, 1, 1],
}


def main(words: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "scale-by-step")
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--only", choices=list(SCHEDULES), nargs="+", help="measure these, the others stay")
    args = parser.parse_args(words)
    data = open_data(name="digits")
    assert isinstance(data, Data)
    curves, student = Curves.of_data(data), open_model(bundled("digits-student") / "steps-0004")
    found = read_json(args.out)["schedules"] if args.only else {}
    for name, schedule in ((name, schedule) for name, schedule in SCHEDULES.items() if name in (args.only or SCHEDULES)):
        progress(name)
        rows: list[Row] = []
        for s in FINER if name == "s s s s" else SCALES:
            (row,) = curves.curve(student, 4, [schedule(s)], args.samples)
            rows.append(row | {"guidance_scale": s})
        found[name] = {"rows": rows}
    print(tables.scale_by_step({"schedules": found}))
    write_result(args.out, {"schedules": found})


if __name__ == "__main__":
    run_main(main)
