"""The documentation: links lead somewhere, commands exist, lines fit."""

import re
import shlex
import shutil
import unicodedata
from pathlib import Path

import pytest
import typer

from earvae.cli.main import app

ROOT = Path(__file__).parents[1]
LOG = ROOT / "experiments" / "log"
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "examples").glob("**/*.md"),
        *(ROOT / "experiments").glob("**/*.md"),
        ROOT / "src/earvae/model/weights/MODEL_CARD.md",
    ]
)
TODAY = [page for page in PAGES if LOG not in page.parents]  # the log tells of the past
COLUMNS = 100
EXAMPLES = re.compile("crest|convergence|numpy_archive")  # files that docs/extend.md has one write

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
todays = pytest.mark.parametrize("page", TODAY, ids=lambda page: str(page.relative_to(ROOT)))


def without_fences(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The names that links to headings of a page use."""
    headings = re.findall(r"^#+ (.+)$", without_fences(page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


@pages
def test_every_link_leads_to_a_file_and_a_heading(page):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_fences(page.read_text("utf-8"))):
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def width(line: str) -> int:
    """Columns that a line takes: the hat of X̂ takes none."""
    return sum(not unicodedata.combining(character) for character in line)


@pages
def test_lines_of_prose_fit_into_a_hundred_columns(page):
    lines = page.read_text("utf-8").splitlines()
    long = [
        f"{number}: {line[:40]}"
        for number, line in enumerate(lines, 1)
        if width(line) > COLUMNS and not line.startswith("|")  # a row of a table cannot be wrapped
    ]
    assert long == []


@todays
def test_every_file_of_the_repository_that_is_named_exists(page):
    paths = re.findall(
        r"(?<![\w/.])((?:src|docs|tests|tools|benchmarks|experiments)/[\w./-]*\w)",
        page.read_text("utf-8"),
    )
    absent = {path for path in paths if not (ROOT / path).exists()}
    assert sorted(path for path in absent if not EXAMPLES.search(path)) == []


@todays
def test_every_page_can_be_reached_from_the_index(page):
    index = (ROOT / "docs/index.md").read_text("utf-8")
    if page.parent == ROOT / "docs" and page.name != "index.md":
        assert f"({page.name})" in index


def commands(text: str) -> list[list[str]]:
    """The words after ``earvae`` of a page's commands: in code blocks and between backticks."""
    blocks = re.findall(r"^```\w*\n(.*?)^```|((?:^    .*\n)+)", text, re.DOTALL | re.MULTILINE)
    lines = "\n".join(block or indented for block, indented in blocks).replace("\\\n", " ")
    quoted = [quote.replace("\n", " ") for quote in re.findall(r"`(earvae [^`]+)`", text)]
    found = []
    for line in lines.splitlines() + quoted:
        if line.lstrip().startswith(("from ", "import ")):
            continue
        if match := re.search(r"(?:^|\s|(\"))(?<!from )earvae(?:\.cli\.main)? ([a-z].*)", line):
            words = shlex.split(match[2].rstrip(match[1] or " "), comments=True)
            found.append(words[: words.index("|")] if "|" in words else words)
    return found


VERBS = typer.main.get_command(app).commands


def unknown(text: str) -> list[str]:
    """The verbs and options in the commands of a text that do not exist."""
    wrong = []
    for verb, *words in commands(text):
        command = VERBS.get(verb)
        if command is None or command.hidden:  # hidden verbs name the new ones
            wrong.append(f"earvae {verb}")
            continue
        known = {name for option in command.params for name in (*option.opts, "--help")}
        given = [word for word in words if re.fullmatch(r"--?[a-z][\w-]*", word)]
        wrong += [f"earvae {verb} {word}" for word in given if word not in known]
    return wrong


@todays
def test_every_command_and_option_of_a_page_exists(page):
    assert unknown(page.read_text("utf-8")) == []


@pytest.mark.parametrize("verb", [name for name, command in VERBS.items() if not command.hidden])
def test_every_command_that_a_verb_s_help_shows_exists(verb):
    options = [getattr(option, "help", None) or "" for option in VERBS[verb].params]
    assert unknown("\n".join([f"```\n{VERBS[verb].help}\n```", *options])) == []


@pytest.mark.parametrize("folder", ["src", "tests", "tools", "benchmarks", "experiments"])
def test_every_page_that_the_code_names_exists(folder):
    files = [file for end in ("py", "yaml", "yml") for file in (ROOT / folder).rglob(f"*.{end}")]
    named = {
        (page, file.name)
        for file in files
        for page in re.findall(r"\bdocs/\w+\.md\b", file.read_text("utf-8"))
    }
    assert sorted(place for place in named if not (ROOT / place[0]).exists()) == []


def test_the_check_of_commands_reads_blocks_quotes_and_broken_lines():
    text = (
        "a `earvae info\nx --json` b\n\n    earvae stats y | tail -n 3\n"
        "    earvae stats y \\\n        -o z\n\n"
        "```sh\nOMP_NUM_THREADS=1 earvae train # c\nfrom earvae import x\n```\n"
        '```\npython -c "from earvae import y; \\\ny()"\n```\n'
    )
    assert commands(text) == [
        ["stats", "y"],
        ["stats", "y", "-o", "z"],
        ["train"],
        ["info", "x", "--json"],
    ]


@pages
def test_no_page_names_a_place_on_somebodys_machine(page):
    text = page.read_text("utf-8")
    assert re.findall(r"(?<![\w.<])/(?:home|work|root|Users|tmp)/\S+", text) == []


@pages
def test_no_page_has_a_gap_to_be_filled(page):
    assert re.findall(r"@[A-Z]+@|\bTODO\b|\bTBD\b|<{7}|>{7}", page.read_text("utf-8")) == []


def test_the_guide_names_every_verb():
    guide = (ROOT / "docs/guide.md").read_text("utf-8")
    shown = [name for name, command in VERBS.items() if not command.hidden]
    assert [name for name in shown if f"`{name}`" not in guide] == []


def test_the_first_python_of_the_guide_runs(tmp_path, monkeypatch, capsys):
    guide = (ROOT / "docs/guide.md").read_text("utf-8")
    shutil.copy(ROOT / "tests/clips/automat.flac", tmp_path / "song.flac")
    monkeypatch.chdir(tmp_path)
    exec(re.search(r"```python\n(.*?)```", guide, re.DOTALL)[1], {})
    assert "1024 torch.Size([1, 64, 517]) torch.Size([1, 2, 529200])" in capsys.readouterr().out
