"""Sweeps of a study: names and overrides of the cells that differ in settings, unique, readable and stable.

A name depends on the settings of its own cell alone, so further values, variants and seeds rename no folder.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import yaml

LONGEST_VALUE = 24
"""Characters of a value in a name; of a longer one, or of one with other characters, a hash tells it apart."""
LONGEST_NAME = 120
"""Characters of the settings in a name; longer ones become a hash."""
DOCUMENT_END = ("\n", "\n...")
OTHER = re.compile(r"[^\w.-]+", re.ASCII)
DOTTED = re.compile(r"\w[\w-]*(\.\w[\w-]*)*")
"""A dotted key."""


def sweep_points(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of values, by dotted key; one empty combination without axes."""
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def settings_name(base: str, settings: Mapping[str, Any]) -> str:
    """``base`` followed by the settings, sorted by key: ``baseline.ema_start-0.99.lr-0.001``."""
    if not settings:
        return base
    short = _short_names(settings)
    named = ".".join(f"{short[key]}-{value_name(value)}" for key, value in sorted(settings.items()))
    if len(named) > LONGEST_NAME:
        named = f"settings-{_digest(dict(sorted(settings.items())), 12)}"
    return f"{base}.{named}"


def value_name(value: Any) -> str:
    """A value in a name: numbers in their shortest form, so that ``1e-4`` and ``0.0001`` are one."""
    value = canonical(value)
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    plain = OTHER.sub("_", text).strip("_")[:LONGEST_VALUE]
    return plain if plain == text else f"{plain}-{_digest(value, 6)}".lstrip("-")


def canonical(value: Any) -> Any:
    """The value with every number that YAML reads as a text (``1e-4``), or as an integer, as the number it is."""
    if isinstance(value, dict):
        return {str(key): canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    if isinstance(value, bool) or value is None:
        return value
    try:
        number = float(value)
    except (OverflowError, ValueError):
        return value
    return int(number) if number.is_integer() and abs(number) < 1e15 else number


def override_key(override: str) -> str:
    """The dotted key of ``key.sub=value``."""
    return override.partition("=")[0].strip()


def override_text(key: str, value: Any) -> str:
    """``key=value`` as an override that reads back to the value."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**9)
    return f"{key}={text.removesuffix(DOCUMENT_END[0]).removesuffix(DOCUMENT_END[1])}"


def _short_names(keys: Iterable[str]) -> dict[str, str]:
    """The shortest last parts of dotted keys that tell them apart."""
    parts = {key: key.split(".") for key in keys}
    names: dict[str, str] = {}
    for key, own in parts.items():
        others = [other for name, other in parts.items() if name != key]
        count = next((n for n in range(1, len(own)) if not any(o[-n:] == own[-n:] for o in others)), len(own))
        names[key] = OTHER.sub("_", "_".join(own[-count:]))
    return names


def _digest(value: Any, length: int) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:length]
