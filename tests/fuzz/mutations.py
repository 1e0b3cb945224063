"""Damaged and hostile variants of valid files: bytes, JSON values, YAML text."""

import copy
import json
import os

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "300"))

fuzz = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)

HUGE = (10**9, 2**31, 2**63, 10**30, 10**400, -1, -(2**63) - 1, 0, 1)
FLOATS = (float("nan"), float("inf"), float("-inf"), 1e308, -1e308, 5e-324, -0.0, 1.5, 1e30)
TEXTS = (
    *(
        "",
        " ",
        "0",
        "-1",
        "nan",
        "true",
        "é" * 300,
        "x" * 70_000,
        "\x00",
        "a\x00b",
        "\x1b[2J",
        "\u202e",
        "\ud800",
        "\n",
    ),
    *(
        "..",
        "../x",
        "/",
        "/etc/passwd",
        "/dev/zero",
        "=1+1",
        "[v2]",
        "x[/y]",
        "<script>",
        "{{7*7}}",
        "$(id)",
        "-rf",
        "~",
    ),
    *("9" * 30, "9" * 5000, "2026-01-31", "12:00:00", "1e400", "file::memory://", "reference://x", "\uff11"),
)


def deep(depth, leaf=0):
    """Lists nested ``depth`` times."""
    for _ in range(depth):
        leaf = [leaf]
    return leaf


CONTAINERS = ([], {}, [[]], [None], [0] * 3000, {"a": {"a": {"a": []}}}, {"": 0}, deep(50), deep(300), {"x": deep(150)})
HOSTILE = (None, True, False, *HUGE, *FLOATS, *TEXTS, *CONTAINERS)

_hostile = st.sampled_from(range(len(HOSTILE))).map(HOSTILE.__getitem__)
_edits = st.lists(
    st.tuples(
        st.integers(0, 400), st.sampled_from(("set", "set", "set", "delete", "rename", "repeat", "add")), _hostile
    ),
    min_size=1,
    max_size=3,
)
_cuts = st.lists(
    st.tuples(
        st.sampled_from(("flip", "cut", "insert", "double")),
        st.floats(0, 1, exclude_max=True),
        st.binary(min_size=1, max_size=8),
    ),
    max_size=3,
)


def _places(value, found):
    """All (container, key) in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in list(items):
        found.append((value, key))
        _places(child, found)
    return found


def _edit(value, number, operation, replacement):
    places = _places(value, [])
    if not places:
        return replacement
    container, key = places[number % len(places)]
    if operation == "set":
        container[key] = copy.deepcopy(replacement)
    elif operation == "delete":
        del container[key]
    elif operation == "repeat" and isinstance(container, list):
        container.extend(container[:3] * 20)
    elif isinstance(container, dict):
        name = replacement if isinstance(replacement, str) else f"{key}x"
        container[name] = container.pop(key) if operation == "rename" else copy.deepcopy(replacement)
    return value


def edited(value, edits):
    """A copy of a JSON value after some edits."""
    value = copy.deepcopy(value)
    for edit in edits:
        value = _edit(value, *edit)
    return value


def cut(content, cuts):
    """Bytes after some cuts: changed, removed, inserted and repeated ones."""
    for kind, where, extra in cuts:
        at = int(where * len(content))
        if kind == "flip":
            content = content[:at] + extra + content[at + len(extra) :]
        elif kind == "cut":
            content = content[:at]
        elif kind == "insert":
            content = content[:at] + extra + content[at:]
        else:
            content = content[at:] + content
    return content


def damaged_values(*values):
    """One of some JSON values, with edits."""
    return st.tuples(st.sampled_from(values), _edits).map(lambda pair: edited(*pair))


def damaged_bytes(*contents):
    """One of some files, with changed bytes."""
    return st.tuples(st.sampled_from(contents), _cuts).map(lambda pair: cut(*pair))


def damaged_json(*values):
    """JSON text of one of some values, with edits, and sometimes changed bytes."""
    texts = damaged_values(*values).map(lambda value: json.dumps(value).encode())
    return st.one_of(texts, texts, st.tuples(texts, _cuts).map(lambda pair: cut(*pair)))
