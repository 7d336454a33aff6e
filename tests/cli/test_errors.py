"""What verbs raise, as the command line reports it."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from earvae.cli.errors import reported
from earvae.errors import EarvaeError


class _OfARoom(EarvaeError):
    """As every room has one."""


def run(raised: Exception, *arguments: str):
    app = typer.Typer()

    def verb(count: int = 0, name: str = "x") -> None:
        """Do nothing."""
        raise raised

    app.command()(reported(verb))
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize(
    "raised,line",
    [
        (_OfARoom("a.wav: is bad"), "error: a.wav: is bad\n"),
        (FileNotFoundError(2, "No such file", "b.wav"), "error: b.wav: No such file\n"),
        (OSError(28, "No space left", b"caf\xe9".decode("utf-8", "surrogateescape")),
         "error: caf\\xe9: No space left\n"),
    ],
)  # fmt: skip
def test_what_is_ours_to_refuse_is_one_line_and_status_1(raised, line):
    result = run(raised)
    assert (result.exit_code, result.stderr) == (1, line)


@pytest.mark.parametrize("raised", [ValueError("a defect"), OSError("of no file")])
def test_defects_keep_their_traceback(raised):
    result = run(raised)
    assert result.exception is raised


def test_options_of_a_reported_verb_are_those_of_the_verb():
    result = run(ValueError(), "--help")
    assert "--count" in result.stdout and "Do nothing." in result.stdout
