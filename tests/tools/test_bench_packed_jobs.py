"""The study that packed jobs are measured with; the jobs themselves are tested in tests/slurm/test_packing.py."""

import bench_packed_jobs
import pytest

from hpc_jepa.config.cluster import find_profile
from hpc_jepa.config.loading import read_config
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.study.grid import expand_study
from hpc_jepa.study.packing import pooled_trainings


@pytest.mark.parametrize(("cells", "per_job"), [(36, 4), (8, 2), (6, 3)])
def test_one_cell_is_broken_and_the_others_share_seeds(cells, per_job, tmp_path, monkeypatch):
    bench_packed_jobs.write_study(tmp_path / "side", cells, per_job, pause=1.0)
    monkeypatch.chdir(tmp_path / "side")
    expanded = expand_study(read_config(StudyConfig, [tmp_path / "side/grid.yaml"]), tmp_path / "runs")
    assert len(expanded) == cells
    assert [cell.config.variant for cell in expanded].count("broken") == 1
    assert len({task.group for task in pooled_trainings(expanded)}) == -(-cells // 3)
    site = find_profile("profile.yaml").cluster
    assert site.train.cells_per_job == per_job and site.packs == (per_job > 1)
