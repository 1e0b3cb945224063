#!/usr/bin/env python3
"""Cost of a step over clips, tokens, objectives and processes, and predicted efficiency on many GPUs.

    python tools/bench_scaling.py --out FOLDER           a few minutes on two cores; scaling.png and prediction.png
    python tools/bench_scaling.py --quick --json         two rounds, numbers only

A step is a whole one with clips and masks ready: three networks, objectives, backward, optimizer, EMA. All cases
alternate in every round. Processes share one batch, each with one thread, and also the cores and memory of the machine:
the effect of a network is not measured. It is PREDICTED, from FLOPs and bytes alone (tools/scaling_model.py).
"""

import json
import multiprocessing
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from scaling_model import Network, predict
from scaling_plots import draw_measured, draw_predicted
from timing import Work, best_device, device_name, medians, one_line_errors, quick_option, require_writable

from hpc_jepa.cli.console import progress_bar
from hpc_jepa.config.loading import find_config, merge_files, read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.distributed import rank, world_size
from hpc_jepa.errors import HpcJepaError, InputError
from hpc_jepa.masking.mask_sampler import MaskSampler
from hpc_jepa.models.flops import step_flops
from hpc_jepa.training.step_runner import StepRunner
from hpc_jepa.types import ClipBatch, TokenGrid, TokenMasks

CLIPS = (1, 2, 4, 8)
SIDES = (4, 8, 12, 16)
"""Sides of a clip, in patches."""
ADDED = ("fwm", "hw", "ld", "ltc", "ac")
"""Objectives, added to the base loss in this order."""
PROCESSES = (2, 4)
SIDE, FRAMES, BATCH = 8, 8, 4

GPUS = (1, 8, 16, 32, 64, 128, 256, 512)
NETWORKS = (
    Network("8 cards of 400 Gb/s", gpus_per_node=8, within=450e9, between=400e9, hop=5e-6),
    Network("1 card of 200 Gb/s", gpus_per_node=8, within=450e9, between=25e9, hop=5e-6),
)
PEAK, UTILISATION, CLIPS_EACH = 989e12, 0.45, 16
"""Per GPU: bf16 FLOP/s of an H100 or H200, assumed MFU, and clips."""
ASSUMED = (
    f"predicted from {UTILISATION:.0%} of {PEAK / 1e12:.0f} TFLOP/s, {CLIPS_EACH} clips of 16x224x224 on each GPU, "
    "ZeRO stage 1 in rings, 450 GB/s within a node, 5 microseconds a hop. Lower edge: no overlap of "
    "communication and compute; upper edge: gradients overlap with the backward pass"
)


