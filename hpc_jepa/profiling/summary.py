"""The one-page summary of a profile, in Markdown."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from hpc_jepa.config.run import RunConfig
from hpc_jepa.distributed import world_size
from hpc_jepa.io.revision import code_revision
from hpc_jepa.profiling.mfu import flops_rates
from hpc_jepa.profiling.trace import BETWEEN, IDLE, Trace

NOTABLE_WAIT = 0.03
"""Share of the time in waiting for data, or between steps, from which the page suggests a remedy."""
NOTABLE_IDLE = 0.1
FRAME = re.compile(r"(?P<file>(?:hpc_jepa|deepspeed)/.*)\((?P<line>\d+)\): (?P<function>.*)")


@dataclass(frozen=True)
class ProfiledSteps:
    """What was profiled.

    seconds: time of a step before profiling. flops: of a step on this rank. operators: the profiler's operator table.
    """

    config: RunConfig
    first_step: int
    seconds: float
    flops: int
    operators: str


def summary_page(steps: ProfiledSteps, trace: Trace, stacks: Trace, trace_file: Path) -> str:
    """Markdown page about the steps in ``trace``; ``stacks``: one more step, with Python frames."""
    return "\n\n".join(
        [
            "# Where a step spends its time",
            _header(steps, trace),
            "## Findings",
            "\n".join(f"- {line}" for line in _findings(trace, stacks)),
            "## Phases",
            _phase_table(trace),
            "## Operators",
            f"```\n{steps.operators.strip()}\n```",
            f"All calls are in `{trace_file}`; open it in https://ui.perfetto.dev.\n",
        ]
    )


def _header(steps: ProfiledSteps, trace: Trace) -> str:
    config, last = steps.config, steps.first_step + len(trace.steps) - 1
    clip = f"{config.data.clip.frames}x{config.data.clip.size}x{config.data.clip.size}"
    device = torch.cuda.get_device_name() if trace.on_gpu else f"CPU with {os.cpu_count()} threads"
    accumulated = f" in {config.engine.accumulation} micro-batches" if config.engine.accumulation > 1 else ""
    compiled = ", compiled blocks" if config.engine.compile else ""
    rates = flops_rates(steps.flops, trace.step_milliseconds / 1e3)
    mfu = f", MFU {rates['mfu']:.1%}" if "mfu" in rates else ""
    return (
        f"`{config.folder}`, steps {steps.first_step} to {last}: {config.engine.batch_size} clips of {clip} on "
        f"{world_size()} rank(s){accumulated}, ZeRO stage {config.engine.zero_stage}, {config.engine.precision}, model "
        f"{config.model.size}{compiled}.  \n"
        f"{device}, {torch.get_num_threads()} used by PyTorch {torch.__version__}, commit {code_revision()}.  \n"
        f"Step time: {trace.step_milliseconds:.1f} ms profiled, {1e3 * steps.seconds:.1f} ms before; "
        f"{steps.flops / 1e9:,.1f} GFLOP, {rates['tflops_per_second']:.3g} TFLOP/s{mfu}; "
        f"{len(trace.operators) / len(trace.steps):,.0f} operators, "
        f"{len(trace.device_work) / len(trace.steps):,.0f} kernels and copies."
    )


def _findings(trace: Trace, stacks: Trace) -> Iterator[str]:
    """Where the time goes, with remedies."""
    shares = trace.device_shares() if trace.on_gpu else trace.host_shares()
    first, second = sorted(shares, key=lambda name: -shares[name])[:2]
    yield f"Most time: {first} ({shares[first]:.0%}), then {second} ({shares[second]:.0%})."
    if (waiting := shares.get("data wait", 0.0)) > NOTABLE_WAIT:
        yield (
            f"Data wait: {waiting:.0%}. Raise `data.decode_threads`, or transcode the shards (docs/reading.md; "
            "`hpc-jepa shards bench` measures how many GPUs they can feed)."
        )
    if (idle := shares.get(IDLE, 0.0)) > NOTABLE_IDLE:
        yield (
            f"GPU idle although data are ready: {idle:.0%}. The host launches kernels too slowly: use more clips per "
            "process, or `engine.compile=true`."
        )
    if (between := shares.get(BETWEEN, 0.0)) > NOTABLE_WAIT:
        yield f"Between steps: {between:.0%}. Check `checkpoint.every`, and whether other ranks lag."
    yield _host_sync_report(trace, stacks)


def _host_sync_report(trace: Trace, stacks: Trace) -> str:
    """Host syncs per step, and the code that causes them."""
    count = len(trace.host_syncs()) / len(trace.steps)
    note = "" if trace.on_gpu else " (upper bound: on a GPU only those on GPU tensors)"
    locations = Counter(_location(stacks.callers(event)) for event in stacks.host_syncs()) if count else Counter[str]()
    lines = [f"  - {number} x {location}" for location, number in locations.most_common()]
    return "\n".join([f"Host syncs per step: {count:g}{note}.", *lines])


def _location(callers: list[str]) -> str:
    """The innermost frame in this package, and the one in DeepSpeed if that is further in."""
    frames = [frame for name in callers if (frame := FRAME.search(name))]
    if not frames:
        return "not called from Python"
    own = next((frame for frame in reversed(frames) if frame["file"].startswith("hpc_jepa/")), frames[-1])
    shown = dict.fromkeys(f"`{f['function']}` at {f['file']}:{f['line']}" for f in (frames[-1], own))
    return " in ".join(shown)


def _phase_table(trace: Trace) -> str:
    """Share and milliseconds of each phase; with a GPU, of its time, with the shares of the host beside them."""
    host = trace.host_shares()
    shares = trace.device_shares() if trace.on_gpu else host
    header = ["phase", "share", "ms per step", *(["host share"] if trace.on_gpu else [])]
    rows = [header, ["---", *["---:"] * (len(header) - 1)]]
    for name in dict.fromkeys((*shares, *host)):
        share = shares.get(name, 0.0)
        host_share = [f"{host.get(name, 0.0):.1%}"] if trace.on_gpu else []
        rows.append([name, f"{share:.1%}", f"{share * trace.step_milliseconds:.2f}", *host_share])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
