"""Keep what `fewstep evaluate` measured among the results: metrics.json of one evaluation, or the rows of several side by side.

    python -m benchmarks.quality.evaluations runs/fashion-evaluate --out benchmarks/results/fashion-evaluate.json
    python -m benchmarks.quality.evaluations UNet=runs/latent/unet-evaluate DiT=runs/latent/dit-evaluate --out benchmarks/results/fashion-latent.json

Several must have been measured on the same data, in the same features and by the same settings; each of their rows has its NAME as
`network`. The commands of the evaluations are in docs/results.md, above the tables.
"""

import json
from pathlib import Path
from typing import Any

from benchmarks.command import parser_of, run_main, write_result
from benchmarks.quality import tables
from fewstep.errors import InputError

SHARED = (
    ("data", "sha256"),
    ("features", "fingerprint"),
    ("settings", "samples"),
    ("settings", "reference_steps"),
    ("settings", "seed"),
)


def metrics_of(folder: Path) -> dict[str, Any]:
    """What an evaluation's metrics.json holds.

    Raises:
        InputError: there is none.
    """
    try:
        return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} holds no evaluation ({error}); name the --out of fewstep evaluate") from None


def side_by_side(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One result of evaluations by name.

    Raises:
        InputError: they were not measured alike.
    """
    first, *others = found
    for other in others:
        for part, key in SHARED:
            one, two = found[first][part][key], found[other][part][key]
            if one != two:
                raise InputError(f"{key} of the {part} is {one} for {first} and {two} for {other}; evaluate both alike")
    models = {name: {key: metrics[key] for key in ("model", "against", "summary")} for name, metrics in found.items()}
    rows = [{"network": name, **row} for name, metrics in found.items() for row in metrics["rows"]]
    return {key: value for key, value in found[first].items() if key not in models[first]} | {"models": models, "rows": rows}


def main(words: list[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("evaluations", nargs="+", help="folder, or NAME=folder of several")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(words)
    named = dict(text.rpartition("=")[::2] for text in args.evaluations)
    if len(named) != len(args.evaluations):
        raise InputError(f"{' '.join(args.evaluations)}: give each of several evaluations a name of its own, as UNet=folder")
    found = {name: metrics_of(Path(folder)) for name, folder in named.items()}
    result = side_by_side(found) if len(found) > 1 else next(iter(found.values()))
    print(tables.evaluation(result))
    write_result(args.out, result)


if __name__ == "__main__":
    run_main(main)
