"""Read configuration: YAML layers, ``extends:``, ``key.sub=value`` overrides; errors name file, line and key."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from hpc_jepa.errors import InputError
from hpc_jepa.io.resources import find_resource, list_resources, shipped_dir

Config = TypeVar("Config", bound=BaseModel)
KeyPath = tuple[str, ...]

CONFIGS = shipped_dir("configs")
"""The configurations shipped with the package."""

SHORT_FORMS = {"semantics": "preset"}
"""Keys that may hold one word instead of a mapping, and the entry that word stands for."""


@dataclass
class ConfigLayers:
    """Merged values, where each key was last set (``file:line``), and the files they come from."""

    values: dict[str, Any] = field(default_factory=dict)
    locations: dict[KeyPath, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)

    def add(self, values: dict[str, Any], locations: dict[KeyPath, str]) -> None:
        """Put another layer on top; mappings merge, everything else replaces."""
        self.values = _merge(self.values, values)
        self.locations.update(locations)


def find_config(name: str | Path, kind: str | None = None) -> Path:
    """A configuration file by path, or by the bare name it has under ``configs/<kind>/``.

    Files in the working directory win over those shipped with the package.
    Raises InputError naming the nearest known name.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or kind is None:
        found = find_resource(path)
        if found is None:
            raise InputError(f"{path}: no such configuration file{_suggest(str(path), _known_files())}")
        return found
    known = list_resources(f"configs/{kind}")
    if str(name) not in known:
        raise InputError(f"{name}: unknown {kind}{_suggest(str(name), known)}; known: {', '.join(known)}")
    return known[str(name)]


def read_config(config_type: type[Config], layers: Sequence[str | Path], overrides: Sequence[str] = ()) -> Config:
    """Merge files left to right, apply ``key.sub=value`` overrides, validate.

    Raises InputError in one line: file, line, key, what is wrong, and the nearest valid key.
    """
    layered = merge_files(layers)
    for override in overrides:
        layered.add(*_parse_override(override))
    return validate_config(config_type, layered)


def merge_files(layers: Sequence[str | Path]) -> ConfigLayers:
    """The values of several files, ``extends:`` resolved, the last one on top."""
    layered = ConfigLayers()
    for layer in layers:
        _add_file(layered, find_config(layer), ())
    return layered


def validate_config(config_type: type[Config], layered: ConfigLayers) -> Config:
    """Build the typed configuration or raise InputError for its first fault."""
    try:
        return config_type.model_validate(layered.values)
    except ValidationError as error:
        raise InputError(_error_message(config_type, layered, error)) from error


def dump_config(config: BaseModel) -> str:
    """YAML that ``load`` reads back to the same configuration."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name most like ``name``."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return matches[0] if matches else None


def _suggest(name: str, known: Iterable[str]) -> str:
    match = nearest_name(name, known)
    return f" (did you mean '{match}'?)" if match else ""


def _known_files() -> list[str]:
    return [str(p.relative_to(CONFIGS.parent)) for p in sorted(CONFIGS.rglob("*.yaml"))]


def _add_file(layered: ConfigLayers, path: Path, ancestors: tuple[Path, ...]) -> None:
    path = path.resolve()
    if path in ancestors:
        raise InputError(f"{path}: extends itself through {' -> '.join(p.name for p in ancestors)}")
    values, locations = _read(path)
    layered.files.append(_display_path(path))
    values = dict(values)
    parents = values.pop("extends", [])
    parents = [parents] if isinstance(parents, str) else parents
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise InputError(f"{locations[('extends',)]}: extends: one file name or a list of them")
    for parent in parents:
        parent_path = find_resource(path.parent / parent)
        if parent_path is None:
            raise InputError(
                f"{_display_path(path)}: extends '{parent}', which does not exist; the path is relative to the file"
            )
        _add_file(layered, parent_path, (*ancestors, path))
    layered.add(values, locations)


def _read(path: Path) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    """Values and places of a file, parsed once as long as it does not change: a grid reads the same few many times."""
    try:
        stat = path.stat()
    except OSError as error:
        raise InputError(f"{_display_path(path)}: cannot be read ({error.strerror})") from error
    return _parsed(path, Path.cwd(), stat.st_mtime_ns, stat.st_size)


@cache
def _parsed(path: Path, working_dir: Path, mtime: int, size: int) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        values = loader.construct_document(node) if node else None
    except OSError as error:
        raise InputError(f"{_display_path(path)}: cannot be read ({error.strerror})") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"{_display_path(path)}:{line}: not valid YAML: {error.problem}") from error
    except (UnicodeDecodeError, yaml.reader.ReaderError) as error:
        raise InputError(f"{_display_path(path)}: not a text file; a configuration is YAML in UTF-8") from error
    if values is None:
        return {}, {}
    if not isinstance(values, dict):
        raise InputError(
            f"{_display_path(path)}:1: a configuration is a mapping of keys, found {type(values).__name__}"
        )
    locations: dict[KeyPath, str] = {}
    try:
        _record_locations(node, _display_path(path), (), locations)
    except RecursionError as error:
        raise InputError(
            f"{_display_path(path)}: an alias (*name) stands inside what it names; write the value out"
        ) from error
    return _expand(values), locations


def _record_locations(node: yaml.Node | None, file: str, at: KeyPath, locations: dict[KeyPath, str]) -> None:
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


def _parse_override(text: str) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise InputError(f"{text}: an override has the form key.sub=value")
    path = tuple(key.split("."))
    try:
        nested: Any = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise InputError(f"{text}: the value is not valid YAML") from error
    for part in reversed(path):
        nested = {part: nested}
    return _expand(nested), {path: f"override {text}"}


def _expand(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: {SHORT_FORMS[key]: value} if key in SHORT_FORMS and isinstance(value, str) else value
        for key, value in values.items()
    }


def _merge(base: dict[str, Any], update: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in update.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _error_message(config_type: type[BaseModel], layered: ConfigLayers, error: ValidationError) -> str:
    errors = error.errors()
    details = next((candidate for candidate in errors if candidate["type"] == "extra_forbidden"), errors[0])
    path = tuple(str(part) for part in details["loc"])
    message = _message(config_type, path, details)
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{_location_prefix(layered, path)}{'.'.join(path) or 'configuration'}: {message}{more}"


def _message(config_type: type[BaseModel], path: KeyPath, details: ErrorDetails) -> str:
    if details["type"] == "extra_forbidden":
        return f"unknown key{_suggest(path[-1], _keys_at(config_type, path[:-1]))}"
    if details["type"] == "missing":
        return "required, but not set"
    return details["msg"].removeprefix("Value error, ")


def _location_prefix(layered: ConfigLayers, path: KeyPath) -> str:
    for length in range(len(path), 0, -1):
        if path[:length] in layered.locations:
            return f"{layered.locations[path[:length]]}: "
    return f"{', '.join(layered.files)}: " if layered.files else ""


def _keys_at(annotation: Any, path: KeyPath) -> list[str]:
    """Valid keys of the configuration class that ``path`` leads to."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not path:
            return list(annotation.model_fields)
        known = annotation.model_fields.get(path[0])
        return _keys_at(known.annotation, path[1:]) if known else []
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return [key for argument in arguments for key in _keys_at(argument, path)]
    if origin in (dict, list, tuple) and path:
        return _keys_at(arguments[1] if origin is dict else arguments[0], path[1:])
    return []


def _display_path(path: Path) -> str:
    """The path relative to here where that is shorter to read."""
    working_dir = Path.cwd()
    return str(path.relative_to(working_dir)) if path.is_relative_to(working_dir) else str(path)
