"""Read configuration: YAML layers, ``extends:``, ``key.sub=value`` overrides. Errors name file, line and key."""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from hpc_jepa.config.phases import QUANTITIES, RAMP_NAMES
from hpc_jepa.config.renamed_keys import rename_keys, warn_once
from hpc_jepa.config.strict import KeyPath, Locations, RootConfig, SettingError
from hpc_jepa.config.yaml_reader import display_path, parse_value, read_yaml
from hpc_jepa.errors import InputError
from hpc_jepa.io.resources import find_resource, list_resources, shipped_dir

Config = TypeVar("Config", bound=BaseModel)

CONFIGS = shipped_dir("configs")
"""The configurations shipped with the package."""

LONGEST_NAME = 100
"""Characters of a key that an error shows."""
LONGEST_LOCATION = 1000

SHORT_FORMS = {"semantics": "preset"}
"""Keys whose value may be a single word instead of a mapping, and the key of the mapping that the word sets."""


@dataclass
class ConfigLayers:
    """Merged values, and where each key was last set."""

    values: dict[str, Any] = field(default_factory=dict)
    locations: Locations = field(default_factory=Locations)
    warn_renamed: bool = True

    def add(self, values: dict[str, Any], locations: Locations) -> None:
        """Put another layer on top: mappings merge, everything else replaces. Old keys get their new names."""
        new_names: dict[KeyPath, KeyPath] = {}
        values = rename_keys(values, on_rename=new_names.__setitem__)
        for old, new in new_names.items():
            if self.warn_renamed:
                warn_once(locations.find(old) or "", ".".join(old), ".".join(new))
        self.values = _merge(_without_replaced(self.values, values), values)
        replaced = set(_leaves(values))
        for path in list(self.locations):
            if any(path[:length] in replaced for length in range(1, len(path))):
                del self.locations[path]
        self.locations.update({new_names.get(path, path): location for path, location in locations.items()})


def find_config(name: str | Path, kind: str | None = None) -> Path:
    """A configuration file by path, or by its name under ``configs/<kind>/``.

    Files in the working directory take precedence over those shipped with the package.
    Raises InputError with the nearest known name.
    """
    path = Path(name)
    if "\0" in str(name):
        raise InputError(f"{str(name)!r}: a null character in a file name")
    if path.suffix in (".yaml", ".yml") or kind is None:
        found = find_resource(path)
        if found is None:
            raise InputError(f"{path}: no such configuration file{_nearest_file(path)}")
        return found
    known = list_resources(f"configs/{kind}")
    if str(name) not in known:
        raise InputError(f"{name}: unknown {kind}{did_you_mean(str(name), known)}; known: {', '.join(known)}")
    return known[str(name)]


def read_config(
    config_type: type[Config], layers: Sequence[str | Path], overrides: Sequence[str] = (), warn_renamed: bool = True
) -> Config:
    """Merge files from left to right, apply ``key.sub=value`` overrides, validate.

    warn_renamed: log a warning for each old key; not for files that an older release wrote.

    Raises InputError in one line: file, line, key, the error, and the nearest valid key.
    """
    merged = merge_files(layers, warn_renamed)
    for override in overrides:
        merged.add(*_parse_override(override))
    try:
        config = config_type.model_validate(merged.values)
    except ValidationError as error:
        raise InputError(_error_message(config_type, merged, error)) from error
    if isinstance(config, RootConfig):
        config.set_locations(merged.locations)
    return config


def merge_files(layers: Sequence[str | Path], warn_renamed: bool = True) -> ConfigLayers:
    """The values of several files with ``extends:`` resolved, the last file on top."""
    merged = ConfigLayers(warn_renamed=warn_renamed)
    for layer in layers:
        _add_file(merged, find_config(layer), ())
    return merged


def dump_config(config: BaseModel) -> str:
    """YAML that ``read_config`` reads back to the same configuration."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``" (did you mean '...'?)"`` with the nearest known name, or an empty string."""
    matches = difflib.get_close_matches(name[:LONGEST_NAME], list(known), n=1, cutoff=0.4)
    return f" (did you mean '{matches[0]}'?)" if matches else ""


