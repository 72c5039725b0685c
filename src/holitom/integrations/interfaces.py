"""Check another package's sources for the names that holitom derives from and calls.

A contract is text. A line without indentation names a module; the lines under it list the names used of it:

    vllm.multimodal.inputs
        PlaceholderRange(offset, length)    # a class or function, and the arguments that it is called with
        MultiModalFeatureSpec.mm_position   # an attribute of a class or of its instances
        calls get_mrope_input_positions     # the module calls a method that holitom overrides

The package is not imported, so a contract can also be checked for a release that does not run here.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path


@dataclass
class Sources:
    """The source files of one package.

    Attributes:
        root: the package's own folder, such as `.../site-packages/vllm`.
    """

    root: Path
    _modules: dict[str, Module | None] = field(default_factory=dict)

    def module(self, name: str) -> Module | None:
        """The module `name` (with the package's own name first); None where there is no such file."""
        if name not in self._modules:
            package, *parts = name.split(".")
            base = self.root.joinpath(*parts)
            files = (base / "__init__.py", base.with_suffix(".py"))
            file = (
                next((file for file in files if file.is_file()), None) if package == self.root.name else None
            )
            self._modules[name] = None if file is None else Module(name, file)
        return self._modules[name]

    def find(self, module: str, name: str) -> Definition | None:
        """Find the definition of `name` in `module`, through imports; None where there is none."""
        source = self.module(module)
        if source is None:
            return None
        if name in source.defined:
            return Definition(source, source.defined[name])
        if name in source.imported:
            return self.find(*source.imported[name])
        found = (self.find(other, name) for other in source.starred)
        return next((definition for definition in found if definition is not None), None)

    def member(self, owner: Definition, name: str) -> Definition | None:
        """The attribute `name` of the class `owner`, its own or that of a base class."""
        if not isinstance(owner.node, ast.ClassDef):
            return None
        own = owner.module.members(owner.node).get(name)
        if own is not None:
            return Definition(owner.module, own)
        for base in self.bases(owner):
            found = self.member(base, name)
            if found is not None:
                return found
        return None

    def bases(self, owner: Definition) -> Iterator[Definition]:
        """The base classes of `owner` that are in the package."""
        assert isinstance(owner.node, ast.ClassDef)
        for base in owner.node.bases:
            target = base.value if isinstance(base, ast.Subscript) else base
            if isinstance(target, ast.Name):
                found = self.find(owner.module.name, target.id)
                if found is not None and isinstance(found.node, ast.ClassDef):
                    yield found

    def signature(self, definition: Definition) -> Signature | None:
        """The arguments of a function, or of a class's constructor; None for another definition."""
        node = definition.node
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return Signature.of(node)
        if not isinstance(node, ast.ClassDef):
            return None
        constructor = self.member(definition, "__init__")
        if constructor is not None:
            return self.signature(constructor)
        given = [*map(self.signature, self.bases(definition))]
        fields = Signature.of_fields(node)
        for inherited in given:
            fields = fields if inherited is None else inherited + fields
        return fields


@dataclass
class Module:
    """One source file.

    Attributes:
        name: name of the module, with the package's own name first.
        file: path of the file.
    """

    name: str
    file: Path
    _members: dict[str, dict[str, ast.AST]] = field(default_factory=dict)

    def members(self, node: ast.ClassDef) -> dict[str, ast.AST]:
        """The attributes of a class of this file: those in its body, and those that its methods assign."""
        if node.name not in self._members:
            self._members[node.name] = _members(node)
        return self._members[node.name]

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.file.read_text(encoding="utf-8"))

    @cached_property
    def defined(self) -> dict[str, ast.AST]:
        """Functions, classes and variables by name."""
        return {name: node for statement in _flat(self.tree.body) for name, node in _names(statement)}

    @cached_property
    def imported(self) -> dict[str, tuple[str, str]]:
        """Module and name that each imported name stands for."""
        return {
            alias.asname or alias.name: (self._absolute(statement), alias.name)
            for statement in _flat(self.tree.body)
            if isinstance(statement, ast.ImportFrom)
            for alias in statement.names
            if alias.name != "*"
        }

    @cached_property
    def starred(self) -> list[str]:
        """Modules of which all names are imported."""
        return [
            self._absolute(statement)
            for statement in _flat(self.tree.body)
            if isinstance(statement, ast.ImportFrom) and statement.names[0].name == "*"
        ]

    @cached_property
    def called(self) -> set[str]:
        """Names of the functions and methods that the module calls."""
        calls = (node.func for node in ast.walk(self.tree) if isinstance(node, ast.Call))
        return {
            func.attr if isinstance(func, ast.Attribute) else func.id
            for func in calls
            if isinstance(func, (ast.Attribute, ast.Name))
        }

    def _absolute(self, statement: ast.ImportFrom) -> str:
        if not statement.level:
            return statement.module or ""
        parts = self.name.split(".")
        parents = parts if self.file.name == "__init__.py" else parts[:-1]
        parents = parents[: len(parents) - statement.level + 1]
        return ".".join([*parents, *([statement.module] if statement.module else [])])


@dataclass(frozen=True)
class Definition:
    """A definition in a module: a function, a class, or the statement that assigns a name."""

    module: Module
    node: ast.AST


