"""Registry of objectives: every class with a name in a module of this package is found; no list to maintain."""

import importlib
import pkgutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from hpc_jepa.config.loading import did_you_mean, merge_files, nearest_or_all
from hpc_jepa.config.run import ObjectiveChoice, RunConfig
from hpc_jepa.config.strict import Locations, Strict
from hpc_jepa.errors import InputError
from hpc_jepa.io.resources import list_resources
from hpc_jepa.objectives.objective import Objective


@cache
def primitives() -> Mapping[str, type[Objective[Any]]]:
    """All primitive objectives by name, found in the modules of this package."""
    package = sys.modules[__name__.rpartition(".")[0]]  # an import of it would be circular: it exports from here
    modules = [
        importlib.import_module(f"{package.__name__}.{info.name}") for info in pkgutil.iter_modules(package.__path__)
    ]
    classes = [objective for module in modules for objective in _objectives_of(module)]
    return {objective.name: objective for objective in sorted(classes, key=lambda objective: objective.name)}


def resolve_choices(name: str) -> tuple[ObjectiveChoice, ...]:
    """Primitives of a composition of ``configs/objective/``, or the primitive of that name.

    Raises InputError with the nearest known name.
    """
    compositions = list_resources("configs/objective")
    if name in compositions:
        listed = merge_files([compositions[name]]).values["objectives"]
        return tuple(ObjectiveChoice.model_validate(choice) for choice in listed)
    if name in primitives():
        return (ObjectiveChoice(name=name),)
    raise InputError(_unknown(name, [*primitives(), *compositions]))


def parse_options(choices: Sequence[ObjectiveChoice], locations: Locations | None = None) -> dict[str, Strict]:
    """Typed options of each chosen primitive, in the order chosen.

    Raises InputError for an unknown objective or a wrong option, with its location and the nearest valid name.
    """
    locations = Locations() if locations is None else locations
    options: dict[str, Strict] = {}
    for index, choice in enumerate(choices):
        path = ("objectives", str(index))
        if choice.name not in primitives() or choice.name == "base":
            raise InputError(f"{locations.prefix(path)}objectives: {_unknown(choice.name, primitives())}")
        options_type = primitives()[choice.name].options_type
        try:
            options[choice.name] = options_type.model_validate(choice.options)
        except ValidationError as error:
            form = choice.name if (*path, choice.name) in locations else "options"
            key, message = _option_error(choice.name, options_type, error)
            raise InputError(f"{locations.prefix((*path, form, *key))}{message}") from error
    return options


def validate_objectives(config: RunConfig) -> None:
    """Raise InputError, with file and line, if an objective of a run is unknown, misconfigured or cannot work in it."""
    for index, (name, options) in enumerate(parse_options(config.objectives, config.locations).items()):
        try:
            primitives()[name].validate_run(options, config)
        except ValueError as error:
            prefix = config.locations.prefix(("objectives", str(index)))
            raise InputError(f"{prefix}objectives.{name}: {error}") from error


def _objectives_of(module: ModuleType) -> list[type[Objective[Any]]]:
    return [
        item
        for item in vars(module).values()
        if isinstance(item, type)
        and issubclass(item, Objective)
        and item.__module__ == module.__name__
        and "name" in vars(item)
    ]


def _unknown(name: str, known: Iterable[str]) -> str:
    return f"unknown objective '{name}'{did_you_mean(name, known)}"


def _option_error(name: str, options_type: type[Strict], error: ValidationError) -> tuple[tuple[str, ...], str]:
    """Path of the first wrong option below its objective, and the message."""
    details = error.errors()[0]
    path = tuple(str(part) for part in details["loc"])
    key = f"objectives.{name}.{'.'.join(path)}"
    if details["type"] == "extra_forbidden":
        return path, f"{key}: unknown option{nearest_or_all(path[-1], options_type.model_fields)}"
    return path, f"{key}: {details['msg']}"
