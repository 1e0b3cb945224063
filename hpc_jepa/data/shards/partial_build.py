"""A shard folder while it is being built: a hidden folder and a journal of what is done, so that a build goes on where
it was stopped, however it was stopped.

OUT/.<split>.partial/   000000.tar  000000.idx  ...  journal.jsonl: the recipe, then a line per unit of work

Tars reach the disk before the line that speaks of them, the manifest is written when all lines are there, and the
folder gets its name when it holds nothing but what belongs to it.
"""

import os
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

JOURNAL = "journal.jsonl"
LEDGER = "ledger.jsonl"
CONTENTS = "contents.jsonl"
"""What each sample is recognised by, to find duplicates."""


class PartialBuild:
    """Units that are done, by number in ``built``, and the way to the finished folder."""

    def __init__(self, path: Path, folder: Path, recipe: Recipe) -> None:
        self.path = path
        self.built: dict[int, BuildTaskResult] = {}
        self._folder = folder
        self._journal = path / JOURNAL
        if self._journal.is_file():
            self._read_journal(recipe)
        elif not self.complete:
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
        if not self.complete:
            self._remove_strays()
            self._write_journal(recipe)

    @property
    def complete(self) -> bool:
        """Whether only the last rename is missing."""
        return (self.path / MANIFEST_NAME).is_file()

    def add(self, unit: BuildTaskResult) -> None:
        """Note that a unit is done, for good."""
        fsync(self.path)
        with self._journal.open("a", encoding="utf-8") as file:
            file.write(f"{unit.model_dump_json()}\n")
            file.flush()
            os.fsync(file.fileno())
        self.built[unit.number] = unit

    def write_ledger(self, dropped: Iterable[DroppedSample]) -> None:
        """Say what is left out."""
        _write_lines(self.path / LEDGER, dropped)

    def finish(self, manifest: ShardManifest, contents: Iterable[VideoChecksum]) -> None:
        """Make the draft complete."""
        _write_lines(self.path / CONTENTS, contents)
        write_atomically(self.path / MANIFEST_NAME, manifest.model_dump_json(indent=1).encode())

    def rename(self) -> None:
        """The last step: from now on it is a shard folder."""
        self._journal.unlink(missing_ok=True)
        fsync(self.path)
        self.path.rename(self._folder)
        fsync(self._folder.parent)

    def _read_journal(self, recipe: Recipe) -> None:
        first, *lines = self._journal.read_text(encoding="utf-8").splitlines() or [""]
        old = _parsed(Recipe, first)
        if old is not None and old != recipe:
            raise InputError(
                f"{self.path}: an unfinished build with other settings ({recipe_difference(old, recipe)}); "
                "finish it with "
                f"those, remove it, or choose another --out"
            )
        for unit in (_parsed(BuildTaskResult, line) for line in lines):
            # A kill can tear the last line, and a power cut the tars it speaks of.
            if unit is not None and all(self._is_whole(shard) for shard in unit.shards):
                self.built[unit.number] = unit

    def _write_journal(self, recipe: Recipe) -> None:
        lines = [recipe.model_dump_json(), *(unit.model_dump_json() for unit in self.built.values())]
        write_atomically(self._journal, "".join(f"{line}\n" for line in lines).encode())

    def _is_whole(self, shard: ShardFile) -> bool:
        tar = self.path / shard.name
        return tar.is_file() and tar.stat().st_size == shard.size and index_path(tar).is_file()

    def _remove_strays(self) -> None:
        """What units that were not done have left behind."""
        tars = [self.path / shard.name for unit in self.built.values() for shard in unit.shards]
        known = {self._journal, *tars, *map(index_path, tars)}
        for path in self.path.iterdir():
            if path not in known:
                path.unlink()


@contextmanager
def open_partial_build(folder: Path, recipe: Recipe) -> Iterator[PartialBuild]:
    """The draft of ``folder``, for this process alone. Where nothing is done yet, a failure leaves nothing behind.

    Raises InputError where the place cannot be written or holds an unfinished build with another recipe.
    """
    path, lock = (folder.with_name(f".{folder.name}.{what}") for what in ("partial", "lock"))
    with ExitStack() as stack:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(exclusive_lock(lock))
            stack.callback(lock.unlink, missing_ok=True)
            draft = PartialBuild(path, folder, recipe)
        except OSError as error:
            raise InputError(f"{folder.parent}: cannot be written ({error.strerror}); choose another --out") from error
        try:
            yield draft
        except BaseException:
            if not draft.built:
                shutil.rmtree(path, ignore_errors=True)
            raise


Model = TypeVar("Model", bound=Strict)


def _parsed(kind: type[Model], line: str) -> Model | None:
    try:
        return kind.model_validate_json(line)
    except ValidationError:
        return None


def _write_lines(path: Path, records: Iterable[Strict]) -> None:
    write_atomically(path, "".join(f"{record.model_dump_json()}\n" for record in records).encode())
