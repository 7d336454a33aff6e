"""The house has floors: imports point down, never in a circle, and an idea stands in one place."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import earvae
from earvae.evaluation.figures import FIGURES

SOURCE = Path(earvae.__file__).parent
FLOORS = [
    {"errors", "atomic", "former", "json_files", "owned", "regular", "remote", "signals", "tar"},
    {
        "config",
        "config_files",
        "config_problems",
        "config_sizes",
        "recipes",
        "audio",
        "tracks",
        "mel",
        "si_sdr",
        "true_peak",
    },
    {"model"},
    {"latents", "files", "codec", "streaming", "engine", "objective", "discriminator"},
    {"training", "evaluation", "library", "export", "adapters"},
    {"cli", "__main__"},
]  # a room (a module or a folder of earvae) imports from its own floor and those below
ON_THE_ROOF = "__init__"  # earvae itself hands out what users need; inside, only cli may ask it


# --------------------------------------------------------------------------- reading


@cache
def modules() -> dict[str, Path]:
    """Every module by its name within the package, such as ``model.vae``; ``__init__`` is the
    package itself."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name or ON_THE_ROOF] = path
    return found


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def only_for_types(module: ast.Module) -> set[ast.AST]:
    """What stands under ``if TYPE_CHECKING``, and is never run."""
    blocks = (
        node.body
        for node in ast.walk(module)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    )
    return {inner for block in blocks for node in block for inner in ast.walk(node)}


def absolute(name: str, node: ast.ImportFrom) -> str:
    """The module that ``from … import`` of module ``name`` means, dots resolved."""
    if not node.level:
        return node.module or ""
    is_package = modules()[name].name == "__init__.py"
    here = [] if name == ON_THE_ROOF else name.split(".")
    parents = ["earvae", *here][: (1 + len(here)) - node.level + is_package]
    return ".".join([*parents, *filter(None, [node.module])])


@cache
def imports(name: str) -> frozenset[str]:
    """Modules of the package that a module imports, those inside functions included."""
    module = tree(modules()[name])
    skipped = only_for_types(module)
    asked = []
    for node in ast.walk(module):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            asked += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            source = absolute(name, node)
            asked += [f"{source}.{alias.name}" for alias in node.names]
    found = set()
    for target in asked:
        package, _, rest = target.partition(".")
        if package == "earvae":
            while rest and rest not in modules():
                rest = rest.rpartition(".")[0]
            found.add(rest or ON_THE_ROOF)
    return frozenset(found - {name})


def reached(name: str) -> set[str]:
    """All that is imported when a module is, and later by its functions."""
    found, waiting = set(), [name]
    while waiting:
        new = imports(waiting.pop()) - found
        found |= new
        waiting += new
    return found


def room(name: str) -> str:
    return name.split(".")[0]


def floor(name: str) -> int:
    """Counted from the bottom; -1 without one."""
    return next((n for n, rooms in enumerate(FLOORS) if room(name) in rooms), -1)


def circles(edges: dict[str, set[str]]) -> list[str]:
    """What cannot be put in an order, whatever goes first or last."""
    left = {name: set(targets) for name, targets in edges.items()}
    while True:
        asked = set().union(*left.values())
        free = [name for name in left if not left[name] & left.keys() or name not in asked]
        if not free:
            break
        for name in free:
            del left[name]
        left = {name: targets & left.keys() for name, targets in left.items()}
    return sorted(f"{name} -> {', '.join(sorted(t & left.keys()))}" for name, t in left.items())


def places(wanted) -> dict[str, list[str]]:
    """Code for which ``wanted(node)`` holds, by file."""
    found: dict[str, list[str]] = {}
    for path in modules().values():
        for node in ast.walk(tree(path)):
            if wanted(node):
                where = path.relative_to(SOURCE).as_posix()
                found.setdefault(where, []).append(f"line {node.lineno}: {ast.unparse(node)[:80]}")
    return found


def is_call(node: ast.AST, *names: str) -> bool:
    """A call of a dotted name, such as ``os.replace``."""
    return isinstance(node, ast.Call) and ast.unparse(node.func) in names


# --------------------------------------------------------------------------- imports


def test_every_room_has_a_floor_and_every_floor_its_rooms():
    """A new module or folder needs a place in FLOORS; one that is gone has none."""
    assert {room(name) for name in modules()} - {ON_THE_ROOF} == set().union(*FLOORS)


def test_imports_never_climb():
    """A room may ask those of its floor and those below, never one above."""
    climbing = [
        f"{name} -> {target}"
        for name in modules()
        if name != ON_THE_ROOF
        for target in sorted(imports(name))
        if (floor(target) if target != ON_THE_ROOF else len(FLOORS) - 1) > floor(name)
    ]
    assert not climbing, "\n".join(climbing)


def test_no_module_imports_itself_by_a_detour():
    found = circles({name: set(imports(name)) for name in modules()})
    assert not found, "\n".join(found)


