"""Manifests, indices, tars, predictions and checkpoint manifests that people hand over."""

import hashlib
import io
import json
import os
import shutil
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mutations import HUGE, cut, damaged_bytes, damaged_json, damaged_values, fuzz

from hpc_jepa.checkpoint import layout
from hpc_jepa.checkpoint.inspect import list_checkpoints
from hpc_jepa.checkpoint.reader import TensorReader, read_encoder
from hpc_jepa.cli.checkpoint import _cells
from hpc_jepa.data.shards.index import index_path, read_index, scan_tar
from hpc_jepa.data.shards.shard_folder import ShardFolder
from hpc_jepa.errors import DataError, HpcJepaError, UndecodableError
from hpc_jepa.evaluation.record import read_predictions
from hpc_jepa.runs.run_dir import RunDir

GOLDEN = Path(__file__).parents[1] / "golden"
INFO = {
    "frames": 4,
    "fps": 25.0,
    "width": 8,
    "height": 8,
    "codec": "h264",
    "label": 1,
    "class_name": "c",
    "text": "t",
    "cluster": "v",
}


def small_tar(infos):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number, info in enumerate(infos):
            for extension, content in (("json", info), ("mp4", b"video" * 9)):
                member = tarfile.TarInfo(f"c/{number}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


TAR = small_tar([json.dumps(INFO).encode()] * 3)
PAX = io.BytesIO()
with tarfile.open(fileobj=PAX, mode="w", format=tarfile.PAX_FORMAT) as archive:
    long = tarfile.TarInfo("c/" + "long" * 60 + ".mp4")
    long.size, long.pax_headers = 5, {"comment": "x", "size": "5"}
    archive.addfile(long, io.BytesIO(b"video"))


@pytest.fixture(scope="module")
def folder(motion_shards, tmp_path_factory):
    """A copy of a shard folder with small tars."""
    copy = tmp_path_factory.mktemp("shards") / "train"
    shutil.copytree(motion_shards / "train", copy)
    return copy


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A copy of a run with a checkpoint of the current format."""
    run = tmp_path_factory.mktemp("golden") / "run"
    shutil.copytree(GOLDEN / "checkpoint_format_3", run, symlinks=True)
    return RunDir(run)


def use(shards):
    """Read metadata and video of the first samples; like its callers, name the sample that is damaged."""
    for index in range(min(len(shards), 3)):
        try:
            shards.info(index)
            shards.read(index)
        except UndecodableError as error:
            raise DataError(f"{shards.tar(index)}: {shards.key(index)} {error}") from error
        shards.excerpt(index)


@pytest.fixture(scope="module")
def open_folder(folder):
    def run():
        shards = ShardFolder(folder)
        try:
            use(shards)
        finally:
            shards.close()

    return run


@fuzz
@given(data=st.data())
def test_manifest_of_a_shard_folder(data, survives, folder, open_folder):
    sound = folder.with_name("manifest.sound")
    if not sound.exists():
        shutil.copy(folder / "manifest.json", sound)
    content = data.draw(damaged_json(json.loads(sound.read_bytes())))
    (folder / "manifest.json").write_bytes(content)
    survives(open_folder, folder.name)
    shutil.copy(sound, folder / "manifest.json")


NUMBERS = st.sampled_from(
    (*map(str, HUGE), "9" * 5000, "-5", "1.5", "nan", "0x1", "\u0663", "", "a b", "\x00", "../x", "mp4")
)


@fuzz
@given(
    changes=st.lists(st.tuples(st.integers(0, 10**6), NUMBERS), max_size=4),
    cuts=st.booleans(),
    where=st.floats(0, 0.99),
)
def test_index(changes, cuts, where, survives, folder, open_folder):
    path = index_path(next(iter(sorted(folder.glob("*.tar")))))
    sound = folder.with_name("index.sound")
    if not sound.exists():
        shutil.copy(path, sound)
    words = sound.read_text().replace("\n", " \n ").split(" ")
    for number, word in changes:
        words[number % len(words)] = word
    content = " ".join(words).replace(" \n ", "\n").encode()
    path.write_bytes(cut(content, [("flip", where, b"\xff")]) if cuts else content)
    survives(lambda: read_index(path), path.name)
    survives(open_folder, folder.name)
    shutil.copy(sound, path)


@fuzz
@example(content=PAX.getvalue(), size=2**31, member=0)
@given(content=damaged_bytes(TAR, TAR, PAX.getvalue()), size=st.sampled_from((None, *HUGE)), member=st.integers(0, 5))
def test_tar(content, size, member, survives, sandbox):
    if size is not None:  # a size in the headers, with the checksum of the header
        at = 1024 * (member % max(len(content) // 1024, 1))
        header = bytearray(content[at : at + 512].ljust(512, b"\0"))
        header[124:136] = b"\x80" + (size % 2**88).to_bytes(11, "big") if size >= 0 else b"\xff" * 12
        header[148:156] = b" " * 8
        header[148:156] = f"{sum(header):06o}\0 ".encode()
        content = content[:at] + bytes(header) + content[at + 512 :]
    path = sandbox / "shard.tar"
    path.write_bytes(content)
    survives(lambda: scan_tar(path), path.name)


@fuzz
@given(info=damaged_json(INFO))
def test_metadata_of_samples(info, survives):
    survives(lambda: ShardFolder._parse(SimpleNamespace(), info), "metadata")


ARRAYS = {"labels": np.arange(4), "samples": np.arange(4), "target.knn": np.zeros((2, 4), dtype=np.int64)}


def npz(arrays):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def header_of(shape):
    """An NPY file that states a shape without its data."""
    text = repr({"descr": "<i8", "fortran_order": False, "shape": shape}).ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


STRANGE = (
    *(
        np.array([object()], dtype=object),
        np.array(["a"]),
        np.array(1),
        np.zeros(0),
        np.zeros((2, 2, 2)),
        np.array([np.nan]),
    ),
    *(
        np.array([2**63], dtype=np.uint64),
        np.array([1 + 1j]),
        np.zeros(3, dtype="M8[s]"),
        np.zeros(2, dtype=[("a", "i4")]),
    ),
)
SHAPES = ((10**13,), (-1,), (2**63,), (0, 10**12), (), ("a",), (4,), (10**9, 10**9), (True,))


@fuzz
@given(
    name=st.sampled_from(("labels", "samples", "target.knn", "other", "../x", "")),
    array=st.integers(0, len(STRANGE) - 1),
    shape=st.none() | st.sampled_from(SHAPES),
    content=st.none() | damaged_bytes(npz(ARRAYS)),
)
def test_predictions(name, array, shape, content, survives, sandbox):
    if content is None:
        content = npz({**ARRAYS, name: STRANGE[array]})
    elif shape is not None:
        buffer = io.BytesIO(npz(ARRAYS))
        with zipfile.ZipFile(buffer, "a") as archive:
            archive.writestr(f"{name}1.npy", header_of(shape))
        content = buffer.getvalue()
    path = sandbox / "record.json"
    path.with_suffix(".npz").write_bytes(content)
    record = SimpleNamespace(predictions=hashlib.sha256(content).hexdigest())
    survives(lambda: read_predictions(path, record), "record.npz")


def signed(content):
    """A manifest with a valid checksum."""
    if isinstance(content, dict) and "checksum" in content:
        content["checksum"] = layout.CHECKSUM_PLACEHOLDER
    text = json.dumps(content, indent=1)
    return text.replace(layout.CHECKSUM_PLACEHOLDER, hashlib.sha256(text.encode()).hexdigest()).encode()


MANIFESTS = [
    json.loads(next((GOLDEN / name / "checkpoints").glob("step-*/manifest.json")).read_bytes())
    for name in ("checkpoint_format_2", "checkpoint_format_3")
]


@fuzz
@given(content=st.one_of(*[damaged_values(*MANIFESTS).map(signed)] * 4, damaged_bytes(signed(dict(MANIFESTS[1])))))
def test_manifest_of_a_checkpoint(content, survives, checkpoint):
    folder = checkpoint.checkpoint_dirs()[-1]
    (folder / "manifest.json").write_bytes(content)
    found = survives(lambda: layout.open_checkpoint(folder), folder.name)
    if found is None:
        return
    tensors = survives(lambda: TensorReader(found), folder.name)
    for name in list(tensors or ())[:3]:
        survives(lambda name=name: tensors[name], folder.name)
    survives(lambda: found.config, folder.name)


@fuzz
@given(content=damaged_values(MANIFESTS[1]).map(signed))
def test_listing_of_checkpoints(content, survives, checkpoint):
    folder = checkpoint.checkpoint_dirs()[-1]
    (folder / "manifest.json").write_bytes(content)
    for entry in survives(lambda: list_checkpoints(checkpoint.path), folder.name) or ():
        assert isinstance(_cells(entry), list)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir])
def test_a_pipe_or_device_among_the_files(make, survives, tmp_path, motion_shards):
    run, shards = RunDir(tmp_path / "run"), tmp_path / "shards"
    shutil.copytree(GOLDEN / "checkpoint_format_3", run.path, symlinks=True)
    shutil.copytree(motion_shards / "train", shards)
    folder = run.checkpoint_dirs()[-1]
    for path in [*folder.iterdir(), *shards.iterdir()]:
        kept = path.read_bytes()
        path.unlink()
        make(path)
        if path.parent == folder:
            survives(lambda: read_encoder(layout.open_checkpoint(folder), "target"), folder.name)
            with pytest.raises(HpcJepaError):
                layout.latest_valid(run.path)
        else:
            survives(lambda: use(ShardFolder(shards)), shards.name)
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        path.write_bytes(kept)
