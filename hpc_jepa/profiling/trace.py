"""Read a trace of torch.profiler: the time of each phase of a step on the host and the GPU, and the host syncs.

Traces are in Chrome's format: events with a category, a thread, a start and a duration in microseconds. Used here:

    user_annotation      steps and phases, named by profile.py
    cpu_op               operators, on the thread that called them
    cuda_runtime/driver  CUDA calls; a kernel has the ``correlation`` of the call that launched it
    kernel, gpu_mem...   work on the GPU
    python_function      Python frames, if stacks were recorded
"""

import json
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

STEP = "step"
PHASES = ("data wait", "target", "student", "predictor", "objectives", "backward", "optimizer", "ema")
OTHER, BETWEEN, PREFETCH, IDLE = "other", "between steps", "prefetch", "idle"

DEVICE_WORK = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})
CUDA_CALLS = frozenset({"cuda_runtime", "cuda_driver"})
HOST_SYNC_CALLS = re.compile(
    r"(cudaMemcpy|cuda(Stream|Event|Device)Synchronize|cu(Stream|Event|Ctx)Synchronize)(_v\d+)?(_ptsz)?"
)
"""Calls that block until the GPU is done, some suffixed with the CUDA version that changed them."""
HOST_SYNC_OPERATORS = frozenset(
    f"aten::{name}"
    for name in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_consecutive")
)
"""Operators whose result the host needs to continue: host syncs if the tensor is on a GPU."""
FUSED_ADAMW = "aten::_fused_adamw_"
"""The CPU implementation reads the update count inside this operator; the GPU kernel does not."""


@dataclass(frozen=True)
class TraceEvent:
    """Start and end in microseconds."""

    category: str
    name: str
    thread: object
    start: float
    end: float
    arguments: dict[str, Any]

    @property
    def duration(self) -> float:
        """Microseconds."""
        return self.end - self.start


class Trace:
    """The profiled steps of one process, from the start of the first to the end of the last."""

    def __init__(self, path: Path) -> None:
        events = [_event(raw) for raw in json.loads(path.read_text())["traceEvents"] if raw["ph"] in "Xi"]
        self.steps = [event for event in events if event.category == "user_annotation" and event.name == STEP]
        self.start, self.end = self.steps[0].start, self.steps[-1].end
        self._events = [event for event in events if self._in_steps(event)]

    def _in_steps(self, event: TraceEvent) -> bool:
        """Work on the GPU may start after the host has left the last step."""
        return self.start <= event.start and (event.start < self.end or event.category in DEVICE_WORK)

    def of(self, *categories: str) -> list[TraceEvent]:
        """Events of these categories by start time, outer events first."""
        return sorted((e for e in self._events if e.category in categories), key=lambda e: (e.start, -e.end))

    @cached_property
    def phases(self) -> list[TraceEvent]:
        """The phases of all steps."""
        return [event for event in self.of("user_annotation") if event.name in PHASES]

    @cached_property
    def operators(self) -> list[TraceEvent]:
        """Operator calls."""
        return self.of("cpu_op")

    @cached_property
    def device_work(self) -> list[TraceEvent]:
        """Kernels and copies on the GPU."""
        return self.of(*DEVICE_WORK)

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU was used."""
        return bool(self.device_work)

    @property
    def microseconds(self) -> float:
        """From the first step to the end of the last work for it, on the host or the GPU."""
        return max([self.end, *(event.end for event in self.device_work)]) - self.start

    @property
    def step_milliseconds(self) -> float:
        """Mean time of a step."""
        return self.microseconds / 1e3 / len(self.steps)

    def host_shares(self) -> dict[str, float]:
        """Share of each phase in the time of the training thread; the shares sum to 1."""
        time: dict[str, float] = defaultdict(float)
        for event in self.phases:
            time[event.name] += event.duration
        steps = sum(step.duration for step in self.steps)
        time |= {OTHER: steps - sum(time.values()), BETWEEN: self.end - self.start - steps}
        return _ordered_shares(time, self.end - self.start)

    def device_shares(self) -> dict[str, float]:
        """Share of each phase in the time of the GPU; the shares sum to 1.

        Idle time counts as ``data wait`` while the host waits for data. Of two concurrent kernels the earlier counts.
        """
        time: dict[str, float] = defaultdict(float)
        done, gaps = self.start, []
        for event in self.device_work:
            if event.start > done:
                gaps.append((done, event.start))
            time[self._phase_of(event)] += max(0.0, event.end - max(event.start, done))
            done = max(done, event.end)
        gaps.append((done, self.start + self.microseconds))
        waits = [(event.start, event.end) for event in self.phases if event.name == "data wait"]
        starved = sum(_overlap(gap, wait) for gap in gaps for wait in waits)
        time["data wait"] += starved
        time[IDLE] += sum(end - start for start, end in gaps) - starved
        return _ordered_shares(time, self.microseconds)

    def host_syncs(self) -> list[TraceEvent]:
        """Calls in which the training threads wait for the GPU; without one, operators that would wait for it."""
        if self.on_gpu:
            calls = self.of(*CUDA_CALLS)
            return [call for call in calls if HOST_SYNC_CALLS.fullmatch(call.name) and call.thread in self._threads]
        updates = [event for event in self.operators if event.name == FUSED_ADAMW]
        syncs = (event for event in self.operators if event.name in HOST_SYNC_OPERATORS)
        return [event for event in syncs if _event_at(updates, event.start) is None]

    def callers(self, event: TraceEvent) -> list[str]:
        """Python frames around an event, outermost first: ``FILE(LINE): FUNCTION``."""
        frames = (frame for frame in self._frames if frame.start <= event.start < frame.end)
        return [frame.name for frame in frames if frame.thread == event.thread]

    def _phase_of(self, event: TraceEvent) -> str:
        """The phase in which the host launched ``event``, on any of the training threads."""
        launch = self._launches.get(event.arguments.get("correlation"))
        if launch is None or launch.thread not in self._threads:
            return PREFETCH
        inside = _event_at(self.phases, launch.start) or _event_at(self.steps, launch.start)
        return BETWEEN if inside is None else OTHER if inside.name == STEP else inside.name

    @cached_property
    def _frames(self) -> list[TraceEvent]:
        return self.of("python_function")

    @cached_property
    def _threads(self) -> set[object]:
        """Training threads: the profiler records operators of these only, not of the prefetch threads."""
        return {event.thread for event in self.operators}

    @cached_property
    def _launches(self) -> dict[object, TraceEvent]:
        return {event.arguments.get("correlation"): event for event in self.of(*CUDA_CALLS)}


def _event(raw: dict[str, Any]) -> TraceEvent:
    start = float(raw["ts"])
    end = start + float(raw.get("dur", 0))
    return TraceEvent(raw.get("cat", ""), raw["name"], raw["tid"], start, end, raw.get("args", {}))


def _event_at(events: Sequence[TraceEvent], time: float) -> TraceEvent | None:
    """The one of some disjoint events, sorted by time, that covers ``time``."""
    index = bisect_right(events, time, key=lambda event: event.start)
    return events[index - 1] if index and time < events[index - 1].end else None


def _overlap(one: tuple[float, float], other: tuple[float, float]) -> float:
    return max(0.0, min(one[1], other[1]) - max(one[0], other[0]))


def _ordered_shares(time: dict[str, float], total: float) -> dict[str, float]:
    """Shares of the total, in the order of a step."""
    names = (*PHASES, OTHER, BETWEEN, PREFETCH, IDLE)
    return {name: time[name] / total for name in names if name in time}
