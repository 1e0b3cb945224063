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


def fingerprint_v1(settings: dict[str, Any], added: Sequence[str], changed: dict[str, Any]) -> str | None:
    """Fingerprint that release 0.1 gave to all ``settings``, keyed as they were then.

    added: dotted keys that 0.1 did not have. None if one of them is among the ``changed``.
    """
    if any(_pop(json.loads(json.dumps(changed)), key) for key in added):
        return None
    settings = json.loads(json.dumps(settings))
    for key in added:
        _pop(settings, key)
    return _digest(settings)


def _pop(settings: dict[str, Any], key: str) -> bool:
    """Remove a dotted key; whether it was there."""
    *parents, last = key.split(".")
    for parent in parents:
        settings = settings.get(parent) or {}
    return settings.pop(last, _ABSENT) is not _ABSENT


_ABSENT = object()


def _digest(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
