#!/usr/bin/env python3
"""Training step: time of each phase, compared with its FLOPs and with other people's code.

    python tools/bench_step.py                                      ViT-B of the study, UCF-101 regime, fwm_hw_ld
    python tools/bench_step.py --quick                              the same with 2 clips, 2 rounds
    python tools/bench_step.py CONFIG... engine.precision=fp32      another configuration
    python tools/bench_step.py --compare engine.compile=true         compared with another setting
    python tools/bench_step.py --count                              kernels, casts and bytes on a GPU, with 64 clips
    python tools/bench_step.py --peer FOLDER --peer-config YAML     compared with V-JEPA 2 or the study's code

Clips are noise; ``bench_data.py`` measures decoding. Phases are timed one after the other with synchronisation in
between, so nothing overlaps: their sum is an upper bound of a real step. The lower bound is the FLOPs of the three
networks (without recomputation) at the speed of a large matrix product, measured in the same run. ``--peer`` takes a
checkout of facebookresearch/vjepa2 or of the code published with the study, with the packages it needs; ``--peer-set
key.sub=value`` changes its YAML. Its batch size is set to ours. ``--count`` measures no time: it counts what a GPU
would execute, on tensors without data, and needs no GPU.
"""

import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
import yaml
from peer_training import PeerTraining
from rich.console import Console
from rich.table import Table
from step_counts import as_json as counts_as_json
from step_counts import count_step, show_counts
from timing import PeakMemory, device_name, medians, one_line_errors, quick_option, release_freed_memory
from torch import Tensor, nn

from hpc_jepa.cli.console import progress_bar
from hpc_jepa.config.loading import read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.distributed import GlooGroup
from hpc_jepa.errors import InputError
from hpc_jepa.models.flops import step_flops
from hpc_jepa.models.video_jepa import HALF
from hpc_jepa.training.step_runner import StepRunner
from hpc_jepa.types import ClipBatch

PAPER = ["configs/regime/ucf101.yaml", "configs/objective/fwm_hw_ld.yaml", "engine.batch_size=8"]
QUICK = [*PAPER[:2], "engine.batch_size=2"]
COUNTED = [*PAPER[:2], "engine.batch_size=64"]
PHASES = ("target", "student", "predictor", "objectives", "backward", "optimizer", "EMA")
PRODUCT = (4096, 768, 3072)
"""Rows, inputs and outputs of the matrix product of the lower bound: the MLP of a ViT-B."""


