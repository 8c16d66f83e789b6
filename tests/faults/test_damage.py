# ruff: noqa: F811 - a fixture of another file is imported, then named as an argument
"""Every file of a model folder, a run, a cache and an evaluation, flipped, cut short, emptied or removed: named, or of no consequence."""

import os
import shutil
import stat
from collections import Counter

import pytest
from test_kills import EVALUATION, SHARDS, TRAINING, content_of, place, set_all  # noqa: F401 - a fixture

import fewstep
from fewstep.errors import InputError
from fewstep.files import UMASK
from fewstep.models.file_hashes import HASHES
from figures import record
from tiny import tiny_teacher

FLIPPED = (0.02, 0.1, 0.5, 0.9, 0.98)  # places, as shares of a file
NO_MATTER = {"fewstep-files.json"}  # what it lists is compared here
NO_MATTER |= {
    "README.md",
    "log.jsonl",
    "report.html",
    "metrics.json",
    "grid.png",
    "quality.png",
}  # for people alone, or written anew


def flip(file, where):
    content = bytearray(file.read_bytes())
    content[min(int(len(content) * where), len(content) - 1)] ^= 1
    file.write_bytes(content)


DAMAGES = {f"flipped at {where:.0%}": lambda file, where=where: flip(file, where) for where in FLIPPED}
DAMAGES |= {
    "cut short": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "halved": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "emptied": lambda file: file.write_bytes(b""),
    "removed": lambda file: file.unlink(),
}


def made(zygote, root, what):
    """The folder of a model, a cache, an evaluation, or of a run that was killed within its second stage, made when first asked for."""
    folder = root / what
    if folder.exists():
        return folder
    whole = zygote.run(*command_for(what, root, folder), folder=folder)
    assert whole.codes == [0], whole.err
    for number in range(whole.writes * 4 // 5, 0, -1) if what == "run" else ():
        shutil.rmtree(folder)
        zygote.run(*command_for(what, root, folder), folder=folder, kill_at=number)
        if (folder / "checkpoint" / "state.safetensors").is_file() and not (folder / "steps-0001").exists():
            break
    return folder


def command_for(what, root, it):
    """The command that uses a folder."""
    text = ("--teacher", root / "pipeline", "--prompts", root / "prompts.txt", *set_all(SHARDS))
    training = {key: value for key, value in TRAINING.items() if not key.startswith(("network", "data"))}
    return {
        "model": ("sample", it, "--class-label", "3", "--out", root / "out"),
        "pipeline": ("sample", it, "--prompt", "a cat", "--steps", "2", "--out", root / "out"),
        "run": ("distill", "--teacher", root / "teacher", *set_all(TRAINING), "--out", it),
        "cache": ("cache", *text, "--out", it),
        "cache read": ("distill", "--teacher", root / "pipeline", "--set", f"data.cache={it}", *set_all(training), "--out", root / "out"),
        "evaluation": ("evaluate", root / "model", "--against", root / "of-model", "--data", "digits", *EVALUATION, "--out", it),
    }[what] + ("--device", "cpu")  # fmt: skip


class Damaged:
    """What becomes of a command whose folder is damaged, against what it gives where that is whole."""

    def __init__(self, zygote, place, what, folder):
        self.run, self.place, self.what, self.folder = zygote.run, place, what, made(zygote, place, folder)
        self.tally, self.quiet = Counter(), set()
        self.expected = self.result(self.copied())

    def copied(self):
        shutil.rmtree(self.place / "copy", ignore_errors=True)
        shutil.rmtree(self.place / "out", ignore_errors=True)
        return shutil.copytree(self.folder, self.place / "copy")

    def result(self, copy):
        """What was made, or the one line of what was said."""
        done = self.run(*command_for(self.what, self.place, copy))
        assert done.codes in ([0], [2]) and "Traceback" not in done.err, done.err
        if done.codes == [2]:
            lines = [line for line in done.err.splitlines() if line.startswith("error: ")]
            assert len(lines) == 1, done.err
            return lines[0]
        written = self.place / "out" if (self.place / "out").exists() else copy
        found = content_of(written, but=("checkpoint", "samples"))  # which a run and an evaluation at their end no longer need
        found = {name: content for name, content in found.items() if name.split("/")[-1] not in NO_MATTER}
        if (row := found.pop("samples.json", None)) is not None:  # it holds a time
            found["samples.json"] = {key: value for key, value in row.items() if key != "seconds"}
        return found

    def every_file(self, damages=DAMAGES):
        """Damage each file in each way: its name is said, or the result is that of the whole folder."""
        for file in sorted(path for path in self.folder.rglob("*") if path.is_file() and path.stat().st_size):
            name = file.relative_to(self.folder)
            for damage in damages:
                copy = self.copied()
                DAMAGES[damage](copy / name)
                found = self.result(copy)
                named = isinstance(found, str)
                assert not named or str(name) in found, f"{name} {damage}: {found}"
                assert named or found == self.expected, f"{name} {damage}: another result, without a word"
                self.tally["named" if named else "no consequence"] += 1
                self.quiet |= set() if named else {str(name)}
        return dict(self.tally)


def test_a_damaged_file_of_a_model_is_named_or_of_no_consequence(zygote, place):
    seen = Damaged(zygote, place, "model", "model").every_file(["flipped at 50%", "removed"])
    assert seen["named"] > seen["no consequence"] >= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "folder"),
    [("model", "model"), ("run", "run"), ("cache", "cache"), ("cache read", "cache"), ("evaluation", "evaluation")],
)
def test_a_file_damaged_in_any_way_is_named_or_of_no_consequence(zygote, place, what, folder):
    seen = Damaged(zygote, place, what, folder)
    tally = seen.every_file()
    record("damage", {"folder": what, **tally, "files_without_consequence": ", ".join(sorted(seen.quiet))})


def test_a_damaged_part_of_a_stock_pipeline_is_named(place, tmp_path):
    for number, name in enumerate(
        path.relative_to(place / "pipeline") for path in (place / "pipeline").rglob("*") if path.is_file()
    ):
        copy = shutil.copytree(place / "pipeline", tmp_path / str(number))
        (copy / name).write_bytes(b"{")
        with pytest.raises(InputError, match=name.parts[0]) as error:
            fewstep.open_model(copy).sample(prompts=["a cat"], steps=1)
        assert "\n" not in str(error.value)


def test_without_verification_or_hashes_a_changed_weight_is_opened(zygote, tmp_path):
    folder = tiny_teacher().save(tmp_path / "model")
    flip(folder / "unet" / "diffusion_pytorch_model.safetensors", 0.5)
    fewstep.open_model(folder, verify=False)
    words = ("sample", folder, "--steps", "1", "--num-images", "1", "--device", "cpu")
    refused = zygote.run(*words, "--out", tmp_path / "a")
    assert refused.codes == [2] and "diffusion_pytorch_model.safetensors" in refused.err
    assert zygote.run("--no-verify", *words, "--out", tmp_path / "b").codes == [0]
    (folder / HASHES).unlink()
    fewstep.open_model(folder)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_files_have_the_permissions_of_the_users_umask(tmp_path):
    folder = tiny_teacher().save(tmp_path / "model")
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()} == {0o666 & ~UMASK}
