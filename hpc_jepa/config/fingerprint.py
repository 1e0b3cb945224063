"""Fingerprints: hashes by which records and checkpoints recognise a configuration.

A fingerprint hashes the settings that differ from their defaults, so a new optional key changes none. It starts with
its version: ``2-4abf2eae01c3d5f7``. Version 1 (release 0.1, 16 digits without prefix) hashed every setting; it is
recognised if all settings that were added later have their defaults. A change of a default changes the meaning of old
fingerprints: avoid it, or raise VERSION and translate here.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

VERSION = 2


def fingerprint(changed: dict[str, Any]) -> str:
    """Fingerprint of the settings that differ from their defaults."""
    return f"{VERSION}-{_digest(changed)}"


def fingerprint_v1(settings: dict[str, Any], added: Sequence[str], changed: dict[str, Any]) -> list[str]:
    """Fingerprint that release 0.1 gave to all ``settings``, which have the keys of 0.1; none if it could not be.

    added: dotted keys that 0.1 did not have. If one of them is among the ``changed`` settings, there is none.
    """
    if any(_without(changed, key.split(".")) != changed for key in added):
        return []
    for key in added:
        settings = _without(settings, key.split("."))
    return [_digest(settings)]


def _without(settings: dict[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """A copy without the key at ``path``."""
    first, *rest = path
    if rest and isinstance(settings.get(first), dict):
        return {**settings, first: _without(settings[first], rest)}
    return {key: value for key, value in settings.items() if rest or key != first}


def _digest(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
