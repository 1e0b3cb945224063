"""What a trace of torch.profiler says about the steps in it.

It is in Chrome's format: events with a category, a thread, a start and a duration in microseconds. Of interest are

    user_annotation      ranges that this project named: steps and their phases
    cpu_op               operators, on the thread that called them
    cuda_runtime/driver  calls of CUDA; what they launch has the same ``correlation``
    kernel, gpu_mem...   what ran on the GPU
    python_function      frames of Python, where stacks were recorded
"""

import json
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

STEP = "step"
PHASES = ("data wait", "target", "student", "predictor", "objectives", "backward", "optimizer", "ema")
REST, BETWEEN, BACKGROUND, IDLE = "everything else", "between steps", "the next batch", "idle"

ON_DEVICE = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})
CALLS = frozenset({"cuda_runtime", "cuda_driver"})
HOST_SYNC_CALLS = re.compile(
    r"(cudaMemcpy|cuda(Stream|Event|Device)Synchronize|cu(Stream|Event|Ctx)Synchronize)(_v\d+)?(_ptsz)?"
)
"""Calls that return when the GPU is done, some named with the version of CUDA that they changed in."""
HOST_SYNC_OPERATORS = frozenset(
    f"aten::{name}"
    for name in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_consecutive")
)
"""Operators whose result the host needs to go on: it waits for those that a GPU computes."""
FUSED_ADAMW = "aten::_fused_adamw_"
"""A processor reads the number of updates inside of it; the kernel of a GPU leaves it where it is."""
COMPILED = re.compile(r"## Call CompiledFxGraph .*")


@dataclass(frozen=True)
class Event:
    """Start and end in microseconds."""

    category: str
    name: str
    thread: object
    start: float
    end: float
    facts: dict[str, Any]

    @property
    def duration(self) -> float:
        """Microseconds."""
        return self.end - self.start


@dataclass(frozen=True)
class Operator:
    """What all calls of one operator cost in a step, without the operators inside it. ``phase``: of most of it."""

    name: str
    calls: float
    milliseconds: float
    phase: str