class Steps:
    """Whole training steps of one model on prepared batches."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._training = StepRunner(config)

    def batch(self, clips: int, side: int) -> tuple[torch.Tensor, tuple[TokenMasks, ...]]:
        """Random pixels and real masks: this process's share of the clips, ``side`` patches wide."""
        config, share = self._config, clips // world_size()
        length = side * config.model.encoder.patch
        pixels = torch.randn(share, 3, FRAMES, length, length, device=self._training.device)
        nothing = torch.zeros(share, dtype=torch.int64, device=self._training.device)
        grid = TokenGrid(FRAMES // config.model.encoder.tubelet, side, side)
        sampler = MaskSampler(
            config.masking, config.semantics, grid, seed=0, batch_size=clips, rank=rank(), world_size=world_size()
        )
        return pixels, sampler(0, ClipBatch(pixels, nothing, nothing, nothing.bool()))

    def work(self, clips: int, side: int) -> Work:
        """A repeatable step."""
        return partial(self._training.step, *self.batch(clips, side))

    def flops(self, clips: int, side: int) -> int:
        """FLOPs of such a step."""
        pixels, masks = self.batch(clips, side)
        return step_flops(self._config.model, pixels.shape, masks)


class ProcessGroup:
    """Child processes that share a batch and run each step together."""

    def __init__(self, processes: int, config: RunConfig, clips: int) -> None:
        context, port = multiprocessing.get_context("spawn"), _free_port()
        pipes = [context.Pipe() for _ in range(processes)]
        self._ends = [mine for mine, _ in pipes]
        self._processes = [
            context.Process(target=_process_main, args=(number, processes, port, theirs, config, clips), daemon=True)
            for number, (_, theirs) in enumerate(pipes)
        ]
        for process in self._processes:
            process.start()
        for _, theirs in pipes:
            theirs.close()
        self._wait_for_all()

    def step(self) -> None:
        """One step of all processes."""
        for end in self._ends:
            end.send(True)
        self._wait_for_all()

    def close(self) -> None:
        """Stop the processes."""
        for end in self._ends:
            end.send(False)
        for process in self._processes:
            process.join()

    def _wait_for_all(self) -> None:
        try:
            for end in self._ends:
                end.recv()
        except EOFError as error:
            raise HpcJepaError("a benchmark process has exited; see its output above") from error


def _process_main(number: int, processes: int, port: int, pipe: Connection, config: RunConfig, clips: int) -> None:
    """Child process: one step for every True."""
    variables = {"RANK": number, "WORLD_SIZE": processes, "LOCAL_RANK": number, "MASTER_PORT": port}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in variables.items()}}
    torch.set_num_threads(1)
    step = Steps(config).work(clips, SIDE)
    pipe.send("ready")
    while pipe.recv():
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        pipe.send("done")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def config_of(model: str, objectives: Sequence[str] = (), batch: int = BATCH) -> RunConfig:
    """A run of a model preset on clips of 8 frames, 8 patches wide."""
    settings = merge_files([find_config(model, "model")]).values
    patch = settings["model"]["encoder"]["patch"]
    return RunConfig.model_validate(
        settings
        | {
            "regime": "scaling",
            "data": {"sources": {"none": {"shards": "none"}}, "clip": {"frames": FRAMES, "size": SIDE * patch}},
            "objectives": list(objectives),
            "engine": {"batch_size": batch, "precision": "bf16" if torch.cuda.is_available() else "fp32"},
        }
    )


