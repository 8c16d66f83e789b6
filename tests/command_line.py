"""The command line as a user types it, run within the tests' own process."""

from unittest.mock import patch

from fewstep.cli import main as cli


def command(capsys, *words, expect=0):
    """`fewstep WORDS` in this process, which spares the start of a new one; (stdout, stderr)."""
    with patch("sys.argv", ["fewstep", *map(str, words)]):
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code
    found = capsys.readouterr()
    assert code == expect, found.err
    return found.out, found.err


def refused(capsys, *words):
    """The one line with which a command refuses, exit code 2."""
    out, err = command(capsys, *words, expect=2)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    assert out == ""
    return lines[0]
