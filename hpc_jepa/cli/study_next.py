"""Output of ``hpc-jepa study next``, and of a look that ``study submit`` takes."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from hpc_jepa.cli.console import CONSOLE, plural, stdout_console
from hpc_jepa.study.looks_file import RecordedDecision, RecordedLook
from hpc_jepa.study.sequential import NextStep

COLOURS = {"gain": "green", "loss": "red", "equal": "cyan", "hopeless": "dim"}


def next_as_json(step: NextStep) -> dict[str, Any]:
    """The next step for scripts."""
    return {
        "look": step.look,
        "stage": step.stage,
        "cells": [{"folder": str(each.cell.folder), "reason": each.reason} for each in step.cells],
        "looks": [look.model_dump(mode="json") for look in step.looks.looks],
        "confirmation": step.looks.confirmation.model_dump(mode="json") if step.looks.confirmation else None,
        "new_looks": [look.look for look in step.taken],
        "rule": step.looks.rule.model_dump(mode="json"),
        "evaluated_before_rule": step.looks.evaluated_before,
    }


def show_next(step: NextStep) -> None:
    """Print the decisions so far and the cells that come next."""
    console = stdout_console()
    if step.last is not None:
        console.print(_decisions(step.last))
        if step.last.step is not None:
            console.print(f"compared after {step.last.step:,} steps of each run", soft_wrap=True)
    if step.looks.evaluated_before:
        console.print(warning(step), style="yellow", soft_wrap=True)
    if not step.cells:
        console.print(f"{step.stage}: no cell is needed", soft_wrap=True)
        return
    table = Table("cell", "why", box=None, pad_edge=False)
    for each in step.cells:
        table.add_row(f"{each.cell.arm} seed {each.cell.config.seed}", each.reason)
    console.print(table)
    console.print(f"\n{step.stage}: {plural(len(step.cells), 'cell', 'cells')} without results", soft_wrap=True)


def report_looks(step: NextStep, looks: Sequence[RecordedLook]) -> None:
    """One line for each new look, on standard error."""
    if step.looks.evaluated_before and not step.looks.looks:
        CONSOLE.print(f"warning: {warning(step)}", highlight=False)
    for look in looks:
        counts: dict[str, int] = {}
        for each in look.decisions.values():
            counts[each.decision] = counts.get(each.decision, 0) + 1
        name = "confirmation" if look == step.looks.confirmation else f"look {look.look}"
        decided = ", ".join(f"{number} {decision}" for decision, number in counts.items())
        missing = f"; without {plural(len(look.missing), 'failed cell', 'failed cells')}" if look.missing else ""
        steps = "" if look.step is None else f", after {look.step:,} steps"
        CONSOLE.print(f"{name} at {look.seeds} seeds{steps}: {decided}{missing}", highlight=False)


def warning(step: NextStep) -> str:
    """That the rule was written after results were there."""
    runs = plural(step.looks.evaluated_before, "run was", "runs were")
    return (
        f"{runs} evaluated before the rule of this study was recorded: the error holds only if the rule was chosen "
        "without their results"
    )


def _decisions(look: RecordedLook) -> Table:
    table = Table("comparison", "decision", "points", "95 % interval", "seeds", "p", box=None, pad_edge=False)
    chances = any(found.chance is not None for found in look.decisions.values())
    if chances:
        table.add_column("chance")
    for name, found in look.decisions.items():
        chance = () if not chances else ("" if found.chance is None else f"{found.chance:.0%}",)
        table.add_row(name, Text(found.decision, COLOURS.get(found.decision, "default")), *_numbers(found), *chance)
    return table


def _numbers(found: RecordedDecision) -> tuple[str, str, str, str]:
    seeds = f"{found.seeds} ({found.dropped} dropped)" if found.dropped else str(found.seeds)
    if found.difference is None or found.low is None or found.high is None or found.p_value is None:
        return "", "", seeds, ""
    return f"{found.difference:+.2f}", f"[{found.low:+.2f}, {found.high:+.2f}]", seeds, f"{found.p_value:.2g}"
