"""The one page about a few recorded steps."""

import io
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from hpc_jepa.config.run import RunConfig
from hpc_jepa.distributed import world_size
from hpc_jepa.io.revision import code_revision
from hpc_jepa.profiling.mfu import flops_rates
from hpc_jepa.profiling.trace import BETWEEN, IDLE, Operator, Trace

DEAREST = 10
ENOUGH_WAITING = 0.03
"""Share of the time in waiting for data, or between steps, that is worth a word."""
ENOUGH_IDLENESS = 0.1

PRODUCTS = re.compile(r"^aten::(mm|addmm|bmm|baddbmm|linear|.*attention.*)$")
"""Operators whose time is arithmetic; that of most others is reading and writing memory."""
EXCHANGES = re.compile(r"^c10d::|nccl|gloo|OverProcesses")

FRAME = re.compile(r"(?P<file>(?:hpc_jepa|deepspeed)/.*)\((?P<line>\d+)\): (?P<function>.*)")


@dataclass(frozen=True)
class ProfiledSteps:
    """What was recorded: ``seconds`` of a step before that, ``flops`` of a recorded one on this process."""

    config: RunConfig
    first: int
    seconds: float
    flops: float


def summary_page(watched: ProfiledSteps, trace: Trace, stacks: Trace, file: Path) -> str:
    """Markdown. ``trace``: the recorded steps, which lie in ``file``; ``stacks``: one more, with Python's frames."""
    return "\n\n".join(
        [
            "# Where a step spends its time",
            _origin(watched, trace),
            "## What to look at",
            "\n".join(f"- {line}" for line in _advice(watched, trace, stacks)),
            "## Phases",
            _phases(trace),
            "## Counts of one step",
            _counts(watched, trace),
            f"## The {DEAREST} dearest operators",
            _operators(trace),
            f"Every call is in `{file}`; open it in https://ui.perfetto.dev.\n",
        ]
    )


def _origin(watched: ProfiledSteps, trace: Trace) -> str:
    config, last = watched.config, watched.first + len(trace.steps) - 1
    clip = f"{config.data.clip.frames}x{config.data.clip.size}x{config.data.clip.size}"
    device = torch.cuda.get_device_name() if trace.on_gpu else f"CPU of {os.cpu_count()} threads"
    return (
        f"`{config.folder}`, steps {watched.first} to {last}: {config.engine.batch_size} clips of {clip} on "
        f"{_processes(config)}, {config.engine.precision}, model {config.model.size}{_compiled(config)}.  \n"
        f"{device}, {torch.get_num_threads()} used by PyTorch {torch.__version__}, commit {code_revision()}.  \n"
        f"A step took {trace.per_step:.1f} ms while it was recorded and {1e3 * watched.seconds:.1f} ms before."
    )


def _processes(config: RunConfig) -> str:
    count = world_size()
    processes = "one process" if count == 1 else f"rank 0 of {count} processes"
    return f"{processes}, ZeRO stage {config.engine.zero_stage}"


def _compiled(config: RunConfig) -> str:
    return " with compiled blocks" if config.engine.compile else ""


def _advice(watched: ProfiledSteps, trace: Trace, stacks: Trace) -> Iterator[str]:
    """What the figures below say about what could be changed, in words."""
    shares = trace.device_shares() if trace.on_gpu else trace.host_shares()
    first, second = sorted(shares, key=lambda name: -shares[name])[:2]
    yield f"Most of the time goes to {first} ({shares[first]:.0%}), then {second} ({shares[second]:.0%})."
    if (waiting := shares.get("data wait", 0.0)) > ENOUGH_WAITING:
        yield (
            f"{waiting:.0%} is waiting for data: raise `data.decode_threads`, or transcode the shards "
            "(docs/reading.md; `hpc-jepa shards bench` says how many GPUs they feed)."
        )
    if (idle := shares.get(IDLE, 0.0)) > ENOUGH_IDLENESS:
        yield (
            f"The GPU is idle {idle:.0%} of the time, though data are there: the host does not keep up with launching. "
            "More clips on each process make every launch larger, `engine.compile=true` makes fewer of them."
        )
    if shares.get(BETWEEN, 0.0) > ENOUGH_WAITING:
        yield f"{shares[BETWEEN]:.0%} is spent between steps: see `checkpoint.every`, and whether other processes lag."
    if (exchanged := _share(trace, EXCHANGES)) > ENOUGH_WAITING:
        yield (
            f"{exchanged:.0%} of the time in operators is exchange with other processes, waiting for the slowest "
            "included: fewer processes, or more clips on each."
        )
    yield _arithmetic(trace, watched.config.engine.precision)
    yield _waiting(trace, stacks)


