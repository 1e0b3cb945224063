import json

import pytest

from hpc_jepa.config import loading
from hpc_jepa.config.run import RunConfig
from hpc_jepa.runs.run_dir import RunDir


def line(step, loss, **more):
    terms = {"prediction": 0.8 * loss, "ld": 0.2 * loss}
    return {"step": step, "time": 1.0, "loss": loss, "gradient_norm": 1.0, "terms": terms, "skipped_steps": 0, **more}


HEALTH = {"target_std": 0.5, "effective_rank": 8.0}
LINES = [line(0, 2.0), line(10, 1.0, health=HEALTH), line(0, 1.5)]


@pytest.fixture
def run(tmp_path) -> RunDir:
    """A run folder with a configuration."""
    settings = {"study": "demo", "regime": "tiny", "variant": "ld", "seed": 3, "runs": str(tmp_path / "runs")}
    config = RunConfig.model_validate({**settings, "data": {"sources": {"s": {"shards": str(tmp_path / "shards")}}}})
    found = RunDir(config.folder)
    found.path.mkdir(parents=True)
    found.config_file.write_text(loading.dump_config(config))
    return found


@pytest.fixture
def logged(run) -> RunDir:
    """The same with metrics; step 0 was logged twice."""
    run.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return run
