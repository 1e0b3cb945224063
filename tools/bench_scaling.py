#!/usr/bin/env python3
"""How the cost of a step grows with clips, tokens, objectives and processes, and what many GPUs are predicted to do.

    python tools/bench_scaling.py --out FOLDER           a few minutes on two cores; scaling.png and prediction.png
    python tools/bench_scaling.py --quick --json         two rounds, numbers only

A step is the whole of it with clips and masks ready: three networks, objectives, backward, optimizer, average of the
target. All cases take turns in every round. Processes share one batch, each computes with one thread, and those on one
machine share its cores and memory too: what networks do to a step is not seen here. That is PREDICTED, from
arithmetic and bytes alone (tools/scaling_model.py), and belongs to no machine that was measured.
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
from measuring import Work, best_device, errors_in_one_line, medians, name_of, quick_form, require_writable
from rich.console import Console
from rich.table import Table
from scaling_figure import draw_measured, draw_predicted
from scaling_model import Network, predict
from stepping import Training

from hpc_jepa.cli.console import progress_bar
from hpc_jepa.config.loading import find_config, merge_files, read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.distributed import rank, world_size
from hpc_jepa.errors import HpcJepaError, InputError
from hpc_jepa.masking.mask_sampler import MaskSampler
from hpc_jepa.models.flops import step_flops
from hpc_jepa.types import ClipBatch, TokenGrid, TokenMasks

CLIPS = (1, 2, 4, 8)
SIDES = (4, 8, 12, 16)
"""Sides of a clip, in patches."""
ADDED = ("fwm", "hw", "ld", "ltc", "ac")
"""Objectives in the order in which they are added to the base loss."""
PROCESSES = (2, 4)
SIDE, FRAMES, BATCH = 8, 8, 4

GPUS = (1, 8, 16, 32, 64, 128, 256, 512)
NETWORKS = (
    Network("8 cards of 400 Gb/s", gpus_per_node=8, within=450e9, between=400e9, hop=5e-6),
    Network("1 card of 200 Gb/s", gpus_per_node=8, within=450e9, between=25e9, hop=5e-6),
)
PEAK, UTILISATION, CLIPS_EACH = 989e12, 0.45, 16
"""Of each GPU: bf16 FLOP/s of an H100 or H200, the share that is assumed to be reached, and its clips."""
ASSUMED = (
    f"predicted from {UTILISATION:.0%} of {PEAK / 1e12:.0f} TFLOP/s, {CLIPS_EACH} clips of 16x224x224 on each GPU, "
    "ZeRO stage 1 in rings, 450 GB/s within a node, 5 microseconds a hop. Lower edge: exchange and arithmetic one "
    "after the other; upper edge: gradients travel beside the backward pass"
)


class Steps:
    """Whole training steps of one model, on batches that are ready."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._training = Training(config)

    def batch(self, clips: int, side: int) -> tuple[torch.Tensor, tuple[TokenMasks, ...]]:
        """Random pixels and real masks: this process's share of so many clips, ``side`` patches wide."""
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
        """A step that can be repeated."""
        return partial(self._training.step, *self.batch(clips, side))

    def flops(self, clips: int, side: int) -> int:
        """Arithmetic of such a step."""
        pixels, masks = self.batch(clips, side)
        return step_flops(self._config.model, pixels.shape, masks)


class Team:
    """Processes of their own that share a batch and make a step together when told to."""

    def __init__(self, processes: int, config: RunConfig, clips: int) -> None:
        context, port = multiprocessing.get_context("spawn"), _free_port()
        pipes = [context.Pipe() for _ in range(processes)]
        self._ends = [mine for mine, _ in pipes]
        self._members = [
            context.Process(target=_member, args=(number, processes, port, theirs, config, clips), daemon=True)
            for number, (_, theirs) in enumerate(pipes)
        ]
        for member in self._members:
            member.start()
        for _, theirs in pipes:
            theirs.close()
        self._all_done()

    def step(self) -> None:
        """One step, until the last process has made it."""
        for end in self._ends:
            end.send(True)
        self._all_done()

    def close(self) -> None:
        """End the processes."""
        for end in self._ends:
            end.send(False)
        for member in self._members:
            member.join()

    def _all_done(self) -> None:
        try:
            for end in self._ends:
                end.recv()
        except EOFError as error:
            raise HpcJepaError("a process of the benchmark has ended; its own lines above say why") from error


def _member(number: int, processes: int, port: int, pipe: Connection, config: RunConfig, clips: int) -> None:
    """One process of a team: a step for every True."""
    coordinates = {"RANK": number, "WORLD_SIZE": processes, "LOCAL_RANK": number, "MASTER_PORT": port}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in coordinates.items()}}
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
    """A run of a preset on clips of 8 frames, 8 patches wide."""
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


