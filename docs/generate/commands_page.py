"""The reference of commands, made of the application itself: what `fewstep NAME --help` says, as headings and tables."""

import re
from typing import Any

import typer

from fewstep.cli import main as cli

ORDER = (
    "quickstart",
    "new",
    "teach",
    "distill",
    "cache",
    "sample",
    "edit",
    "inpaint",
    "translate",
    "evaluate",
    "compare",
    "show",
    "bench",
    "export",
)
BOUNDS = re.compile(
    r"\s*\[((?:default|required|env var|[-\d.e]*<?=?x)[^\[\]]*(?:\[[^\]]*\])?[^\[\]]*)\]"
)  # as "[default: 8; 2<=x<=1024]"


def commands() -> str:
    """Markdown of every command: what it does, how it is called, its arguments and options, examples."""
    known = typer.main.get_command(cli.app).commands  # pyright: ignore[reportAttributeAccessIssue]
    names = [name for name in ORDER if name in known] + sorted(set(known) - set(ORDER))
    listed = "\n".join(f"- [`fewstep {name}`](#{name}): {known[name].help.strip().splitlines()[0]}" for name in names)
    return "\n\n".join([listed, *(section(name, known[name]) for name in names)])


def section(name: str, command: Any) -> str:
    """Markdown of one command."""
    context = command.context_class(command, info_name=f"fewstep {name}")
    parameters = [p for p in command.get_params(context) if "--help" not in getattr(p, "opts", ())]
    records = [(p.param_type_name, p.get_help_record(context)) for p in parameters]
    rows = [
        row(*record)
        for _, record in sorted(((kind != "argument", record) for kind, record in records if record), key=lambda r: r[0])
    ]
    usage = command.get_usage(context).removeprefix("Usage: ")
    parts = [f"## {name} {{ #{name} }}", command.help.strip(), f"```text\n{' '.join(usage.split())}\n```"]
    parts.append("| argument or option | | default and bounds |\n|---|---|---|\n" + "\n".join(rows))
    examples = "\n".join(examples_of(command.epilog or ""))
    return "\n\n".join([*parts, f"```sh\n{examples}\n```"] if examples else parts)


def row(name: str, text: str) -> str:
    """A row of the table: the option, what it is, its default and bounds."""
    found = BOUNDS.findall(text)
    bounds = "; ".join(in_words(part.strip()) for one in found for part in one.split(";"))
    plain = BOUNDS.sub("", text).strip().replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
    return f"| `{name.replace(' range>', '>')}` | {plain} | {bounds} |"


def in_words(bound: str) -> str:
    """A bound as the table has it: "2 to 1024" of "2<=x<=1024", "1 or more" of "x>=1"."""
    if both := re.fullmatch(r"([-\d.e]+)<=x<=([-\d.e]+)", bound):
        return f"{both[1]} to {both[2]}"
    if low := re.fullmatch(r"x>=([-\d.e]+)", bound):
        return f"{low[1]} or more"
    return re.sub(r"default: (.+)", r"default: `\1`", bound)


def examples_of(epilog: str) -> list[str]:
    """The command lines of an epilog, one a line; what is said between them stands after a `#`."""
    text = re.sub(r"^\s*(\x08|\\b)?\s*Examples?:\s*", "", epilog)
    lines = [part.strip() for part in re.split(r"\n|\s{4,}(?=fewstep |accelerate )", text) if part.strip()]
    return [re.sub(r"\s{4,}\((.*)\)$", r"    # \1", line) for line in lines]
