"""What verbs raise, as the command line reports it."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from earvae.cli.errors import reported
from earvae.errors import EarvaeError

FAULT = "(a fault in earvae; --debug shows the traceback)"


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
        (_OfARoom("a.wav: is bad"), "a.wav: is bad"),
        (FileNotFoundError(2, "No such file", "b.wav"), "b.wav: No such file"),
        (OSError(28, "No space left", b"caf\xe9".decode("utf-8", "surrogateescape")),
         "caf\\xe9: No space left"),
        (OSError(28, "No space left"), "earvae verb: No space left"),
        (MemoryError(), "earvae verb: there is not enough memory for this"),
        (ValueError("a defect\nat length"), f"earvae verb: ValueError: a defect {FAULT}"),
        (RecursionError(), f"earvae verb: RecursionError {FAULT}"),
        (EarvaeError("a\x1b[31m\nb\u202e: is bad"), "a\\x1b[31m\\x0ab\\u202e: is bad"),
    ],
)  # fmt: skip
def test_whatever_a_verb_raises_is_one_line_and_status_1(raised, line):
    result = run(raised)
    assert (result.exit_code, result.stderr) == (1, f"error: {line}\n")


def test_a_line_about_no_file_in_particular_names_those_of_the_command(tmp_path):
    assert run(KeyError("x"), "--name", str(tmp_path)).stderr.startswith(f"error: {tmp_path}: Key")


def test_debug_shows_the_traceback_before_the_line():
    text = run(ValueError("a defect"), "--debug").stderr
    assert "Traceback" in text and text.endswith(f"{FAULT}\n")


@pytest.mark.parametrize("raised", [typer.Exit(3), BrokenPipeError(32, "Broken pipe")])
def test_leaving_and_a_reader_that_left_are_no_failures(raised):
    result = run(raised)
    assert result.stderr == "" and result.exit_code == getattr(raised, "exit_code", 1)


def test_options_of_a_reported_verb_are_those_of_the_verb():
    result = run(ValueError(), "--help")
    assert "--count" in result.stdout and "Do nothing." in result.stdout
    assert "--debug" in result.stdout
