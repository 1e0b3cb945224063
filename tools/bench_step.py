#!/usr/bin/env python3
"""What a training step costs: each phase, against the arithmetic it must do, and against other people's code.

    python tools/bench_step.py                                      the study's ViT-B, UCF-101 regime, fwm_hw_ld
    python tools/bench_step.py --quick                              two clips of it, 2 rounds
    python tools/bench_step.py CONFIG... engine.precision=fp32      another configuration
    python tools/bench_step.py --beside engine.compile=true         beside the same step with another setting
    python tools/bench_step.py --peer FOLDER --peer-config YAML     beside V-JEPA 2, or the code of the study

Clips are noise: reading them is what ``bench_data.py`` measures. Phases are timed one after the other, with the device
idle in between, so nothing overlaps: their sum is an upper bound of a real step. The floor is the arithmetic of the
three networks (without what activation checkpointing computes again) at the speed of a large matrix product, measured
in the same run. ``--peer`` takes a checkout of facebookresearch/vjepa2 or of the code published with the study, with
the packages that it needs; ``--peer-set key.sub=value`` changes its YAML. Its batch size is set to ours.
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
from measuring import PeakMemory, errors_in_one_line, medians, name_of, quick_form, release_freed_memory
from peer_training import PeerTraining
from rich.console import Console
from rich.table import Table
from stepping import Training
from torch import Tensor, nn

from hpc_jepa.cli.console import progress_bar
from hpc_jepa.config.loading import read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.distributed import GlooGroup
from hpc_jepa.errors import InputError
from hpc_jepa.models.flops import step_flops
from hpc_jepa.types import ClipBatch

PAPER = ["configs/regime/ucf101.yaml", "configs/objective/fwm_hw_ld.yaml", "engine.batch_size=8"]
QUICK = [*PAPER[:2], "engine.batch_size=2"]
PHASES = ("target", "student", "predictor", "objectives", "backward", "optimizer", "EMA")
PRODUCT = (4096, 768, 3072)
"""Rows, inputs and outputs of the matrix product whose speed is the floor: the MLP of a ViT-B."""


class PhaseTimer:
    """Seconds spent in each phase of each step."""

    def __init__(self, device: torch.device) -> None:
        self.steps: list[dict[str, float]] = []
        self._device = device

    def begin(self) -> None:
        """Start another step."""
        self.steps.append(defaultdict(float))

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a block."""
        started = self._now()
        yield
        self.steps[-1][name] += self._now() - started

    def watch(self, module: nn.Module, name: str) -> None:
        """Time the forward pass of a module. Not by hooks: training calls some modules without them."""
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
    """One training step after the other on clips of noise, in phases."""

    def __init__(self, config: RunConfig, keep_memory: bool) -> None:
        self.training = Training(config, keep_memory)
        from hpc_jepa.training.build import build_masker

        self.config, self.device = config, self.training.device
        self.timer = PhaseTimer(self.device)
        self.flops: list[int] = []
        self._masker = build_masker(config, GlooGroup())
        for name in ("target", "student", "predictor"):
            self.timer.watch(getattr(self.training.model, name), name)
        self.timer.watch(self.training.objectives, "objectives")

    def __call__(self) -> None:
        """The next step."""
        number = len(self.flops)
        clips = self._clips()
        masks = self._masker(number, clips)
        self.timer.begin()
        with self.timer.phase("step"):
            self.training.step(clips.pixels, masks, number, self.timer.phase)
        self.flops.append(step_flops(self.config.model, clips.pixels.shape, masks))

    @property
    def milliseconds(self) -> float:
        """Median of all steps but the first. Without the making of batches, which is done beside it in training."""
        return 1e3 * statistics.median(step["step"] for step in self.timer.steps[1:])

    def peak(self) -> float:
        """MB that one more step needs beyond what lasts: activations and gradients."""
        release_freed_memory()
        with PeakMemory(self.device).watching() as memory:
            self()
        return memory.bytes / 1e6

    def _clips(self) -> ClipBatch:
        clip, count = self.config.data.clip, self.config.engine.batch_size
        nothing = torch.zeros(count, dtype=torch.int64, device=self.device)
        pixels = torch.randn(count, 3, clip.frames, clip.size, clip.size, device=self.device)
        return ClipBatch(pixels, nothing, nothing, nothing.bool())


def matrix_product(config: RunConfig, device: torch.device) -> Callable[[], Tensor]:
    """A large matrix product in the precision of the run."""
    rows, inputs, outputs = PRODUCT
    dtype = torch.bfloat16 if config.engine.precision == "bf16" else torch.float32
    a, b = (
        torch.randn(rows, inputs, dtype=dtype, device=device),
        torch.randn(inputs, outputs, dtype=dtype, device=device),
    )
    return lambda: a @ b


