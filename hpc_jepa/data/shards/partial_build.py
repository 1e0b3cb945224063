"""A partial build: a hidden folder with a journal, from which an interrupted build resumes.

OUT/.<split>.partial/   000000.tar  000000.idx  ...  journal.jsonl: the recipe, then one line per finished task

Tars are on the disk before their journal line is written. The manifest is written when all tasks are finished, and the
folder is renamed when it contains nothing but the result.
"""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from hpc_jepa.config.strict import Strict
from hpc_jepa.data.shards.build_task import BuildTaskResult, DroppedSample, VideoChecksum
from hpc_jepa.data.shards.index import index_path
from hpc_jepa.data.shards.manifest import MANIFEST_NAME, Recipe, ShardFile, ShardManifest, recipe_difference
from hpc_jepa.errors import InputError
from hpc_jepa.io.atomic import exclusive_lock, fsync, write_atomically
from hpc_jepa.io.jsonl import append_jsonl, whole_lines, write_jsonl

JOURNAL = "journal.jsonl"
LEDGER = "ledger.jsonl"
CONTENTS = "contents.jsonl"
"""Size and checksum of every video, to find duplicates."""


class PartialBuild:
    """The results of finished tasks, by task number in ``results``, and the steps to the finished folder."""

    def __init__(self, path: Path, folder: Path, recipe: Recipe) -> None:
        self.path = path
        self.results: dict[int, BuildTaskResult] = {}
        self._folder = folder
        self._journal = path / JOURNAL
        if self._journal.is_file():
            self._read_journal(recipe)
        elif not self.complete:
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
        if not self.complete:
            self._remove_unfinished()
            write_jsonl(self._journal, [recipe, *self.results.values()])

    @property
    def complete(self) -> bool:
        """Whether only the last rename is missing."""
        return (self.path / MANIFEST_NAME).is_file()

    def add(self, result: BuildTaskResult) -> None:
        """Record a finished task durably."""
        fsync(self.path)
        append_jsonl(self._journal, result, fsync=True)
        self.results[result.number] = result

    def write_ledger(self, dropped: Iterable[DroppedSample]) -> None:
        """List the dropped samples."""
        write_jsonl(self.path / LEDGER, dropped)

    def finish(self, manifest: ShardManifest, checksums: Iterable[VideoChecksum]) -> None:
        """Write the manifest, which makes the build complete."""
        write_jsonl(self.path / CONTENTS, checksums)
        write_atomically(self.path / MANIFEST_NAME, manifest.model_dump_json(indent=1).encode())

    def publish(self) -> None:
        """Remove the journal and rename the folder to its final name."""
        self._journal.unlink(missing_ok=True)
        fsync(self.path)
        self.path.rename(self._folder)
        fsync(self._folder.parent)

    def _read_journal(self, recipe: Recipe) -> None:
        first, *lines = whole_lines(self._journal) or [b""]
        old = _parse(Recipe, first)
        if old is not None and old != recipe:
            raise InputError(
                f"{self.path}: an unfinished build with other settings ({recipe_difference(old, recipe)}); finish it "
                f"with the old settings, remove it, or choose another --out"
            )
        for result in (_parse(BuildTaskResult, line) for line in lines):
            # A power cut can damage lines and the tars they list.
            if result is not None and all(self._is_intact(shard) for shard in result.shards):
                self.results[result.number] = result

    def _is_intact(self, shard: ShardFile) -> bool:
        tar = self.path / shard.name
        return tar.is_file() and tar.stat().st_size == shard.size and index_path(tar).is_file()

    def _remove_unfinished(self) -> None:
        """Remove files of unfinished tasks."""
        tars = [self.path / shard.name for result in self.results.values() for shard in result.shards]
        known = {self._journal, *tars, *map(index_path, tars)}
        for path in self.path.iterdir():
            if path not in known:
                path.unlink()


@contextmanager
def open_partial_build(folder: Path, recipe: Recipe) -> Iterator[PartialBuild]:
    """The partial build of ``folder``, locked for this process. A failure before the first result leaves no files.

    Raises InputError if the folder cannot be written or contains a partial build with another recipe.
    """
    path, lock = (folder.with_name(f".{folder.name}.{suffix}") for suffix in ("partial", "lock"))
    with ExitStack() as stack:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(exclusive_lock(lock))
            stack.callback(lock.unlink, missing_ok=True)
            partial = PartialBuild(path, folder, recipe)
        except OSError as error:
            raise InputError(f"{folder.parent}: cannot be written ({error.strerror}); choose another --out") from error
        try:
            yield partial
        except BaseException:
            if not partial.results:
                shutil.rmtree(path, ignore_errors=True)
            raise


Model = TypeVar("Model", bound=Strict)


def _parse(model: type[Model], line: bytes) -> Model | None:
    try:
        return model.model_validate_json(line)
    except ValidationError:
        return None
