"""A module as a program of one file: what it takes from this package is written into it.

Only what is used goes along, statement by statement. Each module that something comes from becomes
a function that returns its names, so that equal names of two modules do not meet, and the text of
every statement stays as it is.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import indent

import earvae

PACKAGE = earvae.__name__
SOURCE = Path(earvae.__file__).parent
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
        if isinstance(self.node, ast.Import | ast.ImportFrom):
            return {alias.asname or alias.name.split(".")[0] for alias in self.node.names}
        if isinstance(self.node, ast.FunctionDef | ast.ClassDef):
            return {self.node.name}
        return {each.id for each in self._all(ast.Name) if isinstance(each.ctx, ast.Store)}

    @property
    def uses(self) -> set[tuple[str, str]]:
        """Names, each with the attribute that is asked of it, or ""."""
        dotted = {(a.value.id, a.attr) for a in self._all(ast.Attribute)
                  if isinstance(a.value, ast.Name)}  # fmt: skip
        return dotted | {(each.id, "") for each in self._all(ast.Name)}

    @property
    def from_package(self) -> bool:
        return isinstance(self.node, ast.ImportFrom) and _is_ours(self.node.module or "")

    def _all(self, kind: type[ast.AST]) -> list:
        return [node for node in ast.walk(self.node) if isinstance(node, kind)]


@dataclass
class _Module:
    """A module's statements, and the modules that the wanted ones need."""

    name: str
    statements: list[_Statement] = field(default_factory=list)
    taken: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Local names of what comes from the package: whose it is, and its name there or ""."""

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
        if name not in statement.defines or _for_types(statement.node):
            continue
        if not statement.from_package:
            _want(module, statement, modules)
            continue
        assert isinstance(statement.node, ast.ImportFrom)
        alias = next(a for a in statement.node.names if name == (a.asname or a.name))
        source, whole = statement.node.module or "", f"{statement.node.module}.{alias.name}"
        if _path(whole).is_file():
            module.taken[name] = whole, ""
            inner, wanted = _load(whole, modules), attribute
        else:
            module.taken[name] = source, alias.name
            inner, wanted = _load(source, modules), alias.name
        if wanted:
            if not any(wanted in each.defines for each in inner.statements):
                raise KeyError(f"{inner.name} defines no {wanted}")
            _want_name(inner, wanted, "", modules)


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


def _for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