def nearest_or_all(name: str, known: Iterable[str]) -> str:
    """The nearest known name as ``did_you_mean`` words it; without one, all known names."""
    names = list(known)
    return did_you_mean(name, names) or (f"; known: {', '.join(names)}" if names else "")


def _nearest_file(path: Path) -> str:
    """The nearest file of the same folder, or all of them; for a folder outside ``configs/`` any shipped file."""
    folder = path.parent
    if folder.parts[:1] == (CONFIGS.name,) and (known := list_resources(str(folder))):
        near = difflib.get_close_matches(path.stem, known, n=1)
        return did_you_mean(str(path), [f"{folder}/{near[0]}.yaml"]) if near else f"; {folder} has {', '.join(known)}"
    shipped = [str(p.relative_to(CONFIGS.parent)) for p in sorted(CONFIGS.rglob("*.yaml"))]
    return did_you_mean(str(path), [*map(str, sorted(folder.glob("*.yaml"))), *shipped])


def _add_file(layers: ConfigLayers, path: Path, ancestors: tuple[Path, ...]) -> None:
    path = path.resolve()
    if path in ancestors:
        raise InputError(f"{path}: extends itself through {' -> '.join(p.name for p in ancestors)}")
    values, locations = read_yaml(path)
    values = _expand(values)
    parents = values.pop("extends", [])
    parents = [parents] if isinstance(parents, str) else parents
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise InputError(f"{locations[('extends',)]}: extends: must be a file name or a list of file names")
    layers.locations.files.append(display_path(path))
    for parent in parents:
        parent_path = find_resource(path.parent / parent)
        if parent_path is None:
            raise InputError(
                f"{display_path(path)}: extends '{parent}', which does not exist; the path is relative to this file"
            )
        _add_file(layers, parent_path, (*ancestors, path))
    layers.add(values, locations)


def _parse_override(text: str) -> tuple[dict[str, Any], Locations]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise InputError(f"{text[:LONGEST_LOCATION]}: an override has the form key.sub=value")
    path = tuple(key.split("."))
    try:
        nested: Any = parse_value(value)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or "a value that is not of its type"
        raise InputError(f"{text[:LONGEST_LOCATION]}: the value cannot be read as YAML: {problem}") from error
    for part in reversed(path):
        nested = {part: nested}
    values, location = _expand(nested), f"override {text}"
    return values, Locations(dict.fromkeys((path, *_leaves(values)), location))


def _expand(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: {SHORT_FORMS[key]: value} if key in SHORT_FORMS and isinstance(value, str) else value
        for key, value in values.items()
    }


def _leaves(values: dict[str, Any], at: KeyPath = ()) -> Iterable[KeyPath]:
    """Paths of all values that are not mappings."""
    for key, value in values.items():
        path = (*at, str(key))
        if isinstance(value, dict):
            yield from _leaves(value, path)
        else:
            yield path