def measure(
    config: RunConfig, other: RunConfig | None, peer: PeerTraining | None, rounds: int, keep_memory: bool
) -> dict[str, Any]:
    """Median milliseconds of our step, of its phases, of its floor, of the same with another setting, of the peer's."""
    steps = Steps(config, keep_memory)
    beside = None if other is None else Steps(other, keep_memory)
    theirs: list[float] = []
    ways: dict[str, Callable[[], object]] = {"ours": steps, "product": matrix_product(config, steps.device)}
    if beside is not None:
        ways["beside"] = beside
    if peer is not None:
        ways["peer"] = lambda: theirs.append(peer.step())  # the clock of its own process is read
    with progress_bar("bench", rounds + 1) as advance:
        took = medians(ways, rounds, steps.device, advance)
    counted = steps.timer.steps[1:]
    phases = {phase: 1e3 * statistics.median(step[phase] for step in counted) for phase in PHASES}
    step = steps.milliseconds
    rows, inputs, outputs = PRODUCT
    rate = 2 * rows * inputs * outputs / took["product"]
    flops = statistics.median(steps.flops[1:])
    return {
        "phases_ms": phases,
        "step_ms": step,
        "floor_ms": flops / rate,
        "peer_ms": statistics.median(theirs[1:]) if theirs else None,
        "beside_ms": beside.milliseconds if beside else None,
        "peak_mb": steps.peak(),
        "beside_peak_mb": beside.peak() if beside else None,
        "flops": flops,
        "gflops_per_second": {"step": flops / step / 1e6, "matrix product": rate / 1e6},
        "clips": config.engine.batch_size,
        "clips_per_second": 1e3 * config.engine.batch_size / step,
        "precision": config.engine.precision,
        "rounds": rounds,
        "device": name_of(steps.device),
    }


def peer_settings(settings: list[str]) -> dict[str, object]:
    """``key.sub=value`` as keys and values; raises InputError where there is no ``=``."""
    for setting in settings:
        if "=" not in setting:
            raise InputError(f"--peer-set {setting}: write key.sub=value")
    return {key: yaml.safe_load(value) for key, value in (setting.split("=", 1) for setting in settings)}


def show(result: dict[str, Any]) -> None:
    """Phases as a table, the comparison as the last line."""
    table = Table("phase", "median ms", "share")
    total = sum(result["phases_ms"].values())
    for phase, taken in result["phases_ms"].items():
        table.add_row(phase, f"{taken:.1f}", f"{taken / total:.1%}")
    Console().print(table)
    typer.echo(summary(result))


def summary(result: dict[str, Any]) -> str:
    """One line: the step, its floor, and what stands beside it."""
    rates, step = result["gflops_per_second"], result["step_ms"]
    clips = "1 clip" if result["clips"] == 1 else f"{result['clips']} clips"
    parts = [
        f"{result['precision']}, {clips}: step {step:.0f} ms ({result['clips_per_second']:.3g} clips a second)",
        f"floor {result['floor_ms']:.0f} ms ({rates['step']:.0f} of {rates['matrix product']:.0f} GFLOP/s)",
        f"peak {result['peak_mb']:.0f} MB",
    ]
    if (beside := result["beside_ms"]) is not None:
        settings = " ".join(result["beside"])
        parts.append(f"with {settings} {beside:.0f} ms: {beside / step:.2f} times as long")
        parts.append(f"peak {result['beside_peak_mb']:.0f} MB")
    if (peer := result["peer_ms"]) is not None:
        parts.append(f"peer ({Path(result['peer_config']).stem}) {peer:.0f} ms: {peer / step:.2f} times as long")
    return f"{', '.join(parts)}; {result['device']}"


def main(
    arguments: Annotated[list[str] | None, typer.Argument(metavar="CONFIG|KEY=VALUE")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Counted rounds.")] = 5,
    quick: Annotated[bool, quick_form("2 rounds, and two clips where no configuration is given.", rounds=2)] = False,
    beside: Annotated[list[str] | None, typer.Option(help="KEY=VALUE of the same step beside it; repeat.")] = None,
    peer: Annotated[Path | None, typer.Option(help="Checkout of the code to compare with.")] = None,
    peer_config: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Its YAML file.")] = None,
    peer_set: Annotated[list[str] | None, typer.Option(help="key.sub=value in its YAML file; repeat.")] = None,
    give_memory_back: Annotated[
        bool, typer.Option("--give-memory-back", help="On a CPU: free memory as other programs do.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what a training step costs."""
    arguments = arguments or []
    if all("=" in argument for argument in arguments):
        arguments = [*(QUICK if quick else PAPER), *arguments]
    layers = [argument for argument in arguments if "=" not in argument]
    settings = [argument for argument in arguments if "=" in argument]
    if (peer is None) != (peer_config is None):
        raise typer.BadParameter("--peer and --peer-config belong together")
    with errors_in_one_line(), tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        settings = [*settings, f"runs={Path(scratch)}"]
        config = read_config(RunConfig, layers, settings)
        other = read_config(RunConfig, layers, [*settings, *beside]) if beside else None
        if other is not None and 3 in {config.engine.zero_stage, other.engine.zero_stage}:
            raise InputError(
                "--beside engine.zero_stage=3: DeepSpeed then changes torch's linear maps for both; measure it alone"
            )
        theirs = None
        if peer is not None and peer_config is not None:
            same = {"data.batch_size": config.engine.batch_size, "data.crop_size": config.data.clip.size}
            theirs = stack.enter_context(PeerTraining(peer, peer_config, same | peer_settings(peer_set or [])))
        result = measure(config, other, theirs, rounds, not give_memory_back)
    result |= {"beside": beside, "peer_config": str(peer_config) if peer_config else None}
    if as_json:
        typer.echo(json.dumps(result))
    else:
        show(result)


if __name__ == "__main__":
    typer.run(main)
