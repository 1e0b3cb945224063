"""Run single statements of other people's training step, to time them.

In V-JEPA 2 and the code published with the study, a step is a function nested in a long one. Its statements are parsed
from a checkout and executed unchanged, with given values for the names they read.
"""

import ast
import builtins
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peer_import import import_root, peer_module

from hpc_jepa.errors import InputError

TRAINERS = ("app/vjepa_2_1/train.py", "app/vjepa/train.py")
IMPORTED = {"torch": torch, "F": F}


@dataclass(frozen=True)
class Pattern:
    """A kind of statement: a description for errors, and a predicate."""

    description: str
    matches: Callable[[ast.AST], bool]


def function(name: str) -> Pattern:
    """A function definition."""
    return Pattern(f"function {name}", lambda node: isinstance(node, ast.FunctionDef) and node.name == name)


def block_with(call: str) -> Pattern:
    """A ``with`` block that contains a call."""
    return Pattern(f"'with' around a call of {call}", lambda node: isinstance(node, ast.With) and _calls(node, call))


def result_of(call: str) -> Pattern:
    """An assignment of the result of a call."""
    return Pattern(f"call of {call}", lambda node: isinstance(node, ast.Assign) and _calls(node.value, call))


def branch_on(ending: str) -> Pattern:
    """An ``if`` on a name with this ending."""
    return Pattern(
        f"'if' on a name in {ending}",
        lambda node: isinstance(node, ast.If) and any(name.endswith(ending) for name in _names(node.test, ast.Load)),
    )


class Fragment:
    """Compiled statements and the values of the names they read.

    Raises InputError if they read a name without a value.
    """

    def __init__(self, file: Path, statements: list[ast.stmt], values: dict[str, Any]) -> None:
        self._values = {**IMPORTED, **values}
        whole = ast.Module(statements, type_ignores=[])
        unknown = _names(whole, ast.Load) - _bound(whole) - self._values.keys() - vars(builtins).keys()
        if unknown:
            names = ", ".join(sorted(unknown))
            raise InputError(f"{file}:{statements[0].lineno}: reads {names}, which this benchmark does not provide")
        self._code = compile(whole, str(file), "exec")

    def __call__(self) -> dict[str, Any]:
        """Execute the statements; returns all names with their values."""
        values = dict(self._values)
        exec(self._code, values)
        return values


class PeerStep:
    """The parsed training step of the code in ``folder``. Raises InputError if there is none."""

    def __init__(self, folder: Path) -> None:
        self._root = import_root(folder, *TRAINERS)
        self.file = next(self._root / name for name in TRAINERS if (self._root / name).is_file())
        self._step: ast.AST = _parsed(self.file)  # the whole file, until the step is found
        self._step = self.require(function("train_step"))

    def module(self, name: str) -> Any:
        """Import a module of that code."""
        return peer_module(self._root, name)

    def has(self, pattern: Pattern) -> bool:
        """Whether a statement of that kind exists."""
        return next(_outermost(pattern, self._step), None) is not None

    def require(self, pattern: Pattern, advice: str = "this benchmark cannot measure its training step") -> ast.stmt:
        """The first statement of that kind. Raises InputError with ``advice`` if there is none."""
        statement = next(_outermost(pattern, self._step), None)
        if statement is None:
            raise InputError(f"{self.file}: no {pattern.description}; {advice}")
        return statement

    def fragment(self, *patterns: Pattern, **values: Any) -> Fragment:
        """The first statement of each kind, in the given order."""
        return Fragment(self.file, [self.require(kind) for kind in patterns], values)

    def every(self, pattern: Pattern, **values: Any) -> Fragment:
        """All statements of one kind, in the order of the step."""
        return Fragment(self.file, list(_outermost(pattern, self._step)), values)


def _parsed(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_text())
    except (SyntaxError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not Python: {error}; use a complete checkout") from error


def _outermost(pattern: Pattern, within: ast.AST) -> Iterator[ast.stmt]:
    """Matching statements in file order, without searching inside matches."""
    for child in ast.iter_child_nodes(within):
        if isinstance(child, ast.stmt) and pattern.matches(child):
            yield child
        else:
            yield from _outermost(pattern, child)


def _calls(node: ast.AST, name: str) -> bool:
    """Whether a function or method of that name is called in ``node``."""
    called = [call.func for call in ast.walk(node) if isinstance(call, ast.Call)]
    return any(name in (getattr(callee, "id", None), getattr(callee, "attr", None)) for callee in called)


def _names(node: ast.AST, context: type[ast.expr_context]) -> set[str]:
    return {name.id for name in ast.walk(node) if isinstance(name, ast.Name) and isinstance(name.ctx, context)}


def _bound(node: ast.AST) -> set[str]:
    """Names that the statements assign."""
    bound = _names(node, ast.Store)
    for part in ast.walk(node):
        match part:
            case ast.FunctionDef(name=name) | ast.arg(arg=name):
                bound.add(name)
            case ast.alias(name=name, asname=asname):
                bound.add(asname or name.partition(".")[0])
    return bound