class Trace:
    """The recorded steps of one process, from the start of the first to the end of the last."""

    def __init__(self, path: Path) -> None:
        events = [_event(raw) for raw in json.loads(path.read_text())["traceEvents"] if raw["ph"] in "Xi"]
        self.steps = [event for event in events if event.category == "user_annotation" and event.name == STEP]
        self.start, self.end = self.steps[0].start, self.steps[-1].end
        self._events = [event for event in events if self._belongs(event)]

    def _belongs(self, event: Event) -> bool:
        """The GPU goes on when the host has left the last step."""
        return self.start <= event.start and (event.start < self.end or event.category in ON_DEVICE)

    def of(self, *categories: str) -> list[Event]:
        """Events of these categories, in the order of their starts."""
        return sorted((e for e in self._events if e.category in categories), key=lambda e: (e.start, -e.end))

    @cached_property
    def ranges(self) -> list[Event]:
        """The phases of all steps."""
        return [event for event in self.of("user_annotation") if event.name in PHASES]

    @cached_property
    def operators(self) -> list[Event]:
        """Calls of operators."""
        return self.of("cpu_op")

    @cached_property
    def device(self) -> list[Event]:
        """What the GPU did."""
        return self.of(*ON_DEVICE)

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU took part."""
        return bool(self.device)

    @property
    def microseconds(self) -> float:
        """From the first step to the last thing that was done for them, by the host or the GPU."""
        return max([self.end, *(event.end for event in self.device)]) - self.start

    @property
    def per_step(self) -> float:
        """Milliseconds of one step."""
        return self.microseconds / 1e3 / len(self.steps)

    def host_shares(self) -> dict[str, float]:
        """Share of each phase in the time of the thread that trains. They sum to 1."""
        spent = _by_name((event.name, event.duration) for event in self.ranges)
        steps = sum(step.duration for step in self.steps)
        spent |= {REST: steps - sum(spent.values()), BETWEEN: self.end - self.start - steps}
        return _ordered(spent, self.end - self.start)

    def device_shares(self) -> dict[str, float]:
        """Share of each phase in the time of the GPU, idle while data were waited for or for another reason.

        Of two kernels at once the earlier counts. They sum to 1.
        """
        spent: dict[str, float] = defaultdict(float)
        done, gaps = self.start, []
        for event in self.device:
            if event.start > done:
                gaps.append((done, event.start))
            spent[self.phase_of(event)] += max(0.0, event.end - max(event.start, done))
            done = max(done, event.end)
        gaps.append((done, self.start + self.microseconds))
        waited = [(event.start, event.end) for event in self.ranges if event.name == "data wait"]
        starved = sum(_overlap(gap, wait) for gap in gaps for wait in waited)
        spent["data wait"] += starved
        spent[IDLE] += sum(end - start for start, end in gaps) - starved
        return _ordered(spent, self.microseconds)

    def phase_at(self, time: float) -> str:
        """The phase that the thread that trains was in."""
        inside = _covering(self.ranges, time) or _covering(self.steps, time)
        return BETWEEN if inside is None else REST if inside.name == STEP else inside.name

    def phase_of(self, event: Event) -> str:
        """The phase in which the host asked for ``event``, on any of the threads that train."""
        asked = self._launches.get(event.facts.get("correlation"))
        if asked is None or asked.thread not in self._threads:
            return BACKGROUND
        return self.phase_at(asked.start)

    @cached_property
    def costs(self) -> list[Operator]:
        """Operators of the steps, dearest first: time on the GPU where there is one, else on the host."""
        calls: dict[str, list[tuple[str, float]]] = defaultdict(list)
        for name, phase, spent in self._on_device() if self.on_gpu else self._on_host():
            calls[name].append((phase, spent))
        operators = [self._operator(name, of_it) for name, of_it in calls.items()]
        return sorted(operators, key=lambda operator: -operator.milliseconds)

    def _operator(self, name: str, calls: Sequence[tuple[str, float]]) -> Operator:
        phases, steps = _by_name(calls), len(self.steps)
        milliseconds = sum(phases.values()) / 1e3 / steps
        return Operator(name, len(calls) / steps, milliseconds, max(phases, key=lambda phase: phases[phase]))

    def bytes_moved(self) -> dict[str, float]:
        """Bytes per step: copied by the GPU, by direction; without a GPU the memory that was asked for."""
        if self.on_gpu:
            copies = [event for event in self.device if event.category == "gpu_memcpy"]
            moved = _by_name((f"copied {event.name.split()[1]}", event.facts.get("bytes", 0)) for event in copies)
        else:
            taken = [e.facts["Bytes"] for e in self.of("cpu_instant_event") if e.name == "[memory]"]
            moved = {"of memory asked for": sum(max(0, size) for size in taken)}
        return {direction: size / len(self.steps) for direction, size in moved.items()}

    def host_syncs(self) -> list[Event]:
        """Every time the host waited for the GPU; without one, every value that it asked for."""
        if self.on_gpu:
            return [
                call
                for call in self.of(*CALLS)
                if HOST_SYNC_CALLS.fullmatch(call.name) and call.thread in self._threads
            ]
        updates = [event for event in self.operators if event.name == FUSED_ADAMW]
        asked = (event for event in self.operators if event.name in HOST_SYNC_OPERATORS)
        return [event for event in asked if _covering(updates, event.start) is None]

    def callers(self, event: Event) -> list[str]:
        """Python's frames around an event, outermost first: ``FILE(LINE): FUNCTION``."""
        frames = self._frames[event.thread]
        return [frame.name for frame in frames if frame.start <= event.start < frame.end]

    @cached_property
    def _frames(self) -> dict[object, list[Event]]:
        frames: dict[object, list[Event]] = defaultdict(list)
        for frame in self.of("python_function"):
            frames[frame.thread].append(frame)
        return frames

    @cached_property
    def _threads(self) -> set[object]:
        """Threads that train: the profiler follows them, not those that prepare the next batch."""
        return {event.thread for event in self.operators}

    @cached_property
    def _launches(self) -> dict[object, Event]:
        return {event.facts.get("correlation"): event for event in self.of(*CALLS)}

    def _on_device(self) -> Iterator[tuple[str, str, float]]:
        """Operator, phase and microseconds of everything the GPU did; kernels without an operator by their own name."""
        called = {event.facts.get("External id"): event.name for event in self.operators}
        for event in self.device:
            name = called.get(event.facts.get("External id"), event.name)
            yield name, self.phase_of(event), event.duration

    def _on_host(self) -> Iterator[tuple[str, str, float]]:
        """Operator, phase and microseconds of every call, without the calls inside it."""
        outer: list[Event] = []
        inside: dict[int, float] = defaultdict(float)
        for event in self.operators:
            while outer and (outer[-1].thread != event.thread or outer[-1].end <= event.start):
                outer.pop()
            if outer:
                inside[id(outer[-1])] += event.duration
            outer.append(event)
        for event in self.operators:
            yield event.name, self.phase_at(event.start), event.duration - inside[id(event)]


def _event(raw: dict[str, Any]) -> Event:
    start = float(raw["ts"])
    end = start + float(raw.get("dur", 0))
    name = COMPILED.sub("compiled code", raw["name"])
    return Event(raw.get("cat", ""), name, raw["tid"], start, end, raw.get("args", {}))


def _covering(events: Sequence[Event], time: float) -> Event | None:
    """The one of some disjoint events, in order, that ``time`` lies in."""
    place = bisect_right(events, time, key=lambda event: event.start)
    return events[place - 1] if place and time < events[place - 1].end else None


def _overlap(one: tuple[float, float], other: tuple[float, float]) -> float:
    return max(0.0, min(one[1], other[1]) - max(one[0], other[0]))


def _by_name(figures: Iterable[tuple[str, float]]) -> dict[str, float]:
    sums: dict[str, float] = defaultdict(float)
    for name, figure in figures:
        sums[name] += figure
    return dict(sums)


def _ordered(spent: dict[str, float], whole: float) -> dict[str, float]:
    """Shares of the whole in the order of a step."""
    names = (*PHASES, REST, BETWEEN, BACKGROUND, IDLE)
    return {name: spent[name] / whole for name in names if name in spent}
