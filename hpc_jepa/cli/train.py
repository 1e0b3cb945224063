"""``hpc-jepa train``: one pretraining run."""

import logging
import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpc_jepa.cli.console import CONSOLE, Advance, ConsoleHandler, examples, progress_bar, split_overrides
from hpc_jepa.config.loading import read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.errors import EXIT_INTERRUPTED
from hpc_jepa.io.imports import uncollected_imports
from hpc_jepa.runs.run_dir import RunDir

if TYPE_CHECKING:
    from hpc_jepa.runs.metrics_log import MetricsRecord

EXAMPLES = examples(
    "hpc-jepa train configs/regime/quickstart.yaml configs/objective/fwm_hw_ld.yaml",
    "hpc-jepa train configs/regime/ucf101.yaml configs/objective/baseline.yaml seed=42 engine.zero_stage=2",
    "hpc-jepa train configs/regime/quickstart.yaml study=profile schedule.steps=10 --profile",
    "hpc-jepa train configs/regime/quickstart.yaml --plot-schedules schedules.png",
    "torchrun --nproc-per-node 4 -m hpc_jepa train configs/regime/ucf101.yaml configs/objective/motion_guided.yaml",
)

KINETO_QUIET = "6"
"""Log level that silences the profiler's own progress messages."""


class _StepBar:
    """Progress bar that follows the logged metrics."""

    def __init__(self, advance: Advance, done: int) -> None:
        self._advance = advance
        self._done = done

    def observe(self, record: "MetricsRecord") -> None:
        """Show a logged step."""
        self.move_to(record.step + 1, f"loss {record.loss:.4f}  {record.clips_per_second or 0:.0f} clips/s")

    def move_to(self, step: int, note: str = "") -> None:
        """Move to the number of completed steps."""
        self._advance(step - self._done, note)
        self._done = step


def _ignore(amount: int = 1, note: str = "") -> None:
    """No bar: only rank 0 shows one."""


def train_command(
    arguments: Annotated[
        list[str],
        typer.Argument(metavar="CONFIG|KEY=VALUE", help="YAML files, merged from left to right, then overrides."),
    ],
    profile: Annotated[
        bool,
        typer.Option("--profile", help="Profile the first steps: RUN/profile/summary.md."),
    ] = False,
    until: Annotated[
        int | None,
        typer.Option(min=1, help="Save after this many steps and stop.", show_default=False),
    ] = None,
    plot_schedules: Annotated[
        Path | None,
        typer.Option(
            "--plot-schedules", metavar="FILE", help="Draw the schedules in a PNG, SVG or PDF; train nothing."
        ),
    ] = None,
) -> None:
    """Pretrain one model. Repeat the command to resume an interrupted run.

    The seed is 239 unless a file or seed=N sets it.

    Runs as one process, or under torchrun, deepspeed or srun as one process per GPU, which share the batch.
    """
    config = read_config(RunConfig, *split_overrides(arguments))
    if plot_schedules is not None:
        from hpc_jepa.report import schedule_plot

        schedule_plot.plot_schedules(config, plot_schedules)
        CONSOLE.print(f"{plot_schedules}: schedules of {config.schedule.steps:,} steps", highlight=False)
        return
    if profile:
        os.environ.setdefault("KINETO_LOG_LEVEL", KINETO_QUIET)  # read when torch is imported

    with uncollected_imports():
        from hpc_jepa.distributed import set_ds_accelerator

        set_ds_accelerator(config.engine.device)
        from hpc_jepa.profiling.profile import check_profile_steps
        from hpc_jepa.training.loop import train

    shown = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"
    log = logging.getLogger("hpc_jepa")
    log.setLevel(logging.INFO)
    log.handlers = [ConsoleHandler(logging.INFO if shown else logging.WARNING)]
    if config.model.size_warning:
        log.warning(config.model.size_warning)
    steps, first = config.schedule.steps, RunDir(config.folder).last_step()
    last = steps if until is None else min(until, steps)
    if profile:
        check_profile_steps(steps - first)
    title = f"{config.folder.parent.name} seed {config.seed}"
    with progress_bar(title, last, first) if shown else nullcontext(_ignore) as advance:
        bar = _StepBar(advance, first)
        outcome = train(config, bar.observe, profile, until)
        if outcome != "interrupted":
            bar.move_to(max(last, first))
    if outcome == "interrupted":
        if shown:
            CONSOLE.print("saved and stopped; repeat the command to resume")
        raise typer.Exit(EXIT_INTERRUPTED)
    if shown:
        reached = "complete" if outcome == "done" else f"saved after {max(last, first):,} of {steps:,} steps"
        CONSOLE.print(f"{config.folder}: {reached}")