class PhaseTimer:
    """Seconds of each phase of each step."""

    def __init__(self, device: torch.device) -> None:
        self.steps: list[dict[str, float]] = []
        self._device = device

    def begin(self) -> None:
        """Start a step."""
        self.steps.append(defaultdict(float))

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a block."""
        started = self._now()
        yield
        self.steps[-1][name] += self._now() - started

    def watch(self, module: nn.Module, name: str) -> None:
        """Time the forward pass of a module; not with hooks, which training bypasses for some modules."""
        forward = module.forward

        def timed(*inputs: Any) -> Any:
            with self.phase(name):
                return forward(*inputs)

        module.forward = timed

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


class Steps:
    """Training steps on clips of noise, timed by phase."""

    def __init__(self, config: RunConfig, keep_memory: bool) -> None:
        self.runner = StepRunner(config, keep_memory)
        from hpc_jepa.training.build import build_masker

        self.config, self.device = config, self.runner.device
        self.timer = PhaseTimer(self.device)
        self.flops: list[int] = []
        self._masker = build_masker(config, GlooGroup())
        for name in ("target", "student", "predictor"):
            self.timer.watch(getattr(self.runner.model, name), name)
        self.timer.watch(self.runner.objectives, "objectives")

    def __call__(self) -> None:
        """Run the next step."""
        number = len(self.flops)
        clips = self._clips()
        masks = self._masker(number, clips)
        self.timer.begin()
        with self.timer.phase("step"):
            self.runner.step(clips.pixels, masks, number, self.timer.phase)
        self.flops.append(step_flops(self.config.model, clips.pixels.shape, masks))

    @property
    def milliseconds(self) -> float:
        """Median of all steps but the first, without the masks, which training prefetches."""
        return 1e3 * statistics.median(step["step"] for step in self.timer.steps[1:])

    def peak(self) -> float:
        """Peak memory of one step in MB: activations and gradients."""
        release_freed_memory()
        with PeakMemory(self.device).watching() as memory:
            self()
        return memory.bytes / 1e6

    def _clips(self) -> ClipBatch:
        clip, count = self.config.data.clip, self.config.engine.batch_size
        zeros = torch.zeros(count, dtype=torch.int64, device=self.device)
        pixels = torch.randn(count, 3, clip.frames, clip.size, clip.size, device=self.device)
        return ClipBatch(pixels, zeros, zeros, zeros.bool())


def matrix_product(config: RunConfig, device: torch.device) -> Callable[[], Tensor]:
    """A large matrix product in the precision of the run."""
    rows, inputs, outputs = PRODUCT
    dtype = HALF.get(config.engine.precision, torch.float32)
    a, b = (
        torch.randn(rows, inputs, dtype=dtype, device=device),
        torch.randn(inputs, outputs, dtype=dtype, device=device),
    )
    return lambda: a @ b


def measure(
    config: RunConfig, other: RunConfig | None, peer: PeerTraining | None, rounds: int, keep_memory: bool
) -> dict[str, Any]:
    """Median milliseconds of our step, its phases and lower bound, of another setting, and of the peer."""
    steps = Steps(config, keep_memory)
    compare = None if other is None else Steps(other, keep_memory)
    theirs: list[float] = []
    sides: dict[str, Callable[[], object]] = {"ours": steps, "product": matrix_product(config, steps.device)}
    if compare is not None:
        sides["compare"] = compare
    if peer is not None:
        sides["peer"] = lambda: theirs.append(peer.step())  # timed in its own process
    with progress_bar("bench", rounds + 1) as advance:
        times = medians(sides, rounds, steps.device, advance)
    timed = steps.timer.steps[1:]
    phases = {phase: 1e3 * statistics.median(step[phase] for step in timed) for phase in PHASES}
    step = steps.milliseconds
    rows, inputs, outputs = PRODUCT
    rate = 2 * rows * inputs * outputs / times["product"]
    flops = statistics.median(steps.flops[1:])
    return {
        "phases_ms": phases,
        "step_ms": step,
        "floor_ms": flops / rate,
        "peer_ms": statistics.median(theirs[1:]) if theirs else None,
        "compare_ms": compare.milliseconds if compare else None,
        "peak_mb": steps.peak(),
        "compare_peak_mb": compare.peak() if compare else None,
        "flops": flops,
        "gflops_per_second": {"step": flops / step / 1e6, "matrix product": rate / 1e6},
        "clips": config.engine.batch_size,
        "clips_per_second": 1e3 * config.engine.batch_size / step,
        "precision": config.engine.precision,
        "rounds": rounds,
        "device": device_name(steps.device),
    }


def peer_settings(settings: list[str]) -> dict[str, object]:
    """Keys and values of ``key.sub=value``. Raises InputError without a ``=``."""
    for setting in settings:
        if "=" not in setting:
            raise InputError(f"--peer-set {setting}: expected key.sub=value")
    return {key: yaml.safe_load(value) for key, value in (setting.split("=", 1) for setting in settings)}


def show(result: dict[str, Any]) -> None:
    """Print the phases as a table and a one-line summary."""
    table = Table("phase", "median ms", "share")
    total = sum(result["phases_ms"].values())
    for phase, taken in result["phases_ms"].items():
        table.add_row(phase, f"{taken:.1f}", f"{taken / total:.1%}")
    Console().print(table)
    typer.echo(summary(result))


def summary(result: dict[str, Any]) -> str:
    """One line: the step, its lower bound, and the comparisons."""
    rates, step = result["gflops_per_second"], result["step_ms"]
    clips = "1 clip" if result["clips"] == 1 else f"{result['clips']} clips"
    parts = [
        f"{result['precision']}, {clips}: step {step:.0f} ms ({result['clips_per_second']:.3g} clips a second)",
        f"lower bound {result['floor_ms']:.0f} ms ({rates['step']:.0f} of {rates['matrix product']:.0f} GFLOP/s)",
        f"peak {result['peak_mb']:.0f} MB",
    ]
    if (compare := result["compare_ms"]) is not None:
        settings = " ".join(result["compare"])
        parts.append(f"with {settings} {compare:.0f} ms: {compare / step:.2f} times as long")
        parts.append(f"peak {result['compare_peak_mb']:.0f} MB")
    if (peer := result["peer_ms"]) is not None:
        parts.append(f"peer ({Path(result['peer_config']).stem}) {peer:.0f} ms: {peer / step:.2f} times as long")
    return f"{', '.join(parts)}; {result['device']}"


def main(
    arguments: Annotated[list[str] | None, typer.Argument(metavar="CONFIG|KEY=VALUE")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Counted rounds.")] = 5,
    quick: Annotated[bool, quick_option("2 rounds, and 2 clips without a configuration.", rounds=2)] = False,
    compare: Annotated[list[str] | None, typer.Option(help="KEY=VALUE to compare with; repeatable.")] = None,
    peer: Annotated[Path | None, typer.Option(help="Checkout of the code to compare with.")] = None,
    peer_config: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Its YAML file.")] = None,
    peer_set: Annotated[list[str] | None, typer.Option(help="key.sub=value in its YAML file; repeatable.")] = None,
    give_memory_back: Annotated[
        bool, typer.Option("--give-memory-back", help="On a CPU: return freed memory to the system.")
    ] = False,
    count: Annotated[bool, typer.Option("--count", help="Count kernels, casts, bytes and FLOPs instead.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the cost of a training step."""
    arguments = arguments or []
    if all("=" in argument for argument in arguments):
        arguments = [*(COUNTED if count else QUICK if quick else PAPER), *arguments]
    layers = [argument for argument in arguments if "=" not in argument]
    settings = [argument for argument in arguments if "=" in argument]
    if (peer is None) != (peer_config is None):
        raise typer.BadParameter("--peer and --peer-config must be given together")
    with one_line_errors(), tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        settings = [*settings, f"runs={Path(scratch)}"]
        config = read_config(RunConfig, layers, settings)
        if count:
            counters = count_step(config)
            typer.echo(json.dumps(counts_as_json(counters))) if as_json else show_counts(counters)
            return
        other = read_config(RunConfig, layers, [*settings, *compare]) if compare else None
        if other is not None and 3 in {config.engine.zero_stage, other.engine.zero_stage}:
            raise InputError(
                "--compare engine.zero_stage=3: DeepSpeed replaces torch.nn.functional.linear for both; run it alone"
            )
        theirs = None
        if peer is not None and peer_config is not None:
            same = {"data.batch_size": config.engine.batch_size, "data.crop_size": config.data.clip.size}
            theirs = stack.enter_context(PeerTraining(peer, peer_config, same | peer_settings(peer_set or [])))
        result = measure(config, other, theirs, rounds, not give_memory_back)
    result |= {"compare": compare, "peer_config": str(peer_config) if peer_config else None}
    if as_json:
        typer.echo(json.dumps(result))
    else:
        show(result)


if __name__ == "__main__":
    typer.run(main)
