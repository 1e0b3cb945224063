"""Remote shards and the scratch cache."""

import errno
import http.server
import os
import threading
import time
from concurrent.futures import wait
from functools import partial

import fsspec
import psutil
import pytest
import torch

from hpc_jepa.config.data import ClipConfig, DataConfig, ReadingConfig, ShardOrderConfig, SourceConfig
from hpc_jepa.data.loader import ClipLoader
from hpc_jepa.data.shards.shard_folder import ShardFolder
from hpc_jepa.data.sources.source import RawFrames
from hpc_jepa.data.storage import ScratchCache
from hpc_jepa.errors import DataError, InputError


def data(place, **more) -> DataConfig:
    return DataConfig(
        sources={"train": SourceConfig(shards=place)}, clip=ClipConfig(frames=4, stride=2, size=16), **more
    )


def clips(config, steps=4):
    loader = ClipLoader(config, seed=1, batch_size=6, rank=0, world_size=1, device=torch.device("cpu"))
    made = [loader.batch(step).pixels for step in range(steps)]
    loader.close()
    return torch.cat(made)


@pytest.fixture(scope="module")
def served(shards):
    """The folder of the shards over HTTP, with ranges as web servers have them."""
    handler = partial(RangeHandler, directory=str(shards))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class RangeHandler(http.server.SimpleHTTPRequestHandler):
    """Answers requests for a part of a file with that part."""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        if wanted is None:
            super().do_GET()
            return
        first, last = (int(number) for number in wanted.removeprefix("bytes=").split("-"))
        content = open(self.translate_path(self.path), "rb").read()  # noqa: SIM115, PTH123
        part = content[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(part)


@pytest.mark.parametrize("scheme", ["file", "memory", "http"])
def test_a_url_gives_the_clips_of_the_folder(scheme, shards, request):
    pytest.importorskip("upath", reason="URLs need the extra 'remote'")
    if scheme == "memory":
        fsspec.filesystem("memory").put(str(shards / "train"), "/shards/train", recursive=True)
    place = {"file": f"file://{shards}/train", "memory": "memory://shards/train"}.get(scheme)
    place = place or f"{request.getfixturevalue('served')}/train"
    assert torch.equal(clips(data(place)), clips(data(shards / "train")))
    assert ShardFolder(place).hash == ShardFolder(shards / "train").hash


def test_errors_name_the_url(served):
    pytest.importorskip("upath", reason="URLs need the extra 'remote'")
    with pytest.raises(DataError, match=r"http://127\.0\.0\.1:\d+/nowhere"):
        ShardFolder(f"{served}/nowhere")
    with pytest.raises(InputError, match="nosuch://x/train"):
        ShardFolder("nosuch://x/train")


@pytest.mark.parametrize(
    "place",
    [
        "reference://x",
        "simplecache::file:///tmp/train",
        "zip://train::http://127.0.0.1:1/x.zip",
        "ssh://host/train",
        "cached://x",
        "::",
    ],
)
def test_urls_that_do_more_than_read_bytes_are_refused(place):
    with pytest.raises(InputError):
        ShardFolder(place)


@pytest.mark.parametrize("order", [None, ShardOrderConfig(shards=2, steps=2)])
def test_the_scratch_cache_does_not_change_clips(order, shards, tmp_path):
    plain = clips(data(shards / "train", shard_order=order), steps=8)
    reading = ReadingConfig(scratch=tmp_path / "scratch")
    assert torch.equal(clips(data(shards / "train", shard_order=order, reading=reading), steps=8), plain)
    copies = sorted(copy.stat().st_size for copy in (tmp_path / "scratch").glob("*.tar"))
    assert set(copies) <= {tar.stat().st_size for tar in (shards / "train").glob("*.tar")}
    assert copies
    assert not list((tmp_path / "scratch").glob("*.partial"))


def read_all(scratch, folder):
    staged = ShardFolder(folder, scratch)
    plain = ShardFolder(folder)
    for index in range(len(plain)):
        assert staged.read(index).data == plain.read(index).data
        wait(scratch._copies.values())


@pytest.mark.parametrize("evict", [False, True])
def test_copies_stay_within_their_limit(evict, shards, tmp_path):
    sizes = [tar.stat().st_size for tar in sorted((shards / "train").glob("*.tar"))]
    limit = max(sizes) + min(sizes) // 2
    scratch = ScratchCache(tmp_path / "scratch", limit, evict)
    seen = []
    for _ in range(2):
        read_all(scratch, shards / "train")
        seen.append({copy.name for copy in (tmp_path / "scratch").glob("*.tar")})
        assert sum(copy.stat().st_size for copy in (tmp_path / "scratch").glob("*.tar")) <= limit
    assert all(seen)
    scratch.close()


def test_a_rebuilt_tar_is_copied_again(shards, tmp_path, listed, built, noise):
    for seed in (0, 1):
        folder = built(listed((RawFrames(noise(4, seed=seed), 10),)), tmp_path / str(seed) / "train")
        place = tmp_path / "train"
        if place.is_symlink():
            place.unlink()
        place.symlink_to(folder)
        scratch = ScratchCache(tmp_path / "scratch", 1 << 30, evict=False)
        read_all(scratch, place)
        assert ShardFolder(place, scratch).read(0).data == ShardFolder(folder).read(0).data
        scratch.close()


def test_failed_copies_do_not_stop_reading(shards, tmp_path, caplog):
    scratch = ScratchCache(tmp_path / "scratch", 1 << 40, evict=False)
    (tmp_path / "scratch").rmdir()
    read_all(scratch, shards / "train")
    assert str(tmp_path / "scratch") in caplog.text
    with pytest.raises(InputError, match=r"data\.reading\.scratch"):
        ScratchCache(shards / "train" / "manifest.json" / "scratch", 1, evict=False)


@pytest.mark.parametrize("tear", ["shorter", "zeros"])
def test_a_copy_torn_by_a_power_cut_is_copied_again(tear, shards, tmp_path, monkeypatch):
    folder, place = shards / "train", tmp_path / "scratch"
    scratch = ScratchCache(place, 1 << 30, evict=False)
    read_all(scratch, folder)
    scratch.close()
    for copy in place.glob("*.tar"):
        content = copy.read_bytes()
        copy.write_bytes(content[:1000] if tear == "shorter" else bytes(len(content)))
    monkeypatch.setattr(psutil, "boot_time", lambda: time.time() + 60)
    scratch = ScratchCache(place, 1 << 30, evict=False)
    read_all(scratch, folder)
    scratch.close()
    assert sorted(copy.read_bytes() for copy in place.glob("*.tar")) == sorted(
        tar.read_bytes() for tar in folder.glob("*.tar")
    )


def test_a_transient_error_of_one_read_is_not_seen(shards, monkeypatch):
    monkeypatch.setattr("hpc_jepa.io.retry.RETRY_DELAYS", (0.0,))
    folder, plain = ShardFolder(shards / "train"), os.pread
    expected, errors = folder.read(0).data, [OSError(errno.ESTALE, os.strerror(errno.ESTALE))]

    def pread(*arguments):
        if errors:
            raise errors.pop()
        return plain(*arguments)

    monkeypatch.setattr(os, "pread", pread)
    assert folder.read(0).data == expected and not errors
