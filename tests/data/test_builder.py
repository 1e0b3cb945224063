"""Builds that are killed, crash, fill the disk or resume: identical shards, or a one-line error."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from hpc_jepa.data.encode import encode
from hpc_jepa.data.shards import worker_pool
from hpc_jepa.data.shards.builder import build_shards, make_recipe
from hpc_jepa.data.shards.shard_folder import ShardFolder
from hpc_jepa.data.sources.source import EncodedFile, RawFrames, Sample, SampleOrigin, SettingValue
from hpc_jepa.errors import DataError, InputError

BUILD = """
import sys
from pathlib import Path
from hpc_jepa.data.shards.builder import build_shards, make_recipe
from hpc_jepa.data.sources.motion8 import Motion8
source = Motion8("train", 0, int(sys.argv[1]), 32, 8)
recipe = make_recipe(source, 4).model_copy(update={"shuffle_seed": 3})
if __name__ == "__main__":
    build_shards(source, Path(sys.argv[2]), recipe, int(sys.argv[3]), lambda samples: None)
"""


def start(*words, **options):
    command = [sys.executable, "-c", BUILD, *map(str, words)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def journal_lines(out):
    journal = out / ".killed.partial" / "journal.jsonl"
    return journal.read_text().count("\n") if journal.exists() else 0


def test_a_build_killed_ten_times_gives_identical_shards(tmp_path):
    instants = random.Random(0)
    for kill in range(10):
        process = start(200, tmp_path / "killed", 4 if kill % 2 else 1)
        enough = journal_lines(tmp_path) + instants.randrange(4)
        while journal_lines(tmp_path) < enough and process.poll() is None:
            time.sleep(0.005)
        time.sleep(instants.uniform(0, 0.1))
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed").exists() and journal_lines(tmp_path) > 5
    for name, workers in {"killed": 4, "whole": 1}.items():
        assert start(200, tmp_path / name, workers).wait() == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "whole"]


@dataclass(frozen=True)
class Dangerous:
    """Clips of which some crash the process that touches them, or keep it busy."""

    clip: bytes
    harm: Mapping[int, str]
    notes: Path

    dataset = "dangerous"
    split = "train"
    classes: tuple[str, ...] = ()
    settings: Mapping[str, SettingValue] = ()

    def __len__(self) -> int:
        return 12

    def origin(self, index: int) -> SampleOrigin:
        return SampleOrigin(f"clip-{index:02d}", f"{index}.mp4")

    def load(self, index: int) -> Sample:
        harm = self.harm.get(index)
        first = not (self.notes / str(index)).exists()
        (self.notes / str(index)).touch()
        if harm == "once" and first:
            os.kill(os.getpid(), signal.SIGKILL)
        elif harm == "hang":
            signal.alarm(1)
            signal.pause()
        elif harm and harm != "once":
            os.kill(os.getpid(), getattr(signal, harm))
        return Sample(EncodedFile(self.clip))


def ledger(folder):
    return {line["key"]: line["reason"] for line in map(json.loads, (folder / "ledger.jsonl").read_text().splitlines())}


@pytest.mark.parametrize("workers", [1, 3])
def test_a_crashing_or_hanging_sample_is_dropped(noise, tmp_path, workers):
    harm = {1: "SIGSEGV", 2: "once", 5: "hang", 6: "SIGABRT", 9: "SIGKILL"}
    source = Dangerous(encode(noise(4), 10), harm, tmp_path)
    done = []
    build_shards(
        source, tmp_path / "train", make_recipe(source, 4).model_copy(update={"settings": {}}), workers, done.append
    )
    assert sum(done) == 12
    assert ledger(tmp_path / "train") == {
        "clip-01": worker_pool._exit_reason(-signal.SIGSEGV),
        "clip-05": worker_pool._exit_reason(-signal.SIGALRM),
        "clip-06": worker_pool._exit_reason(-signal.SIGABRT),
        "clip-09": worker_pool._exit_reason(-signal.SIGKILL),
    }
    assert len(ShardFolder(tmp_path / "train")) == 8


def test_too_many_unreadable_samples_stop_the_build(listed, noise, tmp_path):
    source = listed((RawFrames(noise(4), 10), *[EncodedFile(b"text")] * 60))
    recipe = make_recipe(source, 5)
    with pytest.raises(DataError, match=r"5\d of 5\d .* --allowed-drops 0\.05; .*\.train\.partial/ledger\.jsonl"):
        build_shards(source, tmp_path / "train", recipe, 0, lambda samples: None)
    assert len((tmp_path / ".train.partial" / "ledger.jsonl").read_text().splitlines()) > 50
    manifest = build_shards(source, tmp_path / "train", recipe, 0, lambda samples: None, allowed_drops=1)
    assert (manifest.samples, manifest.dropped) == (1, 60)


def limit_files():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))


FULL = """
import sys
import numpy as np
from pathlib import Path
from dataclasses import dataclass
from hpc_jepa.data.shards.builder import build_shards, make_recipe
from hpc_jepa.data.sources.motion8 import Motion8
from hpc_jepa.errors import InputError
source = Motion8("train", 0, 80, 32, 8)
if __name__ == "__main__":
    try:
        recipe = make_recipe(source, int(sys.argv[2]))
        build_shards(source, Path(sys.argv[1]), recipe, int(sys.argv[3]), lambda samples: None)
    except InputError as error:
        print(error)
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_a_full_disk_stops_the_build(tmp_path, workers):
    words = [sys.executable, "-c", FULL, str(tmp_path / "train"), "60", str(workers)]
    told = subprocess.run(words, preexec_fn=limit_files, capture_output=True, text=True, check=True).stdout
    assert str(tmp_path / ".train.partial") in told and "GiB free" in told and "of 80 samples" in told
    assert not (tmp_path / "train").exists()
    subprocess.run(words, check=True)
    assert len(ShardFolder(tmp_path / "train")) == 80


