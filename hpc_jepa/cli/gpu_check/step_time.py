"""Time training steps on noise in one process: ``python -m hpc_jepa.cli.gpu_check.step_time JSON``.

Prints one JSON object per number of clips. Unlike ``tools/bench_step.py``, which waits for the GPU after every phase,
steps follow each other as in training; masks are made beforehand, as training prefetches them.
"""

import gc
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from hpc_jepa.config.loading import read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.distributed import GlooGroup, set_ds_accelerator
from hpc_jepa.io.imports import uncollected_imports

if TYPE_CHECKING:
    import torch

    from hpc_jepa.training.step_runner import StepRunner
    from hpc_jepa.types import ClipBatch, TokenMasks

OUT_OF_MEMORY = "out of memory"


@dataclass(frozen=True)
class StepTiming:
    """What one process times. layers: configuration files; settings: ``key=value``; clips: from many to few."""

    layers: tuple[str, ...]
    settings: tuple[str, ...]
    clips: tuple[int, ...]
    warmup: int
    steps: int

    @property
    def command(self) -> list[str]:
        """Command line."""
        return [sys.executable, "-m", "hpc_jepa.cli.gpu_check.step_time", json.dumps(asdict(self))]

    def config(self, clips: int) -> RunConfig:
        """Configuration with that many clips per step."""
        return read_config(RunConfig, self.layers, [*self.settings, f"engine.batch_size={clips}"])


def results(timing: StepTiming) -> Iterator[dict[str, Any]]:
    """The cost of a step for each number of clips.

    Ends early with ``OUT_OF_MEMORY``: a backward pass that was cut short leaves the engine in an unusable state.
    """
    with uncollected_imports():
        import torch

        from hpc_jepa.training.step_runner import StepRunner

    runner = StepRunner(timing.config(timing.clips[0]))
    for clips in timing.clips:
        try:
            yield {"clips": clips, **time_steps(runner, timing, clips)}
        except torch.OutOfMemoryError:
            yield {"clips": clips, "error": OUT_OF_MEMORY}
            return
        gc.collect()
        if runner.device.type == "cuda":
            torch.cuda.empty_cache()


def time_steps(runner: "StepRunner", timing: StepTiming, clips: int) -> dict[str, Any]:
    """Median milliseconds, peak memory in GiB and FLOP/s of steps on ``clips`` clips."""
    from hpc_jepa.models.flops import step_flops
    from hpc_jepa.profiling.mfu import flops_rates

    config, device = timing.config(clips), runner.device
    batch = noise(config, device)
    masks = batch_masks(config, batch, timing.warmup + timing.steps)
    numbers = iter(range(timing.warmup + timing.steps))

    def step() -> None:
        number = next(numbers)
        runner.step(batch.pixels, masks[number], number)

    started = time.perf_counter()
    step()
    synchronize(device)
    first = time.perf_counter() - started
    for _ in range(timing.warmup - 1):
        step()
    reset_peak(device)
    milliseconds = times(step, timing.steps, device)
    flops = statistics.mean(step_flops(config.model, batch.pixels.shape, group) for group in masks[timing.warmup :])
    median = statistics.median(milliseconds)
    return {
        "ms": median,
        "clips_per_second": 1e3 * clips / median,
        "peak_gib": peak_gib(device),
        **flops_rates(flops, median / 1e3),
        "first_step_s": first,
    }


def times(step: Callable[[], None], count: int, device: "torch.device") -> list[float]:
    """Milliseconds of each step. On a GPU from events in its stream, so that the host may run ahead."""
    import torch

    if device.type == "cuda":
        events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]  # type: ignore[no-untyped-call]
        synchronize(device)
        events[0].record()
        for event in events[1:]:
            step()
            event.record()
        synchronize(device)
        return [before.elapsed_time(after) for before, after in pairwise(events)]
    marks = [time.perf_counter()]
    for _ in range(count):
        step()
        marks.append(time.perf_counter())
    return [1e3 * (after - before) for before, after in pairwise(marks)]


def noise(config: RunConfig, device: "torch.device") -> "ClipBatch":
    """A batch of random clips."""
    import torch

    from hpc_jepa.types import ClipBatch

    clip, count = config.data.clip, config.engine.batch_size
    zeros = torch.zeros(count, dtype=torch.int64, device=device)
    return ClipBatch(
        torch.randn(count, 3, clip.frames, clip.size, clip.size, device=device), zeros, zeros, zeros.bool()
    )


def batch_masks(config: RunConfig, batch: "ClipBatch", steps: int) -> list[tuple["TokenMasks", ...]]:
    """The masks of the first steps: their numbers of tokens differ, as in training."""
    from hpc_jepa.training.build import build_masker

    masker = build_masker(config, GlooGroup())
    return [masker(step, batch) for step in range(steps)]


def synchronize(device: "torch.device") -> None:
    """Wait for the GPU."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak(device: "torch.device") -> None:
    """Reset the peak of GPU memory."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)


def peak_gib(device: "torch.device") -> float:
    """Peak of allocated GPU memory, weights included; of the memory of the process on a CPU."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def print_timings(timing: StepTiming) -> None:
    """Print one line per number of clips."""
    set_ds_accelerator()
    for result in results(timing):
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    arguments = json.loads(sys.argv[1])
    lists = {name: tuple(value) for name, value in arguments.items() if isinstance(value, list)}
    print_timings(StepTiming(**{**arguments, **lists}))