def measure(
    model: str, rounds: int, batch: int, process_counts: list[int], advance: Callable[[], None]
) -> dict[str, Any]:
    """Median milliseconds of a step by axis and value, and the FLOPs of each crop size.

    ``batch`` clips are shared by each number of processes in ``process_counts``.
    """
    device = best_device()
    if device.type == "cpu":
        torch.set_num_threads(1)
    steps_by_count = [Steps(config_of(model, ADDED[:count])) for count in range(len(ADDED) + 1)]
    patch = config_of(model).model.encoder.patch
    with ExitStack() as running:
        sides: dict[str, Work] = {f"clips {clips}": steps_by_count[0].work(clips, SIDE) for clips in CLIPS}
        sides |= {f"tokens {side}": steps_by_count[0].work(BATCH, side) for side in SIDES}
        sides |= {f"objectives {count}": steps.work(BATCH, SIDE) for count, steps in enumerate(steps_by_count)}
        sides["processes 1"] = steps_by_count[0].work(batch, SIDE)
        for count in process_counts:
            group = ProcessGroup(count, config_of(model, batch=batch), batch)
            running.callback(group.close)
            sides[f"processes {count}"] = group.step
        times = medians(sides, rounds, device, advance)

    def axis(name: str) -> dict[str, float]:
        return {side.split()[1]: spent for side, spent in times.items() if side.split()[0] == name}

    flops = {side: steps_by_count[0].flops(BATCH, side) for side in SIDES}
    tokens = {side: FRAMES // config_of(model).model.encoder.tubelet * side**2 for side in SIDES}
    return {
        "clips": axis("clips"),
        "tokens": {
            str(tokens[side]): {"ms": times[f"tokens {side}"], "pixels": side * patch, "gflop": flops[side] / 1e9}
            for side in SIDES
        },
        "objectives": axis("objectives"),
        "added": list(ADDED),
        "processes": axis("processes"),
        "shape": {"model": model, "clips": BATCH, "shared_clips": batch, "pixels": SIDE * patch, "frames": FRAMES},
        "device": device_name(device),
        "hardware_threads": os.cpu_count(),
    }


def process_counts_for(processes: int, batch: int) -> list[int]:
    """Process counts above one, each process with a device. Raises InputError if they do not divide the batch."""
    most = min(processes, torch.cuda.device_count()) if torch.cuda.is_available() else processes
    counts = [count for count in PROCESSES if count <= most]
    for count in counts:
        if batch % count:
            raise InputError(f"--batch {batch}: not divisible by {count} processes; use a multiple of {counts[-1]}")
    return counts


def predicted() -> list[dict[str, Any]]:
    """Efficiency of two model presets on two networks, on 1 to 512 GPUs."""
    rows = []
    for model in ("base", "large"):
        for network in NETWORKS:
            for gpus in GPUS:
                config = read_config(
                    RunConfig,
                    [find_config("ucf101", "regime"), find_config(model, "model")],
                    [f"engine.batch_size={CLIPS_EACH}"],
                )
                step = predict(config, gpus, network, PEAK, UTILISATION)
                rows.append(
                    {
                        "model": model,
                        "network": network.name,
                        "gpus": gpus,
                        "arithmetic_ms": 1e3 * step.compute,
                        "exchange_ms": 1e3 * step.communication,
                        "efficiency": step.efficiency,
                        "overlapped_efficiency": step.overlapped_efficiency,
                    }
                )
    return rows


def show(result: dict[str, Any]) -> None:
    """Print the measurements and, separately, the prediction."""
    console = Console()
    measured = Table("axis", "value", "ms", "over first", title="measured")
    for name in ("clips", "tokens", "objectives", "processes"):
        values = {value: each["ms"] if name == "tokens" else each for value, each in result[name].items()}
        first = next(iter(values.values()))
        for value, taken in values.items():
            measured.add_row(name, value, f"{taken:.1f}", f"{taken / first:.2f}")
    console.print(measured)
    columns = list(dict.fromkeys((row["model"], row["network"]) for row in result["prediction"]))
    prediction = Table("GPUs", *(f"{model}, {network}" for model, network in columns), title="PREDICTION: efficiency")
    for gpus in GPUS:
        rows = [row for row in result["prediction"] if row["gpus"] == gpus]
        spans = [f"{row['efficiency']:.0%} to {row['overlapped_efficiency']:.0%}" for row in rows]
        prediction.add_row(str(gpus), *spans)
    console.print(prediction)
    console.print(f"PREDICTION: {ASSUMED}", soft_wrap=True, highlight=False)


def summary(result: dict[str, Any]) -> str:
    """One line about the measurements."""

    def growth(axis: str) -> float:
        values = list(result[axis].values())
        first, last = (each["ms"] if axis == "tokens" else each for each in (values[0], values[-1]))
        return float(last / first)

    more, processes = growth("objectives") - 1, list(result["processes"])[-1]
    return (
        f"{CLIPS[-1]} clips cost {growth('clips'):.1f} times one, {len(ADDED)} objectives {more:+.0%}, "
        f"{processes} processes {growth('processes'):.2f} times one, {result['device']}"
    )


def main(
    model: Annotated[str, typer.Option(help="Name in configs/model/.")] = "tiny",
    rounds: Annotated[int, typer.Option(min=1, help="Counted rounds.")] = 7,
    batch: Annotated[int, typer.Option(min=4, help="Clips shared by the processes.")] = 8,
    processes: Annotated[int, typer.Option(min=1, help="Maximum number of processes.")] = 4,
    out: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder for scaling.png, prediction.png and scaling.json.")
    ] = None,
    quick: Annotated[bool, quick_option("2 rounds.", rounds=2)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the cost of a step over clips, tokens, objectives and processes, and the prediction for many GPUs."""
    with one_line_errors():
        if out is not None:
            require_writable(out)  # before minutes of measuring
        process_counts = process_counts_for(processes, batch)
        with progress_bar("bench", rounds + 1) as advance:
            result = measure(model, rounds, batch, process_counts, advance) | {"prediction": predicted()}
    if out is not None:
        draw_measured(result, out / "scaling.png")
        draw_predicted(result["prediction"], ASSUMED, out / "prediction.png")
        (out / "scaling.json").write_text(json.dumps(result, indent=1))
    if as_json:
        typer.echo(json.dumps(result))
        return
    show(result)
    typer.echo(summary(result))


if __name__ == "__main__":
    typer.run(main)
