"""``hpc-jepa train``: one pretraining run."""

import os
from contextlib import nullcontext
from typing import Annotated, Any

import typer

from hpc_jepa.cli import INTERRUPTED
from hpc_jepa.cli.screen import CONSOLE, progress
from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.tree import load

EXAMPLES = """Examples:

  hpc-jepa train configs/regime/quickstart.yaml configs/objective/fwm_hw_ld.yaml

  hpc-jepa train configs/regime/ucf101.yaml configs/objective/baseline.yaml seed=42 engine.zero_stage=2

  torchrun --nproc-per-node 4 -m hpc_jepa train configs/regime/ucf101.yaml configs/objective/motion_guided.yaml
"""


def train(
    arguments: Annotated[
        list[str],
        typer.Argument(metavar="CONFIG|KEY=VALUE", help="YAML files, merged from left to right, then single settings."),
    ],
) -> None:
    """Pretrain one model. The same command goes on where an interrupted run stopped.

    Alone it is one process; under torchrun, deepspeed or srun each process takes its share of the batch.
    """
    layers = [argument for argument in arguments if "=" not in argument]
    config = load(RunConfig, layers, [argument for argument in arguments if "=" in argument])

    from hpc_jepa.distributed import name_accelerator

    name_accelerator()
    from hpc_jepa.objectives.registry import check_run
    from hpc_jepa.training.loop import train as pretrain

    check_run(config)
    shown = os.environ.get("RANK", "0") == "0"
    bar = progress(f"{config.folder.parent.name} seed {config.seed}", config.schedule.steps) if shown else nullcontext()
    with bar as advance:
        done = 0

        def observe(line: dict[str, Any]) -> None:
            nonlocal done
            if advance is not None:
                note = f"loss {line['loss']:.4f}  {line['clips_per_second']:.0f} clips/s"
                advance(line["step"] + 1 - done, note)
                done = line["step"] + 1

        outcome = pretrain(config, observe)
        if advance is not None and outcome == "done":
            advance(config.schedule.steps - done)
    if outcome == "interrupted":
        if shown:
            CONSOLE.print("stopped after saving; the same command goes on from here")
        raise typer.Exit(INTERRUPTED)