def measure(model: str, rounds: int, batch: int, teams: list[int], advance: Callable[[], None]) -> dict[str, Any]:
    """Median milliseconds of a step by axis and place on it, and the arithmetic of the crop sizes.

    ``batch`` clips are shared by so many processes as each of the ``teams`` has.
    """
    device = best_device()
    if device.type == "cpu":
        torch.set_num_threads(1)
    alone = [Steps(config_of(model, ADDED[:count])) for count in range(len(ADDED) + 1)]
    patch = config_of(model).model.encoder.patch
    with ExitStack() as running:
        ways: dict[str, Work] = {f"clips {clips}": alone[0].work(clips, SIDE) for clips in CLIPS}
        ways |= {f"tokens {side}": alone[0].work(BATCH, side) for side in SIDES}
        ways |= {f"objectives {count}": steps.work(BATCH, SIDE) for count, steps in enumerate(alone)}
        ways["processes 1"] = alone[0].work(batch, SIDE)
        for count in teams:
            team = Team(count, config_of(model, batch=batch), batch)
            running.callback(team.close)
            ways[f"processes {count}"] = team.step
        times = medians(ways, rounds, device, advance)

    def axis(name: str) -> dict[str, float]:
        return {way.split()[1]: spent for way, spent in times.items() if way.split()[0] == name}

    flops = {side: alone[0].flops(BATCH, side) for side in SIDES}
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
        "device": name_of(device),
        "hardware_threads": os.cpu_count(),
    }


def teams_of(processes: int, batch: int) -> list[int]:
    """Numbers of processes beside one, each with a device. Raises InputError where they do not divide the batch."""
    most = min(processes, torch.cuda.device_count()) if torch.cuda.is_available() else processes
    counts = [count for count in PROCESSES if count <= most]
    for count in counts:
        if batch % count:
            raise InputError(f"--batch {batch}: {count} processes cannot share it; give a multiple of {counts[-1]}")
    return counts


def predicted() -> list[dict[str, Any]]:
    """Efficiencies of two presets over two networks, on one GPU to 512."""
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
    """Tables for people; the prediction apart from what was measured."""
    console = Console()
    measured = Table("axis", "place", "ms", "of the first", title="measured")
    for name in ("clips", "tokens", "objectives", "processes"):
        figures = {place: each["ms"] if name == "tokens" else each for place, each in result[name].items()}
        first = next(iter(figures.values()))
        for place, spent in figures.items():
            measured.add_row(name, place, f"{spent:.1f}", f"{spent / first:.2f}")
    console.print(measured)
    columns = list(dict.fromkeys((row["model"], row["network"]) for row in result["prediction"]))
    guess = Table("GPUs", *(f"{model}, {network}" for model, network in columns), title="PREDICTION: efficiency")
    for gpus in GPUS:
        rows = [row for row in result["prediction"] if row["gpus"] == gpus]
        spans = [f"{row['efficiency']:.0%} to {row['overlapped_efficiency']:.0%}" for row in rows]
        guess.add_row(str(gpus), *spans)
    console.print(guess)
    console.print(f"PREDICTION: {ASSUMED}", soft_wrap=True, highlight=False)


def summary(result: dict[str, Any]) -> str:
    """The last line."""

    def growth(axis: str) -> float:
        figures = list(result[axis].values())
        first, last = (each["ms"] if axis == "tokens" else each for each in (figures[0], figures[-1]))
        return float(last / first)

    more, processes = growth("objectives") - 1, list(result["processes"])[-1]
    return (
        f"{CLIPS[-1]} clips cost {growth('clips'):.1f} times one, {len(ADDED)} objectives {more:+.0%}, "
        f"{processes} processes {growth('processes'):.2f} times one, {result['device']}"
    )


def main(
    model: Annotated[str, typer.Option(help="Preset of configs/model/.")] = "tiny",
    rounds: Annotated[int, typer.Option(min=1, help="Counted rounds.")] = 7,
    batch: Annotated[int, typer.Option(min=4, help="Clips that the processes share.")] = 8,
    processes: Annotated[int, typer.Option(min=1, help="Most processes that share them.")] = 4,
    out: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder for scaling.png, prediction.png and scaling.json.")
    ] = None,
    quick: Annotated[bool, quick_form("2 rounds.", rounds=2)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what a step costs over clips, tokens, objectives and processes, and the prediction for many GPUs."""
    with errors_in_one_line():
        if out is not None:
            require_writable(out)  # before minutes of measuring
        teams = teams_of(processes, batch)
        with progress_bar("bench", rounds + 1) as advance:
            result = measure(model, rounds, batch, teams, advance) | {"prediction": predicted()}
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
