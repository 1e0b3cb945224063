"""Renamed configuration keys: the old key still works, and one warning names the new key.

A renamed key keeps its meaning and its place in the tree. To rename one, add it here; fingerprints of version 1
(``config/fingerprint.py``) translate back through the same table.
"""

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

from hpc_jepa.errors import InputError

LOG = logging.getLogger(__name__)

RENAMED_KEYS = {
    "data.reading.ahead": "prefetch_steps",
    "optimizer.clip_gradient": "grad_clip",
    "guard.skips_in_a_row": "max_consecutive_skips",
    "at_once": "max_concurrent_jobs",
    "warning": "signal_seconds",
    "protocols.careful": "standard",
}
"""Old dotted key -> new last part of it."""

KeyPath = tuple[str, ...]


def rename_keys(
    values: dict[Any, Any], at: KeyPath = (), on_rename: Callable[[KeyPath, KeyPath], None] = lambda old, new: None
) -> dict[Any, Any]:
    """A copy of ``values`` with new keys for old ones; ``on_rename`` is called with both paths of each.

    Raises InputError if an old key and its new name are both set.
    """
    renamed: dict[Any, Any] = {}
    for key, value in values.items():
        path = (*at, str(key))
        dotted = ".".join(path)
        new = RENAMED_KEYS.get(dotted, key)
        if isinstance(value, dict):
            value = rename_keys(value, path, on_rename)
        if dotted in RENAMED_KEYS:
            if new in values:
                raise InputError(f"{'.'.join(path)}: the old name of {new}, which is set too; remove one of them")
            on_rename(path, (*at, new))
        renamed[new] = value
    return renamed


def old_keys(values: dict[str, Any], at: KeyPath = ()) -> dict[str, Any]:
    """The reverse of ``rename_keys``: ``values`` with the keys of version 0.1."""
    before = {(*old.split(".")[:-1], new): old.split(".")[-1] for old, new in RENAMED_KEYS.items()}
    return {
        before.get((*at, key), key): old_keys(value, (*at, key)) if isinstance(value, dict) else value
        for key, value in values.items()
    }


@cache
def warn_once(location: str, old: str, new: str) -> None:
    """Log that a key has a new name, once per place and process."""
    LOG.warning("%s: %s is now called %s; the old name still works", location, old, new)
