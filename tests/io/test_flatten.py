from hpc_jepa.io.flatten import flatten


def test_leaves_have_joined_keys():
    values = {"a": {"b": 1, "c": {"d": [2]}}, "e": None, "f": {}}
    assert flatten(values) == {"a.b": 1, "a.c.d": [2], "e": None}
    assert flatten(values, "/") == {"a/b": 1, "a/c/d": [2], "e": None}
