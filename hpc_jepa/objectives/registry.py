"""Find objectives by name: every module of this package that defines one is known, nothing needs to be listed."""

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from functools import cache
from types import ModuleType
from typing import Any

from pydantic import ValidationError

import hpc_jepa.objectives as package
from hpc_jepa.config.loading import merge_files, nearest_name
from hpc_jepa.config.run import ObjectiveChoice, RunConfig
from hpc_jepa.config.strict import Strict
from hpc_jepa.errors import InputError
from hpc_jepa.io.resources import list_resources
from hpc_jepa.objectives.objective import Objective


@cache
def primitives() -> Mapping[str, type[Objective[Any]]]:
    """All primitive objectives by name, found in the modules of this package."""
    modules = [
        importlib.import_module(f"{package.__name__}.{info.name}") for info in pkgutil.iter_modules(package.__path__)
    ]
    found = [objective for module in modules for objective in _objectives_of(module)]
    return {objective.name: objective for objective in sorted(found, key=lambda objective: objective.name)}


def resolve_choices(name: str) -> tuple[ObjectiveChoice, ...]:
    """Primitives that a name stands for: a composition of ``configs/objective/`` or a primitive itself.

    Raises InputError naming the nearest known name.
    """
    compositions = list_resources("configs/objective")
    if name in compositions:
        return parse_choices(merge_files([compositions[name]]).values["objectives"])
    if name in primitives():
        return (ObjectiveChoice(name=name),)
    raise InputError(_unknown(name, [*primitives(), *compositions]))


def parse_choices(listed: Sequence[Any]) -> tuple[ObjectiveChoice, ...]:
    """Choices from a listing in a configuration: ``[fwm, {ld: {hidden: 128}}]``."""
    return tuple(ObjectiveChoice.model_validate(choice) for choice in RunConfig.short_forms(listed))


def parse_options(choices: Sequence[ObjectiveChoice]) -> dict[str, Strict]:
    """Typed options of each chosen primitive, in the order chosen.

    Raises InputError for an unknown objective or option, naming the nearest valid one.
    """
    options: dict[str, Strict] = {}
    for choice in choices:
        if choice.name not in primitives() or choice.name == "base":
            raise InputError(f"objectives: {_unknown(choice.name, primitives())}")
        options_type = primitives()[choice.name].options_type
        try:
            options[choice.name] = options_type.model_validate(choice.options)
        except ValidationError as error:
            raise InputError(_bad_option(choice.name, options_type, error)) from error
    return options


def validate_objectives(config: RunConfig) -> None:
    """Raise InputError when the objectives of a run are unknown, misconfigured or cannot work in its setting."""
    for name, options in parse_options(config.objectives).items():
        reason = primitives()[name].validate_run(options, config)
        if reason is not None:
            raise InputError(f"objectives.{name}: {reason}")


def _objectives_of(module: ModuleType) -> list[type[Objective[Any]]]:
    return [
        item
        for item in vars(module).values()
        if isinstance(item, type)
        and issubclass(item, Objective)
        and item.__module__ == module.__name__
        and "name" in vars(item)
    ]


def _unknown(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    match = nearest_name(name, known)
    return f"unknown objective '{name}'" + (f" (did you mean '{match}'?)" if match else "")


def _bad_option(name: str, options_type: type[Strict], error: ValidationError) -> str:
    details = error.errors()[0]
    key = ".".join(str(part) for part in details["loc"])
    if details["type"] == "extra_forbidden":
        match = nearest_name(key, options_type.model_fields)
        return f"objectives.{name}.{key}: unknown option" + (f" (did you mean '{match}'?)" if match else "")
    return f"objectives.{name}.{key}: {details['msg']}"
