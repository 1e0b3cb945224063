"""Clips shared between runs: the same bits as alone, whatever happens to the others."""

import fcntl
import os
import resource
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_jepa.config.data import AugmentationConfig, ClipConfig, DataConfig, SourceConfig
from hpc_jepa.data import clip_ring, shared_clips
from hpc_jepa.data import loader as module
from hpc_jepa.data.clip_ring import ClipFacts, ClipRing, remove_dead_rings
from hpc_jepa.data.images import is_image
from hpc_jepa.data.loader import ClipLoader
from hpc_jepa.data.shared_clips import SharedClips
from hpc_jepa.errors import UndecodableError

CPU = torch.device("cpu")
SIZE = 3 * clip_ring.PAGE + 20
FACTS = ClipFacts(static=False, real=4)
HOLDER = Path(__file__).with_name("hold_clip.py")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder of its own in place of /dev/shm."""
    path = tmp_path / "shm"
    path.mkdir()
    monkeypatch.setattr(clip_ring, "FOLDER", path)
    monkeypatch.setattr(shared_clips, "FOLDER", path)
    return path


@contextmanager
def rings(count=1, name="test", slots=4, size=SIZE):
    with ExitStack() as stack:
        opened = [ClipRing(name, slots, size) for _ in range(count)]
        for ring in opened:
            stack.callback(ring.close)
        yield opened


def clip(value, size=SIZE):
    return np.random.default_rng(value).integers(0, 256, size, dtype=np.uint8)


def taken(ring, item, size=SIZE):
    out = np.empty(size, np.uint8)
    facts = ring.take(item, out)
    return None if facts is None else (facts, out.tobytes())


def test_a_clip_is_taken_as_it_was_put_and_only_as_itself():
    with rings(2) as (one, other):
        assert taken(other, 5) is None
        one.put(5, clip(1), ClipFacts(static=True, real=2))
        assert taken(other, 5) == (ClipFacts(True, 2), clip(1).tobytes())
        assert taken(other, 1) is None  # the same slot
        assert taken(other, 5, SIZE - 1) is None
        one.put(9, clip(2), FACTS)
        assert taken(other, 5) is None
        assert taken(other, 9) == (FACTS, clip(2).tobytes())


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_torn_clip_is_taken(data):
    """Parts of another clip, or of its header, over a whole one, as a killed or late writer leaves them."""
    with rings() as (ring,):
        size = os.fstat(ring._descriptor).st_size
        ring.put(1, clip(1), FACTS)
        whole = os.pread(ring._descriptor, ring.size, 0)
        os.ftruncate(ring._descriptor, size)
        ring.put(5, clip(2), FACTS)
        other = os.pread(ring._descriptor, ring.size, 0)
        os.pwrite(ring._descriptor, whole, 0)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), min_size=2, max_size=6)))
        for start, stop in zip(cuts[::2], cuts[1::2], strict=False):
            os.pwrite(ring._descriptor, other[start:stop], start)
        assert taken(ring, 1) in (None, (FACTS, clip(1).tobytes()))
        assert taken(ring, 5) in (None, (FACTS, clip(2).tobytes()))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, SIZE - 1), st.integers(1, 255))
def test_every_changed_byte_is_noticed(position, change):
    content = clip(3)
    before = clip_ring.checksum(content)
    content[position] ^= change
    assert clip_ring.checksum(content) != before


def test_pages_that_change_places_are_noticed():
    content = clip(3)
    swapped = content.copy()
    page = clip_ring.PAGE
    swapped[:page], swapped[page : 2 * page] = content[page : 2 * page], content[:page]
    assert clip_ring.checksum(swapped) != clip_ring.checksum(content)


def test_one_process_makes_a_clip_at_a_time():
    with rings(2) as (one, other):
        assert one.claim(3)
        assert not other.claim(3)
        assert other.claim(7)  # the same slot
        one.release(3)
        assert other.claim(3)


def test_the_file_is_private_bounded_and_removed_by_the_last(folder):
    with rings(2) as (one, other):
        (path,) = folder.iterdir()
        assert path.name == f"hpc_jepa-{os.getuid()}-test.ring"
        assert path.stat().st_mode & 0o777 == 0o600
        for item in range(100):
            one.put(item, clip(item), FACTS)
        assert path.stat().st_size <= one.size
        one.close()
        assert path.exists()
        other.close()
        assert not path.exists()


@pytest.fixture
def holder(folder):
    """``holder(item)``: another process that has half written a clip, and its claim."""
    started = []

    def start(item, name="test", slots=4, size=SIZE):
        command = [sys.executable, str(HOLDER), str(folder), name, *map(str, (slots, size, item))]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "half\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_process_killed_while_it_writes_leaves_nothing_that_is_taken_or_waited_for(folder, holder):
    with rings() as (ring,):
        ring.put(1, clip(1), FACTS)
        process = holder(5)
        assert not ring.claim(5)
        assert ring.is_announced(range(5, 6))
        assert taken(ring, 1) is taken(ring, 5) is None
        ring.put(5, clip(2), FACTS)  # its slot is being written
        assert taken(ring, 5) is None
        process.kill()
        process.wait()
        assert taken(ring, 5) is None
        assert ring.claim(5)
        assert not ring.is_announced(range(5, 6))
        ring.put(5, clip(2), FACTS)
        assert taken(ring, 5) == (FACTS, clip(2).tobytes())


def test_the_next_start_removes_what_killed_processes_left_and_nothing_else(folder, holder):
    dead, alive = holder(1, "dead"), holder(1, "alive")
    dead.kill()
    dead.wait()
    foreign = folder / f"hpc_jepa-{os.getuid()}-foreign.ring"
    foreign.symlink_to(folder / "elsewhere")
    assert len(list(folder.iterdir())) == 3
    remove_dead_rings()
    assert {path.name.split("-")[2] for path in folder.iterdir()} == {"alive.ring", "foreign.ring"}
    assert alive.poll() is None


@pytest.mark.parametrize("kind", ["readable by others", "a link", "a folder", "of another user"])
def test_a_file_that_is_not_a_private_one_is_not_used(folder, kind):
    path = folder / f"hpc_jepa-{os.getuid()}-test.ring"
    if kind == "of another user":
        path.touch(0o600)
        try:
            os.chown(path, os.getuid() + 1, -1)
        except PermissionError:
            pytest.skip("only root can give a file to another user")
    elif kind == "a link":
        path.symlink_to(folder / "elsewhere")
    elif kind == "a folder":
        path.mkdir()
    else:
        path.touch()
        path.chmod(0o644)
        with path.open() as held:  # in use, so not removed
            fcntl.flock(held, fcntl.LOCK_SH)
            with pytest.raises(OSError, match="test"):
                ClipRing("test", 4, SIZE)
        return
    with pytest.raises(OSError, match="test"):
        ClipRing("test", 4, SIZE)
    remove_dead_rings()
    assert os.path.lexists(path)


def test_users_have_rings_of_their_own(folder, monkeypatch):
    with rings() as (mine,):
        monkeypatch.setattr(os, "getuid", lambda: 12345)
        monkeypatch.setattr(os, "fstat", lambda descriptor: owned_by(12345, descriptor))
        with rings() as (other,):
            assert len(list(folder.iterdir())) == 2
            mine.announce(range(4))
            assert not other.is_announced(range(4))
            mine.put(1, clip(1), FACTS)
            assert taken(other, 1) is None


def owned_by(user, descriptor, fstat=os.fstat):
    found = list(fstat(descriptor))
    found[4] = user
    return os.stat_result(found)


def test_a_start_beside_a_process_that_stands_still_while_it_removes_the_ring_shares_nothing(folder, mixture):
    waiting = loader(mixture)
    (path,) = folder.iterdir()
    waiting.close()
    with path.open("w") as held:
        path.chmod(0o600)
        fcntl.flock(held, fcntl.LOCK_EX)
        each = loader(mixture)
        each.batch(0)
        assert each.shared_clips is None
        each.close()
    again = loader(mixture)
    assert again._shared is not None
    again.close()


class Rows:
    """Four rows of a process, made from the number of their clip; counts what it makes."""

    def __init__(self, ring, batch=4, rows=range(4), size=SIZE):
        self.sharing = SharedClips(ring, batch, rows, 2)
        self.clips = [np.zeros(size, np.uint8) for _ in rows]
        self.made = []
        self.during = lambda items: None
        self._first, self._batch, self._size = rows.start, batch, size

    def fill(self, step):
        def make(indices):
            self.during([self.item(step, index) for index in indices])
            for index in indices:
                self.clips[index][:] = clip(self.item(step, index), self._size)
            self.made += [self.item(step, index) for index in indices]
            return dict.fromkeys(indices, FACTS)

        assert self.sharing.begin(step)
        self.sharing.fill(step, self.clips, make)
        return all(
            np.array_equal(pixels, clip(self.item(step, index), self._size)) for index, pixels in enumerate(self.clips)
        )

    def item(self, step, index):
        return step * self._batch + self._first + index


def test_each_clip_is_made_by_one_of_those_that_want_it():
    with rings(3, slots=32) as opened:
        processes = [Rows(ring) for ring in opened]
        for process in processes:
            process.sharing.begin(0)
        with ThreadPoolExecutor(3) as threads:
            right = list(threads.map(lambda process: [process.fill(step) for step in range(6)], processes))
        assert right == [[True] * 6] * 3
        assert sum(process.sharing.taken for process in processes) + sum(len(p.made) for p in processes) == 72
        assert len({item for process in processes for item in process.made}) == 24


def test_a_process_that_goes_on_to_its_next_step_is_company_all_the_time(monkeypatch):
    with rings(2) as (ring, other):
        ring.announce(range(4))
        seen, change = [], clip_ring._set_lock

        def watched(*arguments):
            change(*arguments)
            seen.append(other.is_announced(range(8)))

        monkeypatch.setattr(clip_ring, "_set_lock", watched)
        ring.announce(range(4, 8))
        ring.announce(range(4, 8))
        assert len(seen) == 2 and all(seen)
        assert not other.is_announced(range(4))


def test_only_those_who_want_the_same_rows_about_now_are_company():
    with rings(3, slots=32) as (mine, sibling, other):
        me = SharedClips(mine, 8, range(4), 1)
        SharedClips(sibling, 8, range(4, 8), 1).begin(10)
        assert not me.begin(10)  # another process of the same run
        run = SharedClips(other, 8, range(8), 1)
        run.begin(1010)
        assert not me.begin(10)
        run.begin(13)
        assert me.begin(10)
        run.begin(14)  # beyond what the ring holds
        assert not me.begin(10)
        run.begin(9)
        assert me.begin(10)
        other.close()
        assert not me.begin(10)


def test_a_stopped_process_delays_the_others_by_a_bounded_wait(holder, monkeypatch):
    monkeypatch.setattr(shared_clips, "FIRST_PATIENCE", 0.2)
    with rings(1, slots=32) as (ring,):
        process = holder(5, slots=32)
        process.send_signal(signal.SIGSTOP)
        rows = Rows(ring)
        assert rows.fill(1)
        assert sorted(rows.made) == [4, 5, 6, 7]
        process.send_signal(signal.SIGCONT)


def test_the_wait_follows_the_time_that_clips_take(monkeypatch):
    with rings() as (ring,):
        sharing = SharedClips(ring, 4, range(4), 1)
        assert sharing._patience == shared_clips.FIRST_PATIENCE
        sharing._durations.extend([0.4, 1.0])
        assert sharing._patience == pytest.approx(3.0)
        sharing._durations.extend([1e-6] * 16)
        assert sharing._patience == shared_clips.LEAST_PATIENCE
        sharing._durations.append(1e6)
        assert sharing._patience == shared_clips.MOST_PATIENCE


@contextmanager
def file_size_limit(size):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def small_memory(folder):
    """A file system of some pages in place of /dev/shm."""
    if os.getuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(folder)]).returncode:
        pytest.skip("needs the right to mount a file system")
    yield
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_file_system_costs_nothing_but_decoding(small_memory, caplog, monkeypatch):
    monkeypatch.setattr(SharedClips, "_check_space", lambda self: None)  # it was free when the process began
    with rings(2, slots=32) as opened:
        processes = [Rows(ring) for ring in opened]
        for process in processes:
            process.sharing.begin(0)
        with ThreadPoolExecutor(2) as threads:
            right = list(threads.map(lambda process: [process.fill(step) for step in range(4)], processes))
        assert right == [[True] * 4] * 2
        assert 1 <= len(caplog.records) <= 2
        assert not all(process.sharing._writes for process in processes)


def test_a_process_that_cannot_write_makes_its_clips_and_still_takes_those_of_others(caplog):
    with rings(2, slots=32) as (ring, other):
        rows, rich = Rows(ring), Rows(other)
        other.announce(range(4, 8))
        with file_size_limit(3 * clip_ring.PAGE):
            assert rows.fill(1)
        assert sorted(rows.made) == [4, 5, 6, 7]
        assert len(caplog.records) == 1
        ring.announce(range(8, 12))
        assert rich.fill(2)
        assert rows.fill(2)
        assert len(rows.made) == 4
        claimed = []
        rows.during = lambda items: claimed.extend(item for item in items if not other.claim(item))
        rich.sharing.begin(3)
        assert rows.fill(3)  # it claims nothing, since others would wait for it in vain
        assert len(rows.made) == 8
        assert not claimed


@pytest.mark.parametrize(("size", "memory"), [(1 << 45, 1 << 60), (SIZE, 1 << 15)])
def test_too_little_space_is_named_once_and_nothing_is_written(caplog, monkeypatch, size, memory):
    """In the file system, or in the memory that is left to the job."""
    monkeypatch.setattr(shared_clips, "free_memory", lambda: memory)
    with rings(2, slots=8, size=size) as (ring, other):
        sharing = SharedClips(ring, 4, range(4), 1)
        other.announce(range(0, 4))
        assert sharing.begin(0)
        assert sharing.begin(0)
        assert not sharing._writes
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "GiB" in caplog.text and "share_limit" in caplog.text


def test_a_file_system_without_these_locks_is_an_error_of_the_start(folder, monkeypatch, mixture):
    def refuse(descriptor, kind, start, length):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(clip_ring, "_set_lock", refuse)
    each = loader(mixture)
    each.batch(0)
    assert each.shared_clips is None
    assert not list(folder.iterdir())
    each.close()


@pytest.fixture
def mixture(shards):
    sources = {name: SourceConfig(shards=shards / name) for name in ("train", "unlabelled")}
    return DataConfig(
        sources=sources,
        clip=ClipConfig(frames=4, stride=2, size=16),
        augmentation=AugmentationConfig(vertical_flip=0.5),
    )


def loader(data, rank=0, world_size=1, share=True, **options):
    options = {"seed": 3, "device": CPU, "batch_size": 8, "shared": share, **options}
    return ClipLoader(data, rank=rank, world_size=world_size, **options)


def fields(batch):
    real = batch.static if batch.real_frames is None else batch.real_frames
    return batch.pixels, batch.samples, batch.sources, batch.static, real


def run_together(loaders, steps):
    """Batches of all steps of each loader, each in a thread of its own."""
    for each in loaders:
        each._shared.begin(steps[0])

    def run(each):
        return [fields(each.batch(step)) for step in steps]

    with ThreadPoolExecutor(len(loaders)) as threads:
        return list(threads.map(run, loaders))


SETTINGS = {
    "mixture": {},
    "passes": {"sampling": "passes"},
    "padding": {"padding": "ignore", "clip": ClipConfig(frames=8, stride=4, size=16)},
    "four threads": {"decode_threads": 4},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_shared_batches_are_those_of_a_lone_run(mixture, name):
    data = mixture.model_copy(update=SETTINGS[name])
    alone = loader(data, share=False)
    steps = range(3, 8)
    expected = [fields(alone.batch(step)) for step in steps]
    together = [loader(data) for _ in range(3)]
    for batches in run_together(together, steps):
        for batch, wanted in zip(batches, expected, strict=True):
            assert all(torch.equal(*pair) for pair in zip(batch, wanted, strict=True))
    assert sum(each.shared_clips for each in together) > 0
    for each in (alone, *together):
        each.close()


def test_runs_of_different_numbers_of_processes_share(mixture):
    alone = loader(mixture, share=False)
    halves = [loader(mixture, rank=rank, world_size=2) for rank in range(2)]
    whole = loader(mixture)
    steps = range(4)
    *parts, batches = run_together([*halves, whole], steps)
    for step, first, second, batch in zip(steps, *parts, batches, strict=True):
        expected = fields(alone.batch(step))
        assert all(torch.equal(*pair) for pair in zip(batch, expected, strict=True))
        assert all(torch.equal(torch.cat(pair), wanted) for *pair, wanted in zip(first, second, expected, strict=True))
    assert sum(each.shared_clips for each in (*halves, whole)) > 0
    for each in (alone, *halves, whole):
        each.close()


def test_a_lone_run_writes_nothing(mixture, folder):
    alone = loader(mixture)
    for step in range(3):
        alone.batch(step)
    assert alone.shared_clips is None
    assert sum(path.stat().st_size for path in folder.iterdir()) == 0
    alone.close()
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    "change",
    [
        {"clip": ClipConfig(frames=4, stride=2, size=24)},
        {"clip": ClipConfig(frames=4, stride=3, size=16)},
        {"augmentation": AugmentationConfig(horizontal_flip=0.1)},
        {"sampling": "passes"},
        {"seed": 4},
        {"batch_size": 16},
        {"accumulation": 2, "same_randomness": True},
        {"sources": "one"},
    ],
)
def test_runs_with_other_clips_have_another_ring(mixture, folder, change):
    options = {key: change[key] for key in change if key in ("seed", "batch_size", "accumulation", "same_randomness")}
    update = {key: value for key, value in change.items() if key not in options}
    if update.get("sources") == "one":
        update["sources"] = {"train": mixture.sources["train"]}
    one, other = loader(mixture), loader(mixture.model_copy(update=update), **options)
    assert len(list(folder.iterdir())) == 2
    one.close()
    other.close()


def test_runs_of_other_code_have_another_ring(mixture, folder, monkeypatch):
    assert all((Path(shared_clips.__file__).parents[1] / part).exists() for part in shared_clips.CODE)
    one = loader(mixture)
    monkeypatch.setattr(shared_clips, "source_hash", lambda *parts: "edited")
    other = loader(mixture)
    assert len(list(folder.iterdir())) == 2
    one.close()
    other.close()


def test_what_does_not_decide_the_clips_does_not_keep_runs_apart(mixture, folder):
    reading = mixture.reading.model_copy(update={"threads": 3, "prefetch_steps": 0})
    renamed = {f"my-{name}": source for name, source in mixture.sources.items()}
    other = mixture.model_copy(update={"reading": reading, "decode_threads": 2, "sources": renamed})
    opened = [loader(mixture), loader(other)]
    assert len(list(folder.iterdir())) == 1
    for each in opened:
        each.close()


def test_a_run_that_shares_nothing_removes_what_killed_ones_left(mixture, folder, holder):
    killed = holder(1, "dead")
    killed.kill()
    killed.wait()
    assert len(list(folder.iterdir())) == 1
    loader(mixture.model_copy(update={"reading": mixture.reading.model_copy(update={"share": "off"})})).close()
    assert not list(folder.iterdir())


@pytest.mark.parametrize("reading", [{"share": "off"}, {"share_limit": 1e-6}])
def test_sharing_can_be_switched_off_or_have_too_little_room(mixture, folder, reading):
    data = mixture.model_copy(update={"reading": mixture.reading.model_copy(update=reading)})
    each = loader(data)
    each.batch(0)
    assert each.shared_clips is None
    assert not list(folder.iterdir())
    each.close()


def test_samples_that_do_not_decode_are_logged_by_each_run(mixture, monkeypatch):
    decode = module.decode_clip

    def spoilt(video, plan):
        if not is_image(video.data) and len(video.data) % 5 == 0:
            raise UndecodableError("is spoilt")
        return decode(video, plan)

    monkeypatch.setattr(module, "decode_clip", spoilt)
    data = mixture.model_copy(update={"undecodable_rate": 1.0})
    alone = loader(data, share=False)
    expected = [fields(alone.batch(step)) for step in range(4)]
    assert sum(alone.decode_errors.values()) > 0
    together = [loader(data) for _ in range(2)]
    for batches in run_together(together, range(4)):
        for batch, wanted in zip(batches, expected, strict=True):
            assert all(torch.equal(*pair) for pair in zip(batch, wanted, strict=True))
    assert all(each.decode_errors == alone.decode_errors for each in together)
    for each in (alone, *together):
        each.close()
