"""The tables of measured figures in docs/, from benchmarks/results/*.json, so that no figure there is typed by hand.

    python -m benchmarks.tables            writes the tables anew
    python -m benchmarks.tables --check    exits with 1 where a page does not have them

A page is written by hand but for what stands between the lines `<!-- table: NAME -->` and `<!-- end -->`. For a new table write such a pair
of lines, and enter NAME in TABLES with the function that makes the text from a result.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.command import DOCS, RESULTS, Row, parser_of, read_json, run_main
from benchmarks.families import tables as families
from benchmarks.quality import path_tables
from benchmarks.quality import tables as quality
from benchmarks.reliability_tables import reliability
from benchmarks.speed import tables as speed
from benchmarks.uses import tables as uses

TABLES: dict[str, Callable[[Row], str]] = {
    "mixtures": quality.mixtures, "digits-full": quality.digits_full, "choosing": quality.choosing, "own-images": quality.own_images,
    "digits-evaluate": quality.evaluation, "fashion-evaluate": quality.evaluation, "fashion-latent": quality.evaluation,
    "cifar10-evaluate": quality.evaluation, "stage-one-trials": quality.trials,
    "method-variants": quality.method_variants, "emoji": quality.emoji, "headline": speed.headline, "overhead": speed.overhead, "input": speed.waiting, "scaling": speed.scaling,
    "stock-pipelines": speed.stock_pipelines, "ladders": quality.ladders,
    "memory": speed.memory, "memory-predicted": speed.memory_predicted,
    "editing": uses.editing, "emoji-editing": uses.editing, "inpainting": uses.inpainting, "base-lora": uses.base_lora, "emoji-lora": uses.base_lora, "style-transfer": uses.style_transfer,
    "any-steps": quality.teacher_distance, "critic": quality.critic,
    "paths": quality.teacher_distance, "emoji-paths": path_tables.emoji_paths, "low-scale": path_tables.low_scale, "low-scale-fashion": path_tables.low_scale,
    "guidance-rules": quality.guidance_rules, "image-rules": quality.guidance_rules,
    "to-reach": quality.to_reach, "paths-fashion": partial(path_tables.image_paths, of="fashion-mnist"),
    "paths-cifar10-small": partial(path_tables.image_paths, of="cifar10-small"), "image-paths-few": partial(path_tables.image_paths, of="cifar10-small"),
    "small-samples": quality.small_samples,
    "scale-by-step": quality.scale_by_step,
    "families": families.stock_samples, "families-onnx": families.onnx, "reliability": reliability,
}  # fmt: skip
# tables that are not named as their result
FILES = {
    "choosing": "digits-full",
    "paths-fashion": "image-paths",
    "paths-cifar10-small": "image-paths",
}


def rendered(page: str, results: Path = RESULTS) -> str:
    """The page with its tables made anew; where a result is not there yet the table stays as it is.

    Raises:
        KeyError: the page names a table that TABLES does not have.
    """

    def fill(found: re.Match[str]) -> str:
        table, path = TABLES[found[1]], results / f"{FILES.get(found[1], found[1])}.json"
        return f"<!-- table: {found[1]} -->\n\n{table(read_json(path))}\n\n<!-- end -->" if path.is_file() else found[0]

    return re.sub(r"<!-- table: (\S+) -->.*?<!-- end -->", fill, page, flags=re.DOTALL)


def main(words: list[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check, behind = parser.parse_args(words).check, 0
    for page in sorted(DOCS.glob("*.md")):
        before = page.read_text(encoding="utf-8")
        after = rendered(before)
        if before != after:
            behind += 1
            print(f"{page} {'is behind the results: python -m benchmarks.tables' if check else 'is written anew'}")
            if not check:
                page.write_text(after, encoding="utf-8")
    return int(check and behind > 0)


if __name__ == "__main__":
    run_main(main)