def test_no_two_rooms_import_each_other():
    edges: dict[str, set[str]] = {}
    for name in modules():
        if name != ON_THE_ROOF:
            others = {room(target) for target in imports(name)} - {room(name)}
            edges.setdefault(room(name), set()).update(others)
    found = circles(edges)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("apart", ["objective", "evaluation.metrics"])
def test_the_objective_and_the_metrics_know_no_model(apart):
    known = [name for name in modules() if name == apart or name.startswith(f"{apart}.")]
    assert known
    for name in known:
        found = {room(target) for target in reached(name)}
        assert not found & {"model", "codec", "cli", "training", ON_THE_ROOF}, name


# --------------------------------------------------------------------------- one place each


def test_one_set_of_suffixes_says_what_music_is():
    def suffixes(node) -> bool:
        values = set()
        if isinstance(node, ast.Set | ast.List | ast.Tuple):
            values = {item.value for item in node.elts if isinstance(item, ast.Constant)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            values = set(node.value.split())
        return len({".wav", ".flac", ".mp3", ".ogg", ".aiff"} & values) > 2

    assert set(places(suffixes)) == {"tracks.py"}


def test_one_module_renames():
    def renames(node) -> bool:
        method = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        return is_call(node, "os.replace", "os.rename", "os.renames", "shutil.move") or bool(
            method
            and (node.func.attr == "rename" or node.func.attr == "replace" and len(node.args) == 1)
            and ast.unparse(node.func) != "dataclasses.replace"
        )

    assert set(places(renames)) == {"atomic.py"}, places(renames)


def test_one_module_walks_through_folders_of_music():
    def walks(node) -> bool:
        return is_call(node, "os.walk", "os.fwalk", "os.scandir") or (
            isinstance(node, ast.Attribute) and node.attr == "rglob"
        )

    assert set(places(walks)) == {"tracks.py"}, places(walks)


@pytest.mark.parametrize(
    ("module", "said", "computed"),
    [
        ("si_sdr.py", r"si.?sdr|scale.invariant", "log10"),
        ("true_peak.py", r"true.?peak", "resample"),
    ],
)
def test_a_measure_has_one_formula(module, said, computed):
    """No other function or class, be it of a script, names the measure (in its own name, its
    docstring, or a name that it assigns) and calls what its formula needs."""

    def speaks_of_it(node) -> bool:
        names = [n.id for n in ast.walk(node) if isinstance(getattr(n, "ctx", None), ast.Store)
                 and isinstance(n, ast.Name)]  # fmt: skip
        text = " ".join([node.name, ast.get_docstring(node) or "", *names])
        return re.search(said, text, re.IGNORECASE) is not None

    def computes(node) -> bool:
        functions = [call.func for call in ast.walk(node) if isinstance(call, ast.Call)]
        return any(ast.unparse(f).rpartition(".")[2].strip("_") == computed for f in functions)

    root, found = Path(__file__).parents[1], set()
    scripts = [
        p for room in ("tools", "benchmarks", "experiments") for p in root.glob(f"{room}/**/*.py")
    ]
    for path in [*modules().values(), *scripts]:
        for node in ast.walk(tree(path)):
            if (
                isinstance(node, ast.FunctionDef | ast.ClassDef)
                and computes(node)
                and speaks_of_it(node)
            ):
                found.add(path)
    assert found == {SOURCE / module}


def test_one_table_names_what_is_measured():
    """Labels for people stand in figures.py alone; keys there, where they are computed, and where
    the published evaluation's names are told apart from ours."""
    keys = {figure.key for figure in FIGURES}
    labels = {figure.label for figure in FIGURES} - keys

    def labelled(node) -> bool:
        return isinstance(node, ast.Constant) and node.value in labels

    def listed(node) -> bool:
        if not isinstance(node, ast.Tuple | ast.List | ast.Set | ast.Dict):
            return False
        parts = [part for part in ast.walk(node) if isinstance(part, ast.Constant)]
        return len({part.value for part in parts} & keys) > 3

    assert set(places(labelled)) == {"evaluation/figures.py"}
    listing = {name for name in places(listed) if not name.startswith("evaluation/metrics/")}
    assert listing == {"evaluation/figures.py", "evaluation/tables.py"}


def test_no_file_that_is_read_can_run_code():
    """Only tensors are unpickled."""

    def risky(node) -> bool:
        if isinstance(node, ast.Call):
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if ast.unparse(node.func) == "torch.load":
                return given.get("weights_only") != "True"
            return given.get("allow_pickle", "False") != "False" or ast.unparse(node.func) in (
                "pickle.load", "pickle.loads", "pickle.Unpickler", "yaml.load", "yaml.unsafe_load",
                "eval", "exec",
            )  # fmt: skip
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        return any(name.split(".")[0] in {"dill", "joblib", "shelve", "marshal"} for name in names)

    assert places(risky) == {}
