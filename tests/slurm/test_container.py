"""A job of the trial cluster that runs in the image of containers/, as the profile `large` does with Apptainer."""

import os
import shutil
from pathlib import Path

import pytest

IMAGE = os.environ.get("HPC_JEPA_IMAGE")


@pytest.fixture
def in_image(tmp_path, monkeypatch):
    """Command that starts the image's Python without privileges; the host's /tmp is visible in it."""
    if IMAGE is None or shutil.which("ch-run") is None:
        pytest.skip("HPC_JEPA_IMAGE does not name an unpacked image, or charliecloud is not installed: "
                    "see containers/trial_image.sh")  # fmt: skip
    monkeypatch.setenv("USER", "root")  # ch-run needs it
    return f"ch-run --cd={tmp_path} {Path(IMAGE).resolve()} -- /opt/hpc_jepa/bin/python3"


@pytest.mark.slow
def test_a_run_in_the_image_equals_one_outside(grid, in_image, uninterrupted, eventually, monkeypatch):
    monkeypatch.setenv("PYTHONNOUSERSITE", "1")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    study = grid("baseline", every=4, python=in_image)
    study.call("submit")
    eventually(study.done)
    assert study.run().metrics() == uninterrupted(4).metrics()
    assert study.run().weights() == uninterrupted(4).weights()
    (script,) = study.folder.rglob("*submission.sh")
    assert in_image in script.read_text()