def _merge(base: dict[str, Any], update: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in update.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _without_replaced(base: dict[str, Any], update: dict[str, Any]) -> dict[str, Any]:
    """``base`` without the keys of ``schedule`` that a list of phases in ``update`` replaces."""
    schedule, old = update.get("schedule"), base.get("schedule")
    phases = schedule.get("phases") if isinstance(schedule, dict) else None
    if not isinstance(phases, dict) or not isinstance(old, dict):
        return base
    lists = [name for name in QUANTITIES if phases.get(name) not in (None, *RAMP_NAMES)]
    replaced = {key for name in lists for key in QUANTITIES[name]}
    return {**base, "schedule": {key: value for key, value in old.items() if key not in replaced}}


def _error_message(config_type: type[BaseModel], layers: ConfigLayers, error: ValidationError) -> str:
    errors = _causes(error.errors())
    details = next((candidate for candidate in errors if candidate["type"] == "extra_forbidden"), errors[0])
    path = _key_path(layers.values, details["loc"])
    if isinstance(cause := details.get("ctx", {}).get("error"), SettingError):
        path = (*path, *cause.keys)
    message = _message(config_type, path, details)
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    location = _overrides_named(layers.locations, path, message) or layers.locations.prefix(path)
    key = ".".join(part[:LONGEST_NAME] for part in path) or "configuration"
    return f"{location[:LONGEST_LOCATION]}{key}: {message[:LONGEST_LOCATION]}{more}"


def _causes(errors: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """Errors without those of lists that are too short only because an entry is refused."""
    places = [each["loc"] for each in errors]
    return [
        each
        for each, at in zip(errors, places, strict=True)
        if each["type"] != "too_short" or not any(len(other) > len(at) and other[: len(at)] == at for other in places)
    ]


def _overrides_named(locations: Locations, path: KeyPath, message: str) -> str:
    """Overrides of keys below ``path`` that the message about several keys of a section names; else empty."""
    below = {
        ".".join(key[len(path) :]): location
        for key, location in locations.items()
        if location.startswith("override ") and len(key) > len(path) and key[: len(path)] == path
    }
    named = {key: location for key, location in below.items() if re.search(rf"(?<![\w.]){re.escape(key)}\b", message)}
    return f"{', '.join(dict.fromkeys(named.values()))}: " if named else ""


def _key_path(values: Any, loc: Sequence[int | str]) -> KeyPath:
    """``loc`` of a pydantic error without the tags of unions, which are not keys of the configuration."""
    path = []
    for part in loc:
        is_tag = isinstance(values, dict) and part not in values and part != loc[-1]
        is_tag = is_tag or (isinstance(part, str) and isinstance(values, list | str | int | float))
        if not is_tag:
            path.append(str(part))
            values = _entry(values, part)
    return tuple(path)


def _entry(values: Any, part: int | str) -> Any:
    """What a mapping or a list has at ``part``, None if it has nothing."""
    if isinstance(values, dict):
        return values.get(part)
    is_index = isinstance(values, list) and isinstance(part, int) and part < len(values)
    return values[part] if is_index else None


def _message(config_type: type[BaseModel], path: KeyPath, details: ErrorDetails) -> str:
    if details["type"] == "extra_forbidden":
        same_name = [key for key in _dotted_keys(config_type) if key.split(".")[-1] == path[-1]]
        if 1 <= len(same_name) <= 2:
            return f"unknown key (did you mean {' or '.join(map(repr, same_name))}?)"
        known = _keys_at(config_type, path[:-1])
        if path[-1] in known:
            return "not a key of this kind"
        return f"unknown key{nearest_or_all(path[-1], known)}"
    if details["type"] == "missing":
        return "required, but not set"
    if details["type"] in ("tuple_type", "list_type"):
        return "must be a list: [a, b]"
    if details["type"] in ("dict_type", "model_type"):
        return "must be a mapping: {key: value}"
    if details["type"] == "too_short":
        context = details["ctx"]
        return f"has {context['actual_length']} entries, but needs at least {context['min_length']}"
    return details["msg"].removeprefix("Value error, ")


def _keys_at(annotation: Any, path: KeyPath) -> list[str]:
    """Valid keys of the configuration class at ``path``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not path:
            return list(annotation.model_fields)
        known = annotation.model_fields.get(path[0])
        return _keys_at(known.annotation, path[1:]) if known else []
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _keys_at(arguments[0], path)
    if origin in (Union, UnionType):
        return [key for argument in arguments for key in _keys_at(argument, path)]
    if origin in (dict, list, tuple) and path:
        return _keys_at(arguments[1] if origin is dict else arguments[0], path[1:])
    return []


def _dotted_keys(annotation: Any, at: str = "") -> Iterable[str]:
    """Dotted keys of a configuration class and its sections, without those below names that the user chooses."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, known in annotation.model_fields.items():
            yield f"{at}{name}"
            yield from _dotted_keys(known.annotation, f"{at}{name}.")
