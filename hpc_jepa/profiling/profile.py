"""``hpc-jepa train --profile``: watch a few steps of a run and say on one page where their time goes.

    3 steps   unwatched: caches fill, memory is claimed
    5 steps   recorded: times, launches, bytes -> RUN/profile/trace.json[.gz] and, from it alone, summary.md
    1 step    recorded with Python's stacks, which slow it down: only who makes the host wait

Nothing of this is in a step: the phases get their names when the recording begins and lose them when it ends. What the
run computes is the same to the bit; the figures of speed in ``metrics.jsonl`` are slower for these steps.
"""

import gzip
import logging
import shutil
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from hpc_jepa.distributed import is_main
from hpc_jepa.errors import InputError
from hpc_jepa.profiling.summary import ProfiledSteps, summary_page
from hpc_jepa.profiling.trace import STEP, Trace
from hpc_jepa.training.build import TrainingRun

LOG = logging.getLogger(__name__)

WARMUP_STEPS, TIMED_STEPS = 3, 5
STEPS_NEEDED = WARMUP_STEPS + TIMED_STEPS + 2
"""Steps that must be left: the page is written when the one after the last recorded begins."""

LARGE = 32 * 2**20
"""Bytes of a trace that is kept compressed."""

StepContext = Callable[[int], AbstractContextManager[object]]
"""What is entered around each step."""


def check_profile_steps(left: int) -> None:
    """Raise InputError where a run ends before its profile is complete."""
    if left < STEPS_NEEDED:
        raise InputError(
            f"--profile: the run has {left} steps to go and a profile takes {STEPS_NEEDED}; "
            "raise schedule.steps, or profile a run of its own with study=profile"
        )


@contextmanager
def profile_steps(run: TrainingRun, wanted: bool) -> Iterator[StepContext]:
    """Watch the first steps of this process, on rank 0, if that is wanted."""
    if not (wanted and is_main()):
        yield nullcontext
        return
    with closing(_watched(run)) as steps:
        yield lambda step: next(steps)


def _watched(run: TrainingRun) -> Generator[AbstractContextManager[object]]:
    """One context for each step."""
    yield nullcontext()
    started = time.perf_counter()
    for _ in range(WARMUP_STEPS - 1):
        yield nullcontext()
    _drain()
    unwatched = (time.perf_counter() - started) / (WARMUP_STEPS - 1)

    flops, place = run.metrics.flops, run.run_dir.profile_dir
    with _recorded(run) as timed:
        yield from repeat(record_function(STEP), TIMED_STEPS)
    watched = ProfiledSteps(
        run.config, run.first_step + WARMUP_STEPS, unwatched, (run.metrics.flops - flops) / TIMED_STEPS
    )
    with _recorded(run, stacks=True) as asked:
        yield record_function(STEP)

    place.mkdir(exist_ok=True)
    LOG.info("%s", _written(watched, timed, asked, place))
    yield from repeat(nullcontext())


@contextmanager
def _recorded(run: TrainingRun, stacks: bool = False) -> Iterator[profile]:
    """Record what is done until the GPU has done it, with names for the phases."""
    on_gpu = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with _named_phases(run), profile(activities=activities, profile_memory=not on_gpu, with_stack=stacks) as recorded:
        yield recorded
        _drain()


@contextmanager
def _named_phases(run: TrainingRun) -> Iterator[None]:
    """Give the phases of a step their names in the trace."""
    model, ema = run.engine.module.model, run.ema
    phases: list[tuple[str, object, str]] = [
        ("data wait", run.batches, "get"),
        ("target", model.target, "forward"),
        ("student", model.student, "forward"),
        ("predictor", model.predictor, "forward"),
        ("objectives", run.objectives, "forward"),
        ("backward", run.engine, "backward"),
        ("optimizer", run.engine, "step"),
        *([("ema", ema, "update")] if ema is not None else []),
    ]
    with ExitStack() as names:
        for phase, owner, method in phases:
            names.enter_context(_named(phase, owner, method))
        yield


@contextmanager
def _named(phase: str, owner: object, method: str) -> Iterator[None]:
    """Shadow a method by one with a name. Not by hooks: training calls some modules without them."""
    shadowed = vars(owner).get(method)
    setattr(owner, method, record_function(phase)(getattr(owner, method)))
    try:
        yield
    finally:
        if shadowed is None:
            delattr(owner, method)
        else:
            setattr(owner, method, shadowed)


def _drain() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _written(watched: ProfiledSteps, timed: profile, asked: profile, place: Path) -> str:
    """Write trace and page; returns the page."""
    with TemporaryDirectory() as scratch:
        plain, stacks = Path(scratch) / "trace.json", Path(scratch) / "stacks.json"
        timed.export_chrome_trace(str(plain))
        asked.export_chrome_trace(str(stacks))
        kept = _keep(plain, place)
        text = summary_page(watched, Trace(plain), Trace(stacks), kept)
    (place / "summary.md").write_text(text)
    return text


def _keep(trace: Path, place: Path) -> Path:
    """Move a trace to its place; a large one is compressed, as the viewers read it too."""
    for earlier in place.glob("trace.json*"):
        earlier.unlink()
    if trace.stat().st_size < LARGE:
        return Path(shutil.copy(trace, place))
    with trace.open("rb") as plain, gzip.open(place / "trace.json.gz", "wb") as packed:
        shutil.copyfileobj(plain, packed)
    return place / "trace.json.gz"
