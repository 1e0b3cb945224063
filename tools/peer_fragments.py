"""Pieces of other people's training step, to be run and measured by themselves.

V-JEPA 2 and the code published with the study write a step as one function inside a long one. Its statements are taken
from the file of a checkout and run as they stand there, on values for the names that they read.
"""

import ast
import builtins
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peers import import_root, peer_module

from hpc_jepa.errors import InputError

TRAINERS = ("app/vjepa_2_1/train.py", "app/vjepa/train.py")
IMPORTED = {"torch": torch, "F": F}


@dataclass(frozen=True)
class Wanted:
    """A statement to look for: what it is, for people, and how to tell."""

    words: str
    found: Callable[[ast.AST], bool]


def function(name: str) -> Wanted:
    """The definition of a function."""
    return Wanted(f"function {name}", lambda node: isinstance(node, ast.FunctionDef) and node.name == name)


def block_with(call: str) -> Wanted:
    """A ``with`` statement in which something is called."""
    return Wanted(f"'with' around a call of {call}", lambda node: isinstance(node, ast.With) and _calls(node, call))


def result_of(call: str) -> Wanted:
    """A statement that keeps the result of a call."""
    return Wanted(f"call of {call}", lambda node: isinstance(node, ast.Assign) and _calls(node.value, call))


def branch_on(ending: str) -> Wanted:
    """An ``if`` that looks at a name with this ending."""
    return Wanted(
        f"'if' on a name in {ending}",
        lambda node: isinstance(node, ast.If) and any(name.endswith(ending) for name in _names(node.test, ast.Load)),
    )


class Fragment:
    """Statements of theirs, and values for the names they read.

    Raises InputError where they read a name that has no value.
    """

    def __init__(self, file: Path, statements: list[ast.stmt], values: dict[str, Any]) -> None:
        self._values = {**IMPORTED, **values}
        whole = ast.Module(statements, type_ignores=[])
        unknown = _names(whole, ast.Load) - _bound(whole) - self._values.keys() - vars(builtins).keys()
        if unknown:
            names = ", ".join(sorted(unknown))
            raise InputError(f"{file}:{statements[0].lineno}: reads {names}, for which this benchmark has no value")
        self._code = compile(whole, str(file), "exec")

    def __call__(self) -> dict[str, Any]:
        """Run them: what every name stands for afterwards."""
        values = dict(self._values)
        exec(self._code, values)
        return values


class PeerStep:
    """The training step of the code in ``folder``, taken apart. Raises InputError where there is no such code."""

    def __init__(self, folder: Path) -> None:
        self._root = import_root(folder, *TRAINERS)
        self.file = next(self._root / name for name in TRAINERS if (self._root / name).is_file())
        self._step: ast.AST = _parsed(self.file)  # all there is, until the step is found in it
        self._step = self.require(function("train_step"))

    def module(self, name: str) -> Any:
        """A module of that code."""
        return peer_module(self._root, name)

    def has(self, wanted: Wanted) -> bool:
        """Whether there is a statement of that kind."""
        return next(_outermost(wanted, self._step), None) is not None

    def require(self, wanted: Wanted, advice: str = "this benchmark cannot measure its training step") -> ast.stmt:
        """The first statement of that kind. Raises InputError, which ends with ``advice``, where there is none."""
        statement = next(_outermost(wanted, self._step), None)
        if statement is None:
            raise InputError(f"{self.file}: no {wanted.words}; {advice}")
        return statement

    def fragment(self, *wanted: Wanted, **values: Any) -> Fragment:
        """The first statement of each kind that is wanted, in the order wanted."""
        return Fragment(self.file, [self.require(kind) for kind in wanted], values)

    def every(self, wanted: Wanted, **values: Any) -> Fragment:
        """All statements of the kind that is wanted, in the order of the step."""
        return Fragment(self.file, list(_outermost(wanted, self._step)), values)


def _parsed(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_text())
    except (SyntaxError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not Python: {error}; give a whole checkout") from error


def _outermost(wanted: Wanted, within: ast.AST) -> Iterator[ast.stmt]:
    """Statements of the kind wanted in the order of the file, without looking for more inside them."""
    for child in ast.iter_child_nodes(within):
        if isinstance(child, ast.stmt) and wanted.found(child):
            yield child
        else:
            yield from _outermost(wanted, child)


def _calls(node: ast.AST, name: str) -> bool:
    """Whether a function or method of that name is called anywhere in it."""
    called = [call.func for call in ast.walk(node) if isinstance(call, ast.Call)]
    return any(name in (getattr(callee, "id", None), getattr(callee, "attr", None)) for callee in called)


def _names(node: ast.AST, context: type[ast.expr_context]) -> set[str]:
    return {name.id for name in ast.walk(node) if isinstance(name, ast.Name) and isinstance(name.ctx, context)}


def _bound(node: ast.AST) -> set[str]:
    """Names to which the statements give values themselves."""
    bound = _names(node, ast.Store)
    for part in ast.walk(node):
        match part:
            case ast.FunctionDef(name=name) | ast.arg(arg=name):
                bound.add(name)
            case ast.alias(name=name, asname=asname):
                bound.add(asname or name.partition(".")[0])
    return bound
