"""Settings in which two runs differ: a sentence may name one as a cause only if it is the only one."""

from collections.abc import Mapping
from typing import Any

from hpc_jepa.config.run import RunConfig
from hpc_jepa.io.flatten import flatten

NAMES = ("study", "regime", "variant", "seed", "ema")
"""Settings that are no cause: names, the seed, which is the block, and ``ema``, whose meaning is ``targets``."""

COMPOSITION = ("objectives", "masking", "targets")
"""What the composition of a variant sets."""

ABSENT = object()

Settings = Mapping[str, Any]
"""By dotted name."""


def differing_settings(first: RunConfig, second: RunConfig) -> tuple[str, ...]:
    """Dotted names of the settings that decide the outcome of a run and differ. The seed and names do not count.

    Objectives are named, ``objectives.hw.weight``; one that only one of both has is ``objectives.hw``. The preset of
    the semantics is a name for its switches, which count one by one.
    """
    return differing_keys(deciding_settings(first), deciding_settings(second))


def deciding_settings(config: RunConfig) -> Settings:
    """Settings that decide the outcome, by dotted name. An objective also has the key ``objectives.<name>.``."""
    values = {key: value for key, value in config.outcome_settings().items() if key not in NAMES}
    values["semantics"] = {key: value for key, value in values["semantics"].items() if key != "preset"}
    values["objectives"] = {choice.name: {"": True, **choice.options} for choice in config.objectives}
    values["targets"] = config.targets
    return flatten(values)


def differing_keys(first: Settings, second: Settings) -> tuple[str, ...]:
    """``differing_settings`` of two ``deciding_settings``."""
    differing = [key for key in {**first, **second} if first.get(key, ABSENT) != second.get(key, ABSENT)]
    lone = {_objective(key) for key in differing if key.endswith(".")}
    named = [f"objectives.{name}" if (name := _objective(key)) in lone else key for key in differing]
    return tuple(dict.fromkeys(named))


def beside_composition(settings: tuple[str, ...]) -> tuple[str, ...]:
    """Those of ``differing_settings`` that the composition of a variant does not set."""
    return tuple(name for name in settings if name.partition(".")[0] not in COMPOSITION)


def _objective(key: str) -> str:
    """The objective that a setting belongs to, empty if none."""
    first, _, rest = key.partition(".")
    return rest.partition(".")[0] if first == "objectives" else ""
