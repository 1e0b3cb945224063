"""YAML files that people hand over: each is read as written or refused in one line."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc_jepa.config.cluster import find_profile
from hpc_jepa.config.loading import read_config
from hpc_jepa.config.run import load_config
from hpc_jepa.config.study import MAX_CELLS, StudyConfig
from hpc_jepa.config.yaml_reader import MAX_BYTES, as_value, parse_value, read_yaml
from hpc_jepa.errors import InputError
from hpc_jepa.study.grid import expand_study

RUN = "regime: r\ndata: {sources: {a: {shards: x}}}\n"


@pytest.fixture
def refused(tmp_path):
    """``refused(TEXT)`` is the message of the error that reading the text as a file raises."""

    def read(text):
        path = tmp_path / "file.yaml"
        path.write_text(text)
        with pytest.raises(InputError) as raised:
            read_yaml(path)
        message = str(raised.value)
        assert str(path) in message and "\n" not in message and len(message) < 500
        return message

    return read


def test_a_file_that_explodes_is_refused(refused):
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 20)]
    refused("\n".join(["a0: &a0 [x]", *levels]))
    assert ":1:" in refused("x: " + "[" * 5000 + "]" * 5000)
    refused("x: &x {y: *x}")
    refused("x: " + "1" * 10_000)
    refused("x: " + "y" * MAX_BYTES)


def test_an_override_that_explodes_is_refused():
    levels = ", ".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 20))
    for value in ("{a0: &a0 [x], " + levels + "}", "[" * 5000 + "]" * 5000, "&x {y: *x}", "1" * 10_000):
        with pytest.raises(InputError) as raised:
            load_config(overrides=[f"guard={value}"])
        assert "guard=" in str(raised.value) and len(str(raised.value)) < 1500
        assert parse_value(as_value(value)) == value


def test_a_null_character_is_refused(refused):
    assert ":2:" in refused('a: 1\nextends: "other\\0.yaml"\n')


def test_a_key_that_is_set_twice_is_refused_with_both_lines(refused):
    message = refused("schedule: {lr: 0.1}\nseed: 1\nschedule: {warmup: 0.5}\n")
    assert ":3:" in message and "line 1" in message


@pytest.mark.parametrize("path", ["/dev/zero", ".", "missing.yaml", "nul\0.yaml"])
def test_what_is_not_a_file_is_refused(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError):
        load_config(path)


@pytest.mark.parametrize("text", ["010", "-007", "[1, 00]"])
def test_a_number_with_a_leading_zero_is_refused(refused, text):
    assert ":2:" in refused(f"a: 1\nseed: {text}")


def test_numbers_and_texts_are_what_they_look_like():
    assert parse_value("12:00:00") == "12:00:00" and parse_value("1:30.5") == "1:30.5"
    assert parse_value("2026-01-31") == "2026-01-31"
    assert [parse_value(text) for text in ("0", "-10", "0x10", "1.5", "'010'")] == [0, -10, 16, 1.5, "010"]


@pytest.mark.parametrize(("time", "minutes"), [("12:00:00", 720), ("1-0:30", 1470), ("90", 90)])
def test_a_time_limit_needs_no_quotes(tmp_path, time, minutes):
    job = f"{{cpus_per_node: 1, time: {time}}}"
    (tmp_path / "site.yaml").write_text(f"partition: main\ntrain: {job}\nevaluate: {job}\n")
    assert find_profile(str(tmp_path / "site.yaml")).cluster.train.time == minutes


@pytest.mark.parametrize(
    "setting",
    ["seed: true", "schedule: {steps: false}", "optimizer: {betas: [true, 0.9]}", "engine: {zero_stage: yes}"],
)
def test_true_and_false_are_not_numbers(tmp_path, setting):
    (tmp_path / "run.yaml").write_text(f"{RUN}{setting}\n")
    with pytest.raises(InputError, match=r"run\.yaml:3: "):
        load_config(tmp_path / "run.yaml")


@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"], exclude_characters="\x85\u2028\u2029\ufeff"))
)
def test_a_text_is_quoted_where_yaml_would_read_something_else(text):
    assert parse_value(as_value(text)) == text


@pytest.fixture
def write_study(tmp_path, monkeypatch):
    """``write_study(TEXT)`` is a study of one variant and two seeds with further settings."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trial.yaml").write_text(RUN.replace("regime: r", "regime: trial"))

    def write(more=""):
        text = f"study: s\nregimes: [trial.yaml]\nvariants: [baseline]\nseeds: [1, 2]\n{more}"
        (tmp_path / "study.yaml").write_text(text)
        return read_config(StudyConfig, ["study.yaml"])

    return write


@pytest.mark.parametrize("override", ["seed=3", "study=x", "regime=x", "variant=x", "runs=x"])
def test_a_study_refuses_overrides_of_what_keeps_its_cells_apart(write_study, override):
    with pytest.raises(InputError, match=r"study\.yaml:5: overrides"):
        write_study(f"overrides: [{override}]\n")


def test_a_study_of_too_many_runs_is_refused(tmp_path):
    seeds = list(range(MAX_CELLS // 2 + 1))
    (tmp_path / "study.yaml").write_text(f"study: s\nregimes: [x]\nvariants: [a, b]\nseeds: {seeds}\n")
    with pytest.raises(InputError, match=r"study\.yaml.*10,002 runs"):
        read_config(StudyConfig, [tmp_path / "study.yaml"])


@pytest.mark.parametrize("runs", ["a #1", "2026-01-31", "~", "12:00:00", "null", "it's", " x ", "1e3", "a: b", "[x]"])
def test_the_root_folder_of_a_study_is_taken_literally(write_study, tmp_path, runs):
    cells = expand_study(write_study(), tmp_path / runs)
    assert {cell.folder.parents[3] for cell in cells} == {tmp_path / runs}
    relative = expand_study(write_study(), type(tmp_path)(runs))
    again = load_config(*relative[0].arguments[:2], overrides=relative[0].arguments[2:])
    assert os.fspath(again.runs) == os.fspath(type(tmp_path)(runs))
