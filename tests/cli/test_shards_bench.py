"""``hpc-jepa shards bench``."""

import json

import pytest
import torch
from typer.testing import CliRunner

from hpc_jepa.cli.app import app

call = CliRunner().invoke
SMALL = ("--frames", "4", "--size", "16", "--batches", "2", "--threads", "1")


def test_every_decoder_is_timed_by_stage(motion_shards):
    result = call(app, ["shards", "bench", str(motion_shards / "train"), *SMALL, "--json", "--clips-per-gpu", "50"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["clips_per_gpu"] == 50
    names = [decoder["decoder"] for decoder in found["decoders"]]
    assert names[0] == "PyAV"
    assert ("DALI on the GPU" in names) == torch.cuda.is_available()
    if len(names) == 1:
        assert found["settings"] == {"decoder": "cpu", "decode_threads": 1}
    for decoder in found["decoders"]:
        assert decoder["clips_per_second"] > 0
        assert decoder["gpus_fed"] == pytest.approx(decoder["clips_per_second"] / 50)
        assert decoder["read"] + (decoder["decode"] or 0) + decoder["augment"] == pytest.approx(1)


def test_the_last_line_has_gpus_fed_and_the_assumption(motion_shards):
    result = call(app, ["shards", "bench", str(motion_shards / "train"), *SMALL])
    assert result.exit_code == 0, result.output
    assert "--clips-per-gpu" in result.stdout.splitlines()[-1]


def test_a_folder_without_shards_is_a_data_error(tmp_path):
    result = call(app, ["shards", "bench", str(tmp_path)])
    assert result.exit_code == 3
