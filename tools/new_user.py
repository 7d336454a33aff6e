"""The log of a new user: every path of ``tools/paths`` in a fresh environment, from the wheel.

    python tools/new_user.py                     # all of them, written to docs/paths.md
    python tools/new_user.py 02 06 -o log.md     # some

Builds the wheel of this checkout, puts it into a new virtual environment, and runs the scripts in
the order of their names, each in a folder of its own that holds ``music/`` (three short clips) and
``checkout/`` (what git knows of this one). A script says in its first comment what it is called and
which extras it needs, which are installed before it::

    # title: Latents in and out
    # extras: export, media

Its other comments become prose, and its commands stand with what they print. A command that fails
is shown with its status; one that fails without ``|| true`` or ``# status 1`` at its end makes this
program fail as well.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
CLIPS = ("automat.flac", "tutorial.flac", "van_mission2.flac")
COLUMNS, MOST_LINES, SECONDS = 100, 40, 900
INTRODUCTION = """\
# Paths, as a new user walks them

These paths were walked one after the other in a fresh environment, into which the wheel and, before
each path, the extras that it names were installed; each in a folder with `music/` (three clips of
`tests/clips`) and `checkout/`, this repository. `python tools/new_user.py` does that again and
writes this page; the commands are those of `tools/paths/`. Wide tables and long outputs are cut.
"""


@dataclass(frozen=True)
class Step:
    """Prose, or a command with the status that it should end with."""

    text: str
    command: bool
    status: int = 0


@dataclass(frozen=True)
class Script:
    """A path: its title, the extras it needs, its steps."""

    title: str
    extras: str
    steps: list[Step]

    @classmethod
    def read(cls, path: Path) -> Script:
        """The script at ``path``: comments and commands, lines that end in a backslash joined."""
        title, extras, steps = path.stem, "", []
        for line in path.read_text("utf-8").replace("\\\n", "\\\0").splitlines():
            line = line.replace("\0", "\n")
            if line.startswith(("#!", "set ")) or not line.strip():
                steps.append(Step("", False))
            elif found := re.match(r"# *(title|extras): *(.*)", line):
                title, extras = (found[2], extras) if found[1] == "title" else (title, found[2])
            elif line.startswith("#"):
                steps.append(Step(line.lstrip("# "), False))
            else:
                status = re.search(r"  # status (\d+)$", line)
                steps.append(Step(line, True, int(status[1]) if status else 0))
        return cls(title, "" if extras == "none" else extras.replace(" ", ""), steps)


def run(command: str, folder: Path, environment: dict[str, str]) -> tuple[str, int]:
    """What ``command`` prints and its status; what it left running is ended."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            status = 124
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        output.seek(0)
        return output.read().decode("utf-8", "replace"), status


def shown(output: str, hidden: tuple[Path, ...]) -> list[str]:
    """Lines of an output that fit a page, without the places of this machine."""
    for place in hidden:
        output = output.replace(f"{place}/", "").replace(str(place), ".")
    lines = [line.rsplit("\r", 1)[-1].rstrip() for line in output.rstrip().splitlines()]
    lines = [part for line in lines for part in fitting(line)]
    if len(lines) > MOST_LINES:
        left_out = len(lines) - MOST_LINES + 1
        half = MOST_LINES // 2
        lines[half : half + left_out] = [f"… {left_out} lines …"]
    return lines


def fitting(line: str) -> list[str]:
    """A line in the width of the page: tables and code are cut, sentences go on below."""
    if len(line) <= COLUMNS:
        return [line]
    if line[0] in "┏┃┡│└┌├ [":
        return [line[: COLUMNS - 1] + "…"]
    return textwrap.wrap(line, COLUMNS, subsequent_indent="    ")


def walk(script: Script, folder: Path, environment: dict[str, str], hidden: tuple[Path, ...]):
    """The section of a path as Markdown, and the commands that ended as they should not."""
    wrong: list[str] = []
    parts: list[str] = []
    prose: list[str] = []

    def end_prose() -> None:
        text = " ".join(prose).strip()
        prose.clear()
        if text:
            wrapped = subprocess.run(
                ["fmt", "-w", str(COLUMNS)], input=text, text=True, capture_output=True, check=True
            )
            parts.append(wrapped.stdout.rstrip())

    for step in script.steps:
        if not step.command:
            if not step.text:
                end_prose()
            prose.append(step.text)
            continue
        end_prose()
        output, status = run(step.text, folder, environment)
        lines = shown(output, hidden)
        if status != step.status:
            wrong.append(f"{script.title}: {step.text} (status {status})")
            print("\n".join([f"WRONG, status {status}: $ {step.text}", *lines]), flush=True)
        if status:
            lines.append(f"[status {status}]")
        command = re.sub(r"  # status \d+$", "", step.text)
        parts.append("\n".join(["```console", f"$ {command}", *lines, "```"]))
    end_prose()
    extras = f"`pip install 'earvae[{script.extras}]'`" if script.extras else "`pip install earvae`"
    return f"## {script.title}\n\n{extras}\n\n" + "\n\n".join(parts) + "\n", wrong


def fresh(folder: Path) -> tuple[Path, Path]:
    """A new virtual environment's programs, and the wheel of this checkout."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
    subprocess.run([*pip, folder, ROOT], check=True)
    venv.create(folder / "venv", with_pip=True)
    return folder / "venv/bin", next(folder.glob("earvae-*.whl"))


def main(argv: list[str] | None = None) -> int:
    """Walk the paths; 1 if a command ended as it should not."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("numbers", nargs="*", help="of the scripts, such as 02; default: all")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs/paths.md")
    options = parser.parse_args(argv)
    scripts = sorted((ROOT / "tools/paths").glob("*.sh"))
    if options.numbers:
        scripts = [path for path in scripts if path.name[:2] in options.numbers]
    sections: list[str] = []
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        programs, wheel = fresh(folder)
        known = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.split("\0")
        environment = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "HOME": str(folder / "home"),
            "LANG": "C.UTF-8",
            "COLUMNS": str(COLUMNS),
        }
        constraints = ["--constraint", str(ROOT / "constraints.txt")]
        for path in scripts:
            script = Script.read(path)
            target = f"{wheel}[{script.extras}]" if script.extras else str(wheel)
            pip = [str(programs / "python"), "-m", "pip", "install", "--quiet", *constraints]
            subprocess.run([*pip, target], check=True)
            place = folder / path.stem
            (place / "music").mkdir(parents=True)
            for clip in CLIPS:
                shutil.copy(ROOT / "tests/clips" / clip, place / "music")
            for file in filter(None, known):
                (place / "checkout" / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / file, place / "checkout" / file)
            print(f"{path.name}: {script.title}", flush=True)
            section, failed = walk(script, place, environment, (place, folder))
            sections.append(section)
            wrong += failed
            shutil.rmtree(place)
    options.output.write_text("\n".join([INTRODUCTION, *sections]), "utf-8")
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