def test_shuffling_and_shard_size_do_not_change_samples(listed, noise, tmp_path):
    source = listed(tuple(RawFrames(noise(2, seed=index), 10) for index in range(40)))
    plain = make_recipe(source, 40)
    one = plain.model_copy(update={"shuffle_seed": 1, "samples_per_shard": 7})
    small = one.model_copy(update={"shard_size": 8_000})
    folders = {}
    for name, recipe in {"plain": plain, "one": one, "small": small}.items():
        build_shards(source, tmp_path / name, recipe, 0, lambda samples: None)
        folders[name] = ShardFolder(tmp_path / name)
    keys = {name: [folder.key(index) for index in range(len(folder))] for name, folder in folders.items()}
    assert keys["plain"] == sorted(keys["plain"]) != keys["one"]
    assert sorted(keys["one"]) == keys["plain"]
    assert keys["small"] == keys["one"]
    assert [shard.samples for shard in folders["one"].manifest.shards] == [7, 7, 7, 7, 7, 5]
    sizes = [shard.size for shard in folders["small"].manifest.shards]
    assert len(sizes) > 6 and max(sizes) <= 20_480
    videos = {name: {k: folder.read(i).data for i, k in enumerate(keys[name])} for name, folder in folders.items()}
    assert videos["plain"] == videos["one"] == videos["small"]


def test_a_torn_journal_line_and_a_damaged_tar_are_rebuilt(tmp_path):
    process = start(40, tmp_path / "train", 1)
    journal = tmp_path / ".train.partial" / "journal.jsonl"
    while not journal.exists() or journal.read_text().count("\n") < 5:
        time.sleep(0.01)
    process.kill()
    process.wait()
    lines = journal.read_text().splitlines()[:5]
    journal.write_text("\n".join([*lines[:4], lines[4][:30]]))
    (tmp_path / ".train.partial" / "000001.tar").write_bytes(b"lost")
    assert start(40, tmp_path / "train", 1).wait() == 0
    assert start(40, tmp_path / "whole", 0).wait() == 0
    assert contents(tmp_path / "train") == contents(tmp_path / "whole")


def test_an_unexpected_exception_drops_its_sample(listed, noise, tmp_path):
    odd_width = RawFrames(np.zeros((4, 32, 33, 3), np.uint8), 10)
    source = listed((odd_width, RawFrames(noise(4), 10)))
    build_shards(source, tmp_path / "train", make_recipe(source, 4), 1, lambda samples: None)
    assert ledger(tmp_path / "train") == {"item-000": worker_pool._exit_reason(1)}


def test_an_unwritable_folder_is_an_input_error(listed, noise):
    source = listed((RawFrames(noise(4), 10),))
    with pytest.raises(InputError):
        build_shards(source, Path("/proc/nowhere/train"), make_recipe(source, 4), 0, lambda samples: None)
