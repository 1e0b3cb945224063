"""Variants of the paper and their descriptions."""

import json

from typer.testing import CliRunner

from hpc_jepa.cli.app import app
from hpc_jepa.objectives.variants import MIXED, UCF101, describe_variant, variant_names


def test_the_paper_has_27_variants_and_the_baseline():
    assert len((MIXED | UCF101) - {"baseline"}) == 27
    assert len(MIXED - {"baseline"}) == 15 and len(UCF101 - {"baseline"}) == 13
    assert set(variant_names()) >= (MIXED | UCF101)


def test_head_parameters_are_counted():
    width, hidden = 3072, 256
    assert describe_variant("ld").head_parameters == width * hidden + hidden + hidden * width + width
    assert describe_variant("fwm_ld").head_parameters == width // 2 * hidden + hidden + hidden * width + width
    assert describe_variant("ac").head_parameters == width * hidden + hidden + hidden * 3 + 3
    assert describe_variant("hamiltonian").head_parameters == (width + 1) * hidden + (hidden + 1) * hidden + hidden + 1
    assert describe_variant("hw").head_parameters == 0


def test_the_json_list_has_every_variant():
    result = CliRunner().invoke(app, ["objectives", "list", "--json"])
    listed = {entry["name"]: entry for entry in json.loads(result.stdout)}
    assert set(listed) == set(variant_names())
    assert listed["combo"]["families"] == "MDR"
    assert listed["kinematic_split"]["options"]["kinematic"]["ratio"] == 0.5
    assert listed["motion_guided"]["published_in"] == ["mixed", "ucf101"]
