"""The real command on the GPU: a profiled run, killed and resumed."""

import gzip
import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from hpc_jepa.cli.gpu_check.children import last_line, module, run_command, visible_devices
from hpc_jepa.cli.gpu_check.clips import generated_shards
from hpc_jepa.cli.gpu_check.part import PartContext, Verdict, verdict_of
from hpc_jepa.cli.gpu_check.speed import OBJECTIVE, TINY
from hpc_jepa.cli.gpu_check.zero_stages import compare
from hpc_jepa.config.loading import read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.errors import HpcJepaError
from hpc_jepa.profiling.trace import IDLE, Trace
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.study.gpu_memory import memory_plan

STEPS, SAVE_EVERY, STEPS_LOST = 40, 12, 3
"""Steps of the run, between its checkpoints, and after a checkpoint until it is killed.

A save waits for the previous one, so the first checkpoint exists by step 24 even on a slow disk, and the run is still
long enough to be killed.
"""
TOLERANCE = 0.02
"""Relative difference of a repeated loss. A GPU adds in another order each time; a CPU repeats it to the bit."""
MEMORY_SHARE = 0.7


def profile_and_resume(context: PartContext) -> Verdict:
    """``hpc-jepa train --profile`` on generated clips; SIGKILL; the same command again, to the end."""
    import nvidia.dali  # noqa: F401  # skips this part before it starts if DALI is not installed

    shards = generated_shards(context.folder / "shards", context.mode.rehearse)
    layers, settings = run_config(context, shards)
    config = read_config(RunConfig, layers, settings)
    folder = RunDir(config.folder)
    command = module("hpc_jepa", "train", *layers, *settings)
    before = killed_losses([*command, "--profile"], folder, context.folder / "train.log")
    problems = [f"no profile in {folder.profile_dir.name}/"] if not report_profile(context, config, folder) else []
    saved = folder.last_step()
    run_command(command)
    after = {record.step: record.loss for record in folder.logged_metrics()}
    state = folder.state.state if folder.state else "none"
    repeated = {step: after[step] for step in before if step >= saved and step in after}
    difference = compare(before, repeated)["all"]
    context.row(
        "Killed and resumed",
        killed_after_step=max(before) + 1,
        resumed_after=saved,
        state=state,
        steps=len(after),
        repeated_steps=len(repeated),
        loss_difference=difference,
    )
    if state != "done" or sorted(after) != list(range(STEPS)):
        problems.append(f"the resumed run is {state} with {len(after)} of {STEPS} steps")
    if not difference <= TOLERANCE:
        problems.append(f"losses after resuming differ by {difference:.1e}")
    return verdict_of(problems, 0, f"profiled, killed after step {max(before)}, resumed after {saved}, complete")


def run_config(context: PartContext, shards: Path) -> tuple[list[str], list[str]]:
    """Files and settings: ViT-B with as many clips as fit with a margin, or the tiny stand-in."""
    regime = context.folder / "regime.yaml"
    data = {"sources": {"generated": {"shards": str(shards)}}, "clip": {"stride": 1}, "decode_threads": 4}
    regime.write_text(json.dumps({"regime": "check", "data": data}))  # JSON is YAML
    layers = [str(regime), OBJECTIVE]
    small = [*TINY, "engine.precision=fp32"] if context.mode.rehearse else []
    settings = [
        *small,
        f"runs={context.folder / 'runs'}",
        f"schedule.steps={STEPS}",
        f"checkpoint.every={SAVE_EVERY}",
        "monitor.log_every=1",
        "monitor.health_every=5",
    ]
    clips = 2 if context.mode.rehearse else fitting_clips(layers, settings)
    return layers, [*settings, f"engine.batch_size={clips}"]


def fitting_clips(layers: list[str], settings: list[str]) -> int:
    """The most clips, up to 64, for which the estimated memory is a safe share of the GPU's."""
    memory = visible_devices().memory[0]
    for clips in (64, 32, 16, 8, 4):
        config = read_config(RunConfig, layers, [*settings, f"engine.batch_size={clips}"])
        if memory_plan(config, 1).total < MEMORY_SHARE * memory:
            return clips
    return 2


def killed_losses(command: list[str], folder: RunDir, log: Path) -> dict[int, float]:
    """Start a run, kill it some steps after its first checkpoint; the losses that it had logged.

    Raises HpcJepaError if it ends by itself.
    """
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process:
        while process.poll() is None:
            if 0 < folder.last_step() <= len(logged_losses(folder)) - STEPS_LOST:
                process.kill()
            time.sleep(0.1)
    text = log.read_text(errors="replace")
    print(text, flush=True)
    if process.returncode != -signal.SIGKILL:
        raise HpcJepaError(f"hpc-jepa train: exit code {process.returncode}, not killed: {last_line(text)}")
    return logged_losses(folder)


def logged_losses(folder: RunDir) -> dict[int, float]:
    """Logged losses by step; none before the run folder exists."""
    if not folder.metrics_file.exists():
        return {}
    return {record.step: record.loss for record in folder.logged_metrics()}


def report_profile(context: PartContext, config: RunConfig, folder: RunDir) -> bool:
    """Report the profile of the run. False if it wrote none."""
    traces = list(folder.profile_dir.glob("trace.json*"))
    if not traces:
        return False
    trace = Trace(unpacked(traces[0], context.folder))
    shares = trace.device_shares() if trace.on_gpu else trace.host_shares()
    steps = len(trace.steps)
    figures: dict[str, Any] = {
        "clips": config.engine.batch_size,
        "ms": trace.step_milliseconds,
        "operators": len(trace.operators) // steps,
        "kernels_and_copies": len(trace.device_work) // steps,
        "host_syncs": len(trace.host_syncs()) / steps,
        "idle": shares.get(IDLE),
    }
    context.row("A step, profiled (counts per step; idle: share of the time)", **figures)
    for name, share in shares.items():
        context.row("Shares of the phases", phase=name, share=share, ms=share * trace.step_milliseconds)
    return True


def unpacked(trace: Path, folder: Path) -> Path:
    """The trace as plain JSON."""
    if trace.suffix != ".gz":
        return trace
    plain = folder / "trace.json"
    plain.write_bytes(gzip.decompress(trace.read_bytes()))
    return plain
