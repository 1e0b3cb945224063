"""What a study asks: a text, or a text with outcome and contrast, checked against its variants and evaluations."""

import pytest
import yaml

from hpc_jepa.config.loading import dump_config, read_config
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.errors import InputError
from hpc_jepa.study.grid import expand_study

STUDY = {
    "study": "asked",
    "regimes": ["quickstart"],
    "variants": [
        "baseline",
        "ld",
        "fwm_ld",
        "ltc",
        {"objective": "fwm_hw_ld", "semantics": "published"},
        {"objective": "hw", "overrides": ["schedule.lr=1e-4"]},
    ],
    "evaluations": [{"benchmark": "motion8"}, {"benchmark": "ssv2"}],
}
GROUPS = {"groups": {"factorised": ["fwm_ld"], "plain": ["baseline", "ld"]}}
FACTORS = {"factors": {"f": [["baseline", "ltc"], ["fwm_ld", "ld"]], "c": [["baseline", "fwm_ld"], ["ltc", "ld"]]}}


@pytest.fixture
def read(tmp_path):
    def write_and_read(about, **changes):
        file = tmp_path / "study.yaml"
        file.write_text(yaml.safe_dump({**STUDY, "about": about, **changes}, sort_keys=False))
        return read_config(StudyConfig, [file])

    return write_and_read


def asking(contrast, **outcome):
    return {"question": "Why?", "outcome": {"benchmarks": "motion8", **outcome}, "contrast": contrast}


@pytest.mark.parametrize(
    "about",
    ["", "A text.", {"question": "A text."}, asking(GROUPS), asking(FACTORS), asking({**GROUPS, "baseline": True})],
)
def test_every_form_survives_study_yaml(read, tmp_path, about):
    study = read(about)
    assert study.description == (about if isinstance(about, str) else about["question"])
    written = tmp_path / "written.yaml"
    written.write_text(dump_config(study))
    assert read_config(StudyConfig, [written]) == study
    if isinstance(about, str) or len(about) == 1:  # as releases without outcome and contrast wrote it
        assert yaml.safe_load(written.read_text())["about"] == study.description


def test_one_name_may_stand_for_a_list(read):
    assert read(asking(GROUPS)).about.outcome.benchmarks == ("motion8",)


def test_rows_with_semantics_and_settings_are_named_as_in_tables(read):
    names = ["fwm_hw_ld (published)", "hw.lr-0.0001"]
    study = read(asking({"groups": {"some": names, "others": ["baseline"]}}))
    assert study.about.contrast.variants == (*names, "baseline")


def test_the_cells_of_a_design_are_intersections(read):
    cells = read(asking(FACTORS)).about.contrast.cells
    assert cells[False, False] == ("baseline",)
    assert cells[True, False] == ("fwm_ld",)
    assert cells[False, True] == ("ltc",)
    assert cells[True, True] == ("ld",)


FAULTS = {
    "unknown variant": (asking({"groups": {"f": ["fwm_lb"], "n": ["ld"]}}), "about.contrast.groups.f", "fwm_ld"),
    "unknown variant of a factor": (
        asking({"factors": {"f": [["baseline", "lt"], ["ld", "fwm_ld"]], "c": [["baseline", "ld"], ["lt", "fwm_ld"]]}}),
        "about.contrast.factors.f.0",
        "ltc",
    ),
    "in both groups": (asking({"groups": {"f": ["ld"], "n": ["ld"]}}), "about.contrast.groups.n", "remove it"),
    "twice in a group": (asking({"groups": {"f": ["ld", "ld"], "n": ["ltc"]}}), "about.contrast.groups.f", "twice"),
    "empty group": (asking({"groups": {"f": [], "n": ["ld"]}}), "about.contrast.groups.f", "no variant"),
    "one group": (asking({"groups": {"f": ["ld"]}}), "about.contrast.groups", "two"),
    "three factors": (asking({"factors": {n: [["ld"], ["ltc"]] for n in "abc"}}), "about.contrast.factors", "two"),
    "empty cell": (
        asking({"factors": {"f": [["ld"], ["ltc"]], "c": [["ld"], ["ltc"]]}}),
        "about.contrast.factors",
        "with c",
    ),
    "other variants": (
        asking({"factors": {"f": [["ld"], ["ltc"]], "c": [["ld"], ["baseline"]]}}),
        "about.contrast.factors",
        "lacks",
    ),
    "groups and factors": (asking({**GROUPS, **FACTORS}), "about.contrast.factors", "remove one"),
    "nothing": (asking({}), "about.contrast", "groups"),
    "no outcome": ({"contrast": GROUPS}, "about.outcome", "contrast"),
    "no contrast": ({"outcome": {}}, "about.contrast", "outcome"),
    "unknown benchmark": (asking(GROUPS, benchmarks=["diving48"]), "about.outcome.benchmarks", "motion8, ssv2"),
    "a metric of probes": (asking(GROUPS, metric="accuracy"), "about.outcome.metric", "R@1"),
    "a metric of text": (asking(GROUPS, metric="R@1"), "about.outcome.metric", "decides"),
    "a condition of probes": (asking(GROUPS, conditions="5 shots"), "about.outcome.conditions", "remove"),
    "a probe of text": (asking(GROUPS, task="text", probe="linear"), "about.outcome.probe", "remove"),
    "unknown task": (asking(GROUPS, task="probes"), "about.outcome.task", "few_shot"),
    "unknown key": ({**asking(GROUPS), "contrasts": 1}, "about.contrasts", "contrast"),
    "a number": (3, "about", "mapping"),
}


@pytest.mark.parametrize(("about", "key", "word"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named_with_file_line_key_and_remedy(read, tmp_path, about, key, word):
    with pytest.raises(InputError) as refused:
        read(about)
    message = str(refused.value)
    assert message.startswith(f"{tmp_path}/study.yaml:")
    assert f" {key}" in message and word in message and "\n" not in message


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"evaluations": []}, "about.outcome.task"),
        ({"evaluations": [{"benchmark": "motion8", "task": "text"}]}, "about.outcome.task"),
        ({"evaluations": [{"benchmark": "motion8", "weights": ["student"]}]}, "about.outcome"),
        ({"axes": {"schedule.steps": [10, 20]}}, "about.contrast"),
        ({"seeds": [0, 1], "sequential": {"looks": [2]}}, "about.contrast"),
    ],
)
def test_a_contrast_needs_a_study_that_can_answer_it(read, changes, key):
    with pytest.raises(InputError, match=key):
        read(asking(GROUPS), **changes)


@pytest.mark.parametrize(("key", "known"), [("protocol", "standard"), ("probe", "attentive")])
def test_the_outcome_needs_a_protocol_and_a_probe_that_are_evaluated(read, tmp_path, key, known):
    study = read(asking(GROUPS, **{key: {"protocol": "vjepa", "probe": "atentive"}[key]}))
    with pytest.raises(InputError, match=rf"study.yaml:\d+: about\.outcome\.{key}: motion8.*{known}"):
        expand_study(study, tmp_path / "runs")


def test_a_comparison_with_the_baseline_needs_one(read):
    with pytest.raises(InputError, match=r"about\.contrast\.baseline"):
        read(asking({"baseline": True}), variants=["ld", "fwm_ld"])
    assert read(asking({"baseline": True}), variants=["ld", "fwm_ld"], baseline="ld")