@dataclass(frozen=True)
class Signature:
    """Arguments of a function without `self`.

    Attributes:
        names: names of the arguments, in order.
        required: names of the arguments without a default.
        open: whether the function takes any other arguments by name.
    """

    names: tuple[str, ...]
    required: frozenset[str]
    open: bool = False

    @classmethod
    def of(cls, function: ast.FunctionDef | ast.AsyncFunctionDef) -> Signature:
        given = function.args
        positional = [argument.arg for argument in (*given.posonlyargs, *given.args)]
        required = positional[: len(positional) - len(given.defaults)]
        keywords = list(zip((argument.arg for argument in given.kwonlyargs), given.kw_defaults, strict=True))
        required += [name for name, default in keywords if default is None]
        return cls(
            tuple(name for name in (*positional, *(name for name, _ in keywords)) if name not in SELVES),
            frozenset(required) - SELVES,
            given.kwarg is not None,
        )

    @classmethod
    def of_fields(cls, node: ast.ClassDef) -> Signature:
        """Read the arguments of a dataclass's constructor from its fields."""
        fields = [
            one for one in node.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
        ]
        names = [(one.target.id, one.value) for one in fields if isinstance(one.target, ast.Name)]
        return cls(
            tuple(name for name, _ in names), frozenset(name for name, value in names if value is None)
        )

    def __add__(self, other: Signature) -> Signature:
        names = (*self.names, *(name for name in other.names if name not in self.names))
        return Signature(names, self.required | other.required, self.open or other.open)


SELVES = frozenset({"self", "cls"})


def broken(sources: Sources, contract: str) -> list[str]:
    """List clauses that say which entries of `contract` do not hold for `sources`; empty where all hold."""
    found: list[str] = []
    module = ""
    for line in contract.splitlines():
        entry = line.split("#")[0].strip()
        if not entry:
            continue
        if not line[0].isspace():
            module = entry
            if sources.module(module) is None:
                found.append(f"there is no module {module}")
        elif sources.module(module) is not None:
            clause = _broken(sources, module, entry)
            if clause:
                found.append(clause)
    return found


def installed(package: str) -> Sources | None:
    """Find the sources of an installed package without importing it; None where it is not installed."""
    found = importlib.util.find_spec(package)
    places = [] if found is None else list(found.submodule_search_locations or [])
    return Sources(Path(places[0])) if places else None


def entries(contract: str) -> dict[str, set[str]]:
    """The names that `contract` lists, by module, without arguments and attributes."""
    listed: dict[str, set[str]] = {}
    module = ""
    for line in contract.splitlines():
        entry = line.split("#")[0].strip()
        if entry and not line[0].isspace():
            module = entry
            listed.setdefault(module, set())
        elif entry and not entry.startswith("calls "):
            listed[module].add(entry.partition("(")[0].partition(".")[0])
    return listed


def _broken(sources: Sources, module: str, entry: str) -> str:
    if entry.startswith("calls "):
        name = entry.removeprefix("calls ").strip()
        source = sources.module(module)
        held = source is not None and name in source.called
        return "" if held else f"{module} does not call {name} any more"
    path, arguments = entry.partition("(")[::2]
    first, *rest = path.split(".")
    at, whole = sources.find(module, first), first
    for name in rest:
        if at is None:
            break
        at, whole = sources.member(at, name), f"{whole}.{name}"
    if at is None:
        return f"{module} has no {whole}"
    if not entry.endswith(")"):
        return ""
    wanted = tuple(name.strip() for name in arguments[:-1].split(",") if name.strip())
    signature = sources.signature(at)
    if signature is None:
        return f"{module}.{path} is no function or class any more"
    unknown = [name for name in wanted if name not in signature.names and not signature.open]
    if unknown:
        return f"{module}.{path} takes no {', '.join(unknown)}, but {', '.join(signature.names)}"
    order = [name for name in signature.names if name in wanted]
    if order != [name for name in wanted if name in order]:
        return f"{module}.{path} takes its arguments in another order: {', '.join(order)}"
    missing = sorted(signature.required.difference(wanted))
    return f"{module}.{path} needs {', '.join(missing)} as well" if missing else ""


def _flat(statements: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements, and those inside `if`, `try` and `with`."""
    for statement in statements:
        yield statement
        for name in ("body", "orelse", "finalbody"):
            if isinstance(statement, (ast.If, ast.Try, ast.With)):
                yield from _flat(getattr(statement, name, []))
        if isinstance(statement, ast.Try):
            for handler in statement.handlers:
                yield from _flat(handler.body)


def _names(statement: ast.stmt) -> Iterator[tuple[str, ast.AST]]:
    """Yield each name that a statement defines, with its syntax node."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield statement.name, statement
    elif isinstance(statement, (ast.Assign, ast.AnnAssign)):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for target in targets:
            for name in ast.walk(target):
                if isinstance(name, ast.Name):
                    yield name.id, statement


def _members(node: ast.ClassDef) -> dict[str, ast.AST]:
    found: dict[str, ast.AST] = {}
    for inner in ast.walk(node):
        if (
            isinstance(inner, ast.Attribute)
            and isinstance(inner.ctx, ast.Store)
            and isinstance(inner.value, ast.Name)
            and inner.value.id == "self"
        ):
            found.setdefault(inner.attr, inner)
    for statement in _flat(node.body):
        found.update(_names(statement))
    return found
