"""Read YAML safely: duplicate keys, ambiguous numbers and exponential aliases are errors."""

import re
import stat
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from hpc_jepa.config.strict import KeyPath, Locations
from hpc_jepa.errors import InputError
from hpc_jepa.io.escape import first_line

MAX_BYTES = 4 << 20
"""Larger files are refused: a configuration has a few kilobytes."""
MAX_VALUES = 100_000
"""Limit of the values of a file or an override after its aliases are written out."""
MAX_DEPTH = 100
"""Limit of lists and mappings inside one another."""
LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+")

WRONG_VALUES = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What PyYAML raises for a value that is not of its explicit tag, as in ``!!int ''``, and for too much depth."""

TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with unique keys and without surprising scalars.

    ``12:00:00`` and ``2026-01-31`` are texts, not the number 43200 and a date; ``010`` is an error, not the number 8.
    Keys that a merge (``<<:``) brings in may be set again.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        self._depth += 1
        if self._depth > MAX_DEPTH:  # long before Python's own limit, which the scanner reaches slowly
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem=f"nested more than {MAX_DEPTH} levels deep", problem_mark=mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                problem = "a key that is no text or number"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            name = (key.tag, str(key.value))
            if name in lines and key.tag != f"{TAG}merge":
                problem = f"key '{key.value}' is already set in line {lines[name]}; remove one of them"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            lines[name] = key.start_mark.line + 1
        return node

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        if node.style is None and LEADING_ZERO.fullmatch(node.value):
            problem = f"{node.value} has a leading zero; write the number without it, or a text in quotes"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        if "\0" in node.value:
            raise yaml.MarkedYAMLError(problem="a null character in a text", problem_mark=node.start_mark)
        if node.tag == f"{TAG}timestamp" or (node.tag in (f"{TAG}int", f"{TAG}float") and ":" in node.value):
            node.tag = f"{TAG}str"
        return node


def parse_value(text: str) -> Any:
    """The value of an override. Raises YAMLError if it is not valid YAML, or exceeds MAX_VALUES or MAX_DEPTH."""
    try:
        return _load(text)[1]
    except WRONG_VALUES as error:
        raise yaml.YAMLError(str(error)) from error


def as_value(text: str) -> str:
    """``text`` such that ``parse_value`` returns it unchanged: in quotes where YAML would read something else."""
    try:
        if parse_value(text) == text:
            return text
    except yaml.YAMLError:
        pass
    return "'" + text.replace("'", "''") + "'"


def read_yaml(path: Path) -> tuple[dict[str, Any], Locations]:
    """The mapping in a file and the line of each key; cached until the file changes.

    Raises InputError in one line for a file that cannot be read, is no mapping, or exceeds one of the limits above.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"{display_path(path)}: cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{display_path(path)}: not a regular file; a configuration is YAML in UTF-8")
    if status.st_size > MAX_BYTES:
        raise InputError(f"{display_path(path)}: {status.st_size:,} bytes; a configuration has at most {MAX_BYTES:,}")
    return _parsed(path, Path.cwd(), status.st_mtime_ns, status.st_size)


def display_path(path: Path) -> str:
    """The path relative to the working directory, if it is inside it."""
    working_dir = Path.cwd()
    return str(path.relative_to(working_dir)) if path.is_relative_to(working_dir) else str(path)


@cache
def _parsed(path: Path, working_dir: Path, mtime: int, size: int) -> tuple[dict[str, Any], Locations]:
    name = display_path(path)
    locations = Locations()
    try:
        node, values = _load(path.read_text(encoding="utf-8"))
        _record_locations(node, name, (), locations)
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror})") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"{name}:{line}: cannot be read as YAML: {error.problem}") from error
    except (UnicodeDecodeError, yaml.reader.ReaderError) as error:
        raise InputError(f"{name}: not a text file; a configuration is YAML in UTF-8") from error
    except RecursionError as error:
        raise InputError(f"{name}: an alias (*name) is part of its own anchor") from error
    except WRONG_VALUES as error:
        raise InputError(f"{name}: not valid YAML: a value that is not of its type ({first_line(error)})") from error
    if values is None:
        return {}, Locations()
    if not isinstance(values, dict):
        raise InputError(f"{name}:1: a configuration is a mapping, not a {type(values).__name__}")
    return values, locations


def _load(text: str) -> tuple[yaml.Node | None, Any]:
    """The only document of a text and its value. Raises YAMLError, or one of WRONG_VALUES."""
    loader = _Loader(text)
    node = loader.get_single_node()
    _check_size(node, {})
    return node, loader.construct_document(node) if node else None


def _check_size(node: yaml.Node | None, known: dict[yaml.Node, int]) -> int:
    """Number of values below a node, counted once for every alias. Raises YAMLError above MAX_VALUES."""
    if node is None or isinstance(node, yaml.ScalarNode):
        return 1
    if node not in known:
        children = (
            [child for pair in node.value for child in pair] if isinstance(node, yaml.MappingNode) else node.value
        )
        known[node] = 1 + sum(_check_size(child, known) for child in children)
        if known[node] > MAX_VALUES:
            problem = f"more than {MAX_VALUES:,} values once its aliases are written out"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    return known[node]


def _record_locations(node: yaml.Node | None, file: str, at: KeyPath, locations: Locations) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = (*at, str(key.value))
            locations[path] = f"{file}:{key.start_mark.line + 1}"
            _record_locations(value, file, path, locations)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            path = (*at, str(index))
            locations[path] = f"{file}:{value.start_mark.line + 1}"
            _record_locations(value, file, path, locations)
