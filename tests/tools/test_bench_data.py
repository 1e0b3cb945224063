import json
import os
import subprocess
import sys
from pathlib import Path

TOOLS = Path(__file__).parents[2] / "tools"


def test_a_folder_without_files_is_an_input_error(tmp_path):
    command = [sys.executable, TOOLS / "bench_data.py", "--videos", tmp_path]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 2
    assert finished.stderr.startswith(f"error: {tmp_path}: ") and finished.stderr.count("\n") == 1


def test_a_folder_that_is_no_checkout_is_an_input_error(motion_shards, tmp_path):
    from hpc_jepa.data.shards.shard_folder import ShardFolder

    (tmp_path / "0.mp4").write_bytes(ShardFolder(motion_shards / "test").read(0).data)
    command = [sys.executable, TOOLS / "bench_data.py", "--videos", tmp_path, "--peer-checkout", tmp_path]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 2
    assert finished.stderr.splitlines()[-1].startswith("error: ")


def run(tool, *arguments):
    finished = subprocess.run(
        [sys.executable, TOOLS / tool, *map(str, arguments), "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    return json.loads(finished.stdout.splitlines()[0])


def test_all_decoders_are_compared_on_copied_and_transcoded_shards(motion_shards, tmp_path):
    from hpc_jepa.data.shards.shard_folder import ShardFolder

    shards = ShardFolder(motion_shards / "test")
    for index in range(2):
        (tmp_path / f"{index}.mp4").write_bytes(shards.read(index).data)
    result = run("bench_data.py", "--quick", "--videos", tmp_path, "--frames", 4)
    assert result["videos"] == 2
    for mode in ("copy", "transcode"):
        rates = result["clips_per_cpu_second"][mode]
        assert {"hpc_jepa", "codec alone"} <= rates.keys()
        assert all(rate > 0 for rate in rates.values())
        assert result["ours_over"][mode].keys() == rates.keys() - {"hpc_jepa"}


def test_two_checkouts_read_and_check_the_same_files(motion_shards, tmp_path):
    from hpc_jepa.data.shards.shard_folder import ShardFolder

    (tmp_path / "0.mp4").write_bytes(ShardFolder(motion_shards / "test").read(0).data)
    result = run("bench_data.py", "--quick", "--videos", tmp_path, "--frames", 4, "--peer-checkout", TOOLS.parent)
    titles = {"clips, copied", "clips, transcoded", "build, probe", "build, decode"}
    assert result["ours_over_peer"].keys() == result["per_cpu_second"].keys() == titles
    for title in titles:
        assert all(rate > 0 for rate in result["per_cpu_second"][title].values())
        assert 0.1 < result["ours_over_peer"][title] < 10


def test_soak_measures_at_equal_distances(motion_shards):
    result = run("soak_reads.py", motion_shards / "train", "--reads", 640, "--size", 16, "--allowed", 100)
    assert [sample["reads"] for sample in result["samples"]] == list(range(32, 641, 32))
    assert result["files_opened"] == 0
