"""YAML that people hand over: runs, studies, benchmarks, cluster profiles, and overrides of the command line."""

import itertools
import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from mutations import HOSTILE, cut, damaged_values, fuzz

from hpc_jepa.config.benchmark import BenchmarkConfig
from hpc_jepa.config.cluster import ClusterConfig
from hpc_jepa.config.loading import CONFIGS, read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.yaml_reader import as_value, parse_value
from hpc_jepa.errors import InputError

RUN = {
    "study": "s",
    "regime": "r",
    "seed": 1,
    "model": {"encoder": {"width": 32, "depth": 2, "heads": 2, "patch": 8, "levels": [1, 2]}},
    "data": {"sources": {"s": {"shards": "none"}}, "clip": {"frames": 4, "size": 32}},
    "objectives": ["fwm", {"ld": {"hidden": 8}}],
    "schedule": {"steps": 10},
    "semantics": "published",
}
RESOURCES = {"gpus_per_node": 0, "cpus_per_node": 1, "time": "12:00:00", "nodes": 1}
PROFILE = {
    "about": "a site",
    "partition": ["gpu"],
    "sbatch": {"comment": "x"},
    "train": RESOURCES,
    "evaluate": RESOURCES,
    "setup": ["module load cuda"],
    "environment": {"A": "1"},
    "nccl": {"interface": "ib0"},
}
SHIPPED = {path.stem: path.read_text() for path in sorted((CONFIGS / "benchmark").glob("*.yaml"))}
BENCHMARK = yaml.safe_load(SHIPPED["motion8"])
SNIPPETS = (
    *(
        "&a",
        "*a",
        "<<: *a",
        "- ",
        ": ",
        "? ",
        "|",
        ">",
        "'",
        '"',
        "#",
        "%YAML 9.9",
        "---\n",
        "...\n",
        "\t",
        "{",
        "[",
        "!",
    ),
    *("!!int ''", "!!float ''", "!!bool x", "!!binary x", "!!set {a}", "!!omap [a: 1]", "!!python/object:os.system x"),
    *(
        "!!timestamp x",
        "!!null x",
        "!!map []",
        "!!seq {}",
        "!!str [1]",
        "!!pairs [1]",
        "!!merge x",
        "0o7",
        "0x_",
        "1_0",
        "+.inf",
    ),
    *(
        "extends: ../x\n",
        "extends: [1]\n",
        "extends: .\n",
        "extends: {}\n",
        "\\x00",
        "\u2028",
        "\ufeff",
        "[" * 2000,
        "{a: " * 900,
    ),
    *(
        "a: &a [*a]\n",
        "? [1]\n: 2\n",
        "? {}\n: 2\n",
        "1: 2\n",
        "null: 2\n",
        "~: 1\n",
        ".nan: 1\n",
        "true: 1\n",
        "1e400",
        "010",
    ),
)


@pytest.fixture(scope="module")
def fresh(sandbox):
    numbers = itertools.count()

    def write(content):
        path = sandbox / f"example-{next(numbers)}.yaml"  # parsed files are cached by name
        path.write_bytes(content)
        return path

    yield write
    for path in sandbox.glob("example-*.yaml"):
        path.unlink()


def damaged_yaml(*values):
    """YAML of one of some values: changed values, then snippets at the starts of lines or anywhere, then bytes."""
    snippets = st.lists(
        st.tuples(st.sampled_from(SNIPPETS), st.floats(0, 1, exclude_max=True), st.booleans()), max_size=2
    )
    edited = damaged_values(*values).map(lambda value: json.dumps(value, indent=1))
    plain = damaged_values(*values).map(_dump)
    texts = st.tuples(st.one_of(plain, plain, edited), snippets).map(lambda pair: _insert(*pair))
    cuts = st.lists(
        st.tuples(st.sampled_from(("flip", "cut", "insert")), st.floats(0, 1, exclude_max=True), st.binary(max_size=4)),
        max_size=1,
    )
    return st.tuples(texts, cuts).map(lambda pair: cut(pair[0].encode(errors="surrogatepass"), pair[1]))


def _dump(value):
    try:
        return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    except (ValueError, RecursionError):  # PyYAML cannot write some texts
        return repr(value)


def _insert(text, snippets):
    for snippet, where, at_line in snippets:
        at = int(where * len(text))
        at = text.rfind("\n", 0, at) + 1 if at_line else at
        text = text[:at] + snippet + text[at:]
    return text


@pytest.mark.parametrize(
    ("kind", "value"), [(RunConfig, RUN), (ClusterConfig, PROFILE), (BenchmarkConfig, BENCHMARK)], ids=lambda x: ""
)
def test_valid_files_are_read(kind, value, fresh):
    assert read_config(kind, [fresh(yaml.safe_dump(value).encode())])


@fuzz
@given(content=damaged_yaml(RUN))
def test_run(content, survives, fresh):
    path = fresh(content)
    config = survives(lambda: read_config(RunConfig, [path]), path.stem)
    assert config is None or config.fingerprint()


@fuzz
@given(content=damaged_yaml(PROFILE))
def test_cluster_profile(content, survives, fresh):
    path = fresh(content)
    profile = survives(lambda: read_config(ClusterConfig, [path]), path.stem)
    assert profile is None or profile.train.processes > 0


@fuzz
@given(content=damaged_yaml(BENCHMARK))
def test_benchmark(content, survives, fresh):
    path = fresh(content)
    survives(lambda: read_config(BenchmarkConfig, [path]), path.stem)


@fuzz
@given(text=st.one_of(st.text(max_size=20), st.sampled_from(SNIPPETS), st.sampled_from(HOSTILE).map(str)))
def test_overrides(text, survives, fresh):
    survives(lambda: read_config(RunConfig, [], [f"study={text}"]), "")
    survives(lambda: read_config(RunConfig, [], [f"{text}=1"]), "")
    if "\0" not in text and text.isprintable():
        assert parse_value(as_value(text)) == text


def test_aliases_as_keys_are_refused(fresh):
    bomb = "a: &a0 [x, x]\n" + "".join(f"b{n}: &a{n + 1} [*a{n}, *a{n}]\n" for n in range(60)) + "? *a60\n: 1\n"
    with pytest.raises(InputError, match="example-"):
        read_config(RunConfig, [fresh(bomb.encode())])
