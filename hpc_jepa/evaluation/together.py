"""Several evaluations that share each pass over the clips of a benchmark.

Each evaluation is a generator that pauses when it needs features. Those that need them of the same clips get them from
one pass; everything else runs one evaluation after the other, as if it were alone.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import torch

from hpc_jepa.distributed import GlooGroup, is_main, portable_error, world_size
from hpc_jepa.evaluation.extraction import ExtractedFeatures
from hpc_jepa.evaluation.progress import Notify
from hpc_jepa.evaluation.split_clips import FeatureRequest, FeatureWork, SplitClips
from hpc_jepa.io.free_memory import free_memory

ENCODER_BYTES = 8 << 30
"""Most bytes of encoders that are in memory at a time, and at most half of what is free; one evaluation always is."""

T = TypeVar("T")


class Outcome(NamedTuple, Generic[T]):
    """What became of the evaluation of a number: its value, or the error that ended it."""

    number: int
    value: T | None = None
    error: Exception | None = None


class IsolatingGroup(GlooGroup):
    """A process group in which one process's error in an evaluation ends that evaluation on all, and nothing else.

    Every exchange carries the error, if there is one, so a process that has failed meets the others at their next
    exchange, wherever that is.
    """

    def gather_objects(self, local: Any) -> list[Any]:
        """The picklable object of every process. Raises _OtherProcessError if one of them has failed."""
        gathered = super().gather_objects((None, local))
        for error, _ in gathered:
            if error is not None:
                raise _OtherProcessError(error)
        return [value for _, value in gathered]

    def end_part(self, error: Exception | None) -> Exception | None:
        """Called by all processes at the end of a part of the work: the error of this or of another process."""
        if isinstance(error, _OtherProcessError):
            return error.cause
        gathered = super().gather_objects((None if error is None else portable_error(error), None))
        return next((found for found, _ in gathered if found is not None), None)


class _OtherProcessError(Exception):
    """An evaluation has failed on another process."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


def run_together(works: Sequence[FeatureWork[T]], clips: SplitClips, notify: Notify) -> Iterator[Outcome[T]]:
    """Run the evaluations; each outcome as soon as it is known. Collective.

    ``clips.group`` must be an IsolatingGroup. Evaluations whose encoders or features do not fit beside those of the
    others follow in another pass; ``notify`` says so. An error of one of them ends it alone; one of the clips ends all
    that read them.
    """
    together = _Together(works, clips, notify)
    try:
        yield from together.run()
    finally:
        for work in works:
            work.close()


def run_alone(work: FeatureWork[T], clips: SplitClips) -> T:
    """Run one evaluation. Collective. Raises what it raises."""
    found: ExtractedFeatures | None = None
    try:
        while True:
            request = next(work) if found is None else work.send(found)
            [extracted] = clips.extract([request])
            assert isinstance(extracted, dict), "one evaluation alone is neither deferred nor isolated"
            found = extracted
    except StopIteration as stop:
        value: T = stop.value
        return value
    finally:
        work.close()


class _Together(Generic[T]):
    """waiting: not begun. live: paused at a request. later: deferred until no other is live."""

    def __init__(self, works: Sequence[FeatureWork[T]], clips: SplitClips, notify: Notify) -> None:
        assert isinstance(clips.group, IsolatingGroup)
        self._works = works
        self._clips = clips
        self._notify = notify
        self._group = clips.group
        self._waiting = deque(range(len(works)))
        self._live: dict[int, FeatureRequest] = {}
        self._later: dict[int, FeatureRequest] = {}

    def run(self) -> Iterator[Outcome[T]]:
        """All outcomes."""
        while self._waiting or self._live or self._later:
            if not self._live:
                self._live, self._later = self._later, {}
                yield from self._begin_more()
            if self._live:
                yield from self._next_pass()

    def _begin_more(self) -> Iterator[Outcome[T]]:
        """Begin evaluations as long as their encoders fit into memory; at least one."""
        used, largest, room = sum(map(_encoder_bytes, self._live.values())), 0, 0
        begun = len(self._works) - len(self._waiting)
        while self._waiting and (not self._live or used + largest <= room):
            number = self._waiting.popleft()
            yield from self._resume(number, None)
            if number in self._live:
                own = _encoder_bytes(self._live[number])
                used, largest = used + own, max(largest, own)
                room = room or used + self._room()
        if self._waiting and len(self._works) - len(self._waiting) > begun:
            self._note(f"{len(self._waiting)} of {len(self._works)} follow later: all encoders do not fit into memory")

    def _note(self, line: str) -> None:
        if is_main():
            self._notify(line)

    def _room(self) -> int:
        """Bytes for more encoders, on the process that has the fewest."""
        on_gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        free = torch.cuda.mem_get_info()[0] if on_gpu else free_memory()
        room: int = min(self._group.gather_objects(min(ENCODER_BYTES, free // 2)))
        return room

    def _next_pass(self) -> Iterator[Outcome[T]]:
        """One pass over the clips that the first live evaluation needs, for all that need the same."""
        wanted = next(iter(self._live.values())).clips
        numbers = [number for number, request in self._live.items() if request.clips == wanted]
        requests = [self._live.pop(number) for number in numbers]
        found = self._extract(requests)
        self._later |= {n: request for n, request, each in zip(numbers, requests, found, strict=True) if each is None}
        if None in found:
            count = f"{found.count(None)} of {len(self._works)}"
            self._note(f"{count} follow later: the features of all exceed feature_limit")
        for number, each in zip(numbers, found, strict=True):
            if each is not None:
                yield from self._resume(number, each)

    def _extract(self, requests: Sequence[FeatureRequest]) -> list[ExtractedFeatures | Exception | None]:
        """Features, error or None of each. An error of the clips is one of each, unless only this process has it."""
        try:
            return self._clips.extract(requests, isolated=True)
        except Exception as error:
            if world_size() > 1:
                raise
            return [error for _ in requests]

    def _resume(self, number: int, found: ExtractedFeatures | Exception | None) -> Iterator[Outcome[T]]:
        """Go on until the next request, or to the outcome."""
        work, ended, error = self._works[number], False, None
        value: T | None = None
        try:
            if found is None:
                self._live[number] = next(work)
            elif isinstance(found, Exception):
                self._live[number] = work.throw(found)
            else:
                self._live[number] = work.send(found)
        except StopIteration as stop:
            ended, value = True, stop.value
        except Exception as raised:  # noqa: BLE001  not hidden: it is the outcome
            error = raised
        error = self._group.end_part(error)
        if error is not None:
            self._live.pop(number, None)
            work.close()
            yield Outcome(number, error=error)
        elif ended:
            yield Outcome(number, value)


def _encoder_bytes(request: FeatureRequest) -> int:
    return sum(encoder.size for encoder in request.encoders.values())