def _arithmetic(trace: Trace, precision: Literal["fp32", "bf16"]) -> str:
    costs = trace.costs
    whole = sum(operator.milliseconds for operator in costs)
    dearest = next(operator for operator in costs if not PRODUCTS.search(operator.name))
    return (
        f"Of the time in operators {_share(trace, PRODUCTS):.0%} is matrix products and attention: fewer tokens, a "
        f"smaller model{' or `engine.precision=bf16`' if precision == 'fp32' else ''} make it less; "
        f"`tools/bench_step.py` tells how fast they could be. Of the rest `{dearest.name}` is dearest "
        f"({dearest.milliseconds / whole:.0%}, mostly in {dearest.phase})."
    )


def _share(trace: Trace, names: re.Pattern[str]) -> float:
    """Of the time in operators."""
    costs = trace.costs
    named = sum(operator.milliseconds for operator in costs if names.search(operator.name))
    return named / sum(operator.milliseconds for operator in costs)


def _waiting(trace: Trace, stacks: Trace) -> str:
    """How often the host waits in a step, and for whom."""
    often = len(trace.host_syncs()) / len(trace.steps)
    if not often:
        return "The host waits for nothing that the GPU computes." if trace.on_gpu else "The host asks for no value."
    does = (
        "waits for the GPU {0:g} times in a step"
        if trace.on_gpu
        else "asks for a value {0:g} times in a step; it would wait for those that a GPU computes"
    )
    places = Counter(_place(stacks.callers(event)) for event in stacks.host_syncs())
    seen = [f"  - {count} x {place}" for place, count in places.most_common()]
    return "\n".join([f"The host {does.format(often)}. In the step after these:", *seen])


def _place(callers: list[str]) -> str:
    """The innermost frame in this project, and that in DeepSpeed where it is further in."""
    frames = [frame for name in callers if (frame := FRAME.search(name))]
    if not frames:
        return "not called from Python"
    inner = next((frame for frame in reversed(frames) if frame["file"].startswith("hpc_jepa/")), frames[-1])
    shown = dict.fromkeys(f"`{f['function']}` at {f['file']}:{f['line']}" for f in (frames[-1], inner))
    return " for ".join(shown)


def _phases(trace: Trace) -> str:
    """Where there is a GPU its time counts, and the host may be ahead of it."""
    host = trace.host_shares()
    shares = trace.device_shares() if trace.on_gpu else host
    headings = ("share of the GPU's time", "ms of a step", "share of the host's time")
    table = _table("phase", *(headings if trace.on_gpu else ("share of the time", "ms of a step")))
    for name in dict.fromkeys((*shares, *host)):
        row = [f"{shares.get(name, 0.0):.1%}", f"{shares.get(name, 0.0) * trace.per_step:.2f}"]
        table.add_row(name, *row, *([f"{host.get(name, 0.0):.1%}"] if trace.on_gpu else []))
    table.add_row("sum", f"{sum(shares.values()):.1%}", f"{trace.per_step:.2f}", *(["100.0%"] if trace.on_gpu else []))
    return _markdown(table)


def _counts(watched: ProfiledSteps, trace: Trace) -> str:
    steps = len(trace.steps)
    table = _table("what", "of one step")
    table.add_row("operators called", f"{len(trace.operators) / steps:,.0f}")
    if trace.on_gpu:
        kernels = sum(event.category == "kernel" for event in trace.device)
        table.add_row("kernels launched", f"{kernels / steps:,.0f}")
    table.add_row("waits for the GPU" if trace.on_gpu else "values asked for", f"{len(trace.host_syncs()) / steps:g}")
    for direction, size in trace.bytes_moved().items():
        table.add_row(f"MB {direction}", f"{size / 1e6:,.2f}")
    table.add_row("GFLOP of the model", f"{watched.flops / 1e9:,.1f}")
    rates = flops_rates(watched.flops, trace.per_step / 1e3)
    table.add_row("TFLOP/s", f"{rates['tflops_per_second']:.3g}")
    if "mfu" in rates:
        table.add_row("MFU", f"{rates['mfu']:.1%}")
    return _markdown(table)


def _operators(trace: Trace) -> str:
    table = _table("operator", "share of all", "ms of a step", "calls", "mostly in", words=(0, 4))
    costs = trace.costs
    whole = sum(operator.milliseconds for operator in costs)
    for operator in costs[:DEAREST]:
        table.add_row(*_row(operator, whole))
    return _markdown(table)


def _row(operator: Operator, whole: float) -> tuple[str, ...]:
    share = operator.milliseconds / whole
    return operator.name[:60], f"{share:.1%}", f"{operator.milliseconds:.2f}", f"{operator.calls:g}", operator.phase


def _table(*headings: str, words: tuple[int, ...] = (0,)) -> Table:
    """Numbers stand to the right."""
    table = Table(box=box.MARKDOWN)
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="left" if place in words else "right", no_wrap=True)
    return table


def _markdown(table: Table) -> str:
    sheet = io.StringIO()
    Console(file=sheet, width=200).print(table)
    return sheet.getvalue().strip()
