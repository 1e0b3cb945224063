"""Profile the first steps of a run (``hpc-jepa train --profile``) and write a one-page summary.

    3 steps   not profiled: caches and allocators warm up
    5 steps   torch.profiler: RUN/profile/trace.json[.gz] and summary.md
    1 step    torch.profiler with Python stacks, which are slow: only to locate host syncs

The step itself contains no profiling code: methods are wrapped in named ranges while the profiler runs. The results of
the run are the same to the bit; only the speeds in ``metrics.jsonl`` are lower for these steps.
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
from hpc_jepa.io.atomic import write_atomically
from hpc_jepa.profiling.summary import ProfiledSteps, summary_page
from hpc_jepa.profiling.trace import PHASES, STEP, Trace
from hpc_jepa.training.build import TrainingRun

LOG = logging.getLogger(__name__)

WARMUP_STEPS, TIMED_STEPS = 3, 5
STEPS_NEEDED = WARMUP_STEPS + TIMED_STEPS + 2
"""The summary is written when the step after the last profiled one starts."""
COMPRESS_ABOVE_BYTES = 32 * 2**20
OPERATOR_ROWS = 10

StepContext = Callable[[int], AbstractContextManager[object]]
"""The context in which the loop runs a step, by its number."""


def check_profile_steps(left: int) -> None:
    """Raise InputError if the run has fewer steps left than a profile takes."""
    if left < STEPS_NEEDED:
        raise InputError(
            f"--profile: needs {STEPS_NEEDED} steps, the run has {left} steps left; raise schedule.steps, or profile a "
            "separate run with study=profile"
        )


@contextmanager
def profile_steps(run: TrainingRun, enabled: bool) -> Iterator[StepContext]:
    """Profile the first steps on rank 0, if enabled; yields the context of each step."""
    if not (enabled and is_main()):
        yield nullcontext
        return
    with closing(_step_contexts(run)) as contexts:
        yield lambda step: next(contexts)


def _step_contexts(run: TrainingRun) -> Generator[AbstractContextManager[object]]:
    """One context per step; the summary is written between two steps."""
    yield nullcontext()
    started = time.perf_counter()
    for _ in range(WARMUP_STEPS - 1):
        yield nullcontext()
    _synchronize()
    seconds = (time.perf_counter() - started) / (WARMUP_STEPS - 1)

    flops = run.metrics.flops
    with _profiled(run) as timed:
        yield from repeat(record_function(STEP), TIMED_STEPS)
    flops = (run.metrics.flops - flops) // TIMED_STEPS
    with _profiled(run, stacks=True) as with_stacks:
        yield record_function(STEP)

    steps = ProfiledSteps(run.config, run.first_step + WARMUP_STEPS, seconds, flops, _operator_table(timed))
    run.run_dir.profile_dir.mkdir(exist_ok=True)
    LOG.info("%s", _write_summary(steps, timed, with_stacks, run.run_dir.profile_dir))
    yield from repeat(nullcontext())


@contextmanager
def _profiled(run: TrainingRun, stacks: bool = False) -> Iterator[profile]:
    """Profile the block with named phases, until the GPU has finished its work."""
    gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
    with _named_phases(run), profile(activities=[ProfilerActivity.CPU, *gpu], with_stack=stacks) as profiler:
        yield profiler
        _synchronize()


@contextmanager
def _named_phases(run: TrainingRun) -> Iterator[None]:
    """Name the phases of a step in the trace."""
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
            names.enter_context(_named_range(phase, owner, method))
        yield


@contextmanager
def _named_range(phase: str, owner: object, method: str) -> Iterator[None]:
    """Wrap a method in a range. Module hooks would miss the modules that training calls through ``forward``."""
    shadowed = vars(owner).get(method)
    setattr(owner, method, record_function(phase)(getattr(owner, method)))
    try:
        yield
    finally:
        if shadowed is None:
            delattr(owner, method)
        else:
            setattr(owner, method, shadowed)


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _operator_table(timed: profile) -> str:
    """The most expensive operators, by time on the GPU if there is one."""
    operators = timed.key_averages()
    operators[:] = [operator for operator in operators if operator.key not in (STEP, *PHASES)]
    sort_by = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    return str(operators.table(sort_by, row_limit=OPERATOR_ROWS, max_name_column_width=60))


def _write_summary(steps: ProfiledSteps, timed: profile, with_stacks: profile, folder: Path) -> str:
    """Write trace and summary page; returns the page."""
    with TemporaryDirectory() as scratch:
        trace, stacks = Path(scratch) / "trace.json", Path(scratch) / "stacks.json"
        timed.export_chrome_trace(str(trace))
        with_stacks.export_chrome_trace(str(stacks))
        page = summary_page(steps, Trace(trace), Trace(stacks), _keep_trace(trace, folder))
    write_atomically(folder / "summary.md", page.encode())
    return page


def _keep_trace(trace: Path, folder: Path) -> Path:
    """Copy a trace to the profile folder, compressed if it is large; trace viewers read both."""
    for earlier in folder.glob("trace.json*"):
        earlier.unlink()
    if trace.stat().st_size < COMPRESS_ABOVE_BYTES:
        return Path(shutil.copy(trace, folder))
    with trace.open("rb") as plain, gzip.open(folder / "trace.json.gz", "wb") as packed:
        shutil.copyfileobj(plain, packed)
    return folder / "trace.json.gz"
