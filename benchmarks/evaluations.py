"""Keep what `fewstep evaluate` measured among the results: metrics.json of one evaluation, or the rows of several side by side.

    python benchmarks/evaluations.py runs/fashion-evaluate --out benchmarks/results/fashion-evaluate.json
    python benchmarks/evaluations.py UNet=runs/latent/unet-evaluate DiT=runs/latent/dit-evaluate --out benchmarks/results/fashion-latent.json

Several must have been measured on the same data, in the same features and by the same settings; each of their rows is told its NAME as
`network`. The commands of the evaluations are in docs/results.md, above the tables.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from results_page import evaluate_table, run_main, write_result

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluations", nargs="+", help="folder, or NAME=folder of several")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    named = dict(text.rpartition("=")[::2] for text in arguments.evaluations)
    if len(named) != len(arguments.evaluations):
        raise InputError(f"{' '.join(arguments.evaluations)}: give each of several evaluations a name of its own, as UNet=folder")
    found = {name: metrics_of(Path(folder)) for name, folder in named.items()}
    result = side_by_side(found) if len(found) > 1 else next(iter(found.values()))
    print(evaluate_table(result))
    write_result(arguments.out, result)


if __name__ == "__main__":
    run_main(main)
