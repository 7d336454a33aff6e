"""A module as a program of one file: what it takes from this package is written into it.

Only what is used goes along, statement by statement. Each module that something comes from becomes
a function that returns its names, so that equal names of two modules do not meet, and the text of
every statement stays as it is.
"""

from __future__ import annotations
import __future__

import ast
import dis
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from textwrap import indent
from types import CodeType

PACKAGE = __name__.split(".")[0]
SOURCE = Path(__file__).parents[1]  # its files
NAMESPACE = '''\
def _module(define):
    """The names that a module of earvae defines; below stand those that this program uses."""
    return SimpleNamespace(**define())
'''


@dataclass
class _Statement:
    """A statement of a module, with the comments above it."""

    text: str
    node: ast.stmt
    wanted: bool = False

    @property
    def defines(self) -> set[str]:
        if isinstance(self.node, ast.ImportFrom) and self.node.module == "__future__":
            return set()  # at the head of the program
        if isinstance(self.node, ast.Import | ast.ImportFrom):
            return {alias.asname or alias.name.split(".")[0] for alias in self.node.names}
        if isinstance(self.node, ast.FunctionDef | ast.ClassDef):
            return {self.node.name}
        names = (each for each in ast.walk(self.node) if isinstance(each, ast.Name))
        return {each.id for each in names if isinstance(each.ctx, ast.Store)}

    @cached_property
    def uses(self) -> set[tuple[str, str]]:
        """Names of the module, each with the attribute that is asked of it, or "" for itself.
        Annotations are only text, and do not count."""
        flags = __future__.annotations.compiler_flag
        return set(_used(compile(ast.Module([self.node], []), "", "exec", flags)))

    @property
    def from_package(self) -> bool:
        return isinstance(self.node, ast.ImportFrom) and _is_ours(self.node.module or "")


@dataclass
class _Module:
    """A module's statements, and the modules that the wanted ones need."""

    name: str
    statements: list[_Statement] = field(default_factory=list)
    taken: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Local names of what comes from the package: whose it is, and its name there or ""."""

    def names(self, taken: bool = True) -> set[str]:
        """All that it defines and, with ``taken``, imports."""
        kinds = () if taken else (ast.Import, ast.ImportFrom)
        own = (each.defines for each in self.statements if not isinstance(each.node, kinds))
        return set().union(*own)

    @property
    def label(self) -> str:
        return self.name.replace(".", "_")

    def body(self) -> str:
        """What takes from other modules, then the wanted statements."""
        taken = (
            f"{local} = {module.replace('.', '_')}{'.' if name else ''}{name}\n"
            for local, (module, name) in self.taken.items()
        )
        own = (each.text for each in self.statements if each.wanted and not each.from_package)
        return "".join(taken) + "".join(own)


def standalone(name: str) -> str:
    """The text of the module ``name``, such as ``earvae.export.runner``, as a program by itself.

    It needs whatever the statements import that it uses, other than this package. Imports from
    the package stand at the top of a module, as ``from earvae.audio import write``; elsewhere
    they are left as they are. Raises KeyError for a name that a module does not define.
    """
    modules: dict[str, _Module] = {}
    root = _load(name, modules)
    for statement in root.statements:
        if not statement.from_package:
            _want(root, statement, modules)
    order: list[_Module] = []
    _sort(root, modules, order)
    head = "".join(s.text for s in root.statements[:2])  # docstring and __future__
    root.statements = root.statements[2:]
    parts = [head, "\nfrom types import SimpleNamespace\n\n\n", NAMESPACE]
    for module in order[:-1]:
        inside = indent(module.body().strip("\n") + "\n\nreturn locals()\n", "    ")
        parts.append(f"\n\n@_module\ndef {module.label}():\n{inside}")
    return "".join([*parts, "\n\n", root.body().lstrip("\n")])


def _load(name: str, modules: dict[str, _Module]) -> _Module:
    if name not in modules:
        text = _path(name).read_text(encoding="utf-8")
        lines, end = text.splitlines(keepends=True), 0
        module = modules[name] = _Module(name)
        for node in ast.parse(text).body:
            own = "".join(lines[end : node.end_lineno])
            end = node.end_lineno or end
            documents = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            if documents and module.statements:  # of the constant above it
                module.statements[-1].text += own
            else:
                module.statements.append(_Statement(own, node))
    return modules[name]


def _want(module: _Module, statement: _Statement, modules: dict[str, _Module]) -> None:
    """Mark a statement and all that it uses, here and elsewhere."""
    if statement.wanted:
        return
    statement.wanted = True
    for name, attribute in statement.uses:
        _want_name(module, name, attribute, modules)


def _want_name(module: _Module, name: str, attribute: str, modules: dict[str, _Module]) -> None:
    for statement in module.statements:
        if name not in statement.defines:
            continue
        if not statement.from_package:
            _want(module, statement, modules)
            continue
        assert isinstance(statement.node, ast.ImportFrom)
        alias = next(each for each in statement.node.names if name == (each.asname or each.name))
        source = statement.node.module or ""
        if _path(f"{source}.{alias.name}").is_file():
            inner = _load(f"{source}.{alias.name}", modules)
            module.taken[name] = inner.name, ""
            wanted = [attribute] if attribute else sorted(inner.names(taken=False))
        else:
            inner = _load(source, modules)
            module.taken[name] = source, alias.name
            wanted = [alias.name]
        for each in wanted:
            if each not in inner.names():
                raise KeyError(f"{inner.name} defines no {each}")
            _want_name(inner, each, "", modules)


def _used(code: CodeType) -> Iterator[tuple[str, str]]:
    """What code takes from its module: names, with the attribute that is asked of each or ""."""
    steps = [step for step in dis.get_instructions(code) if step.opname != "EXTENDED_ARG"]
    for step, after in zip(steps, [*steps[1:], None], strict=True):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            asked = after is not None and after.opname in ("LOAD_ATTR", "LOAD_METHOD")
            yield step.argval, after.argval if asked else ""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _used(constant)


def _sort(module: _Module, modules: dict[str, _Module], order: list[_Module]) -> None:
    """Put a module into ``order``, after those from which it takes something."""
    for source, _ in module.taken.values():
        _sort(modules[source], modules, order)
    if module not in order:
        order.append(module)


def _path(name: str) -> Path:
    """The file of a module of the package; it need not exist."""
    path = SOURCE.joinpath(*name.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _is_ours(module: str) -> bool:
    return module.split(".")[0] == PACKAGE
