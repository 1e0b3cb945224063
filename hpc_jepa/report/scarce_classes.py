"""Classes that few-shot records leave out because they have too few clips."""

from collections.abc import Iterable

from hpc_jepa.report.run_report import RunReport

MOST_NAMED = 20
"""Classes of a line that are named; the record has all."""


def scarce_classes(runs: Iterable[RunReport]) -> list[str]:
    """One line for each benchmark, protocol and kind of few-shot result whose records leave out classes."""
    lines: dict[str, None] = {}
    for record in (record for run in runs for record in run.few_shot.values()):
        for kind, pool in (record.pools or {}).items():
            if not pool.left_out:
                continue
            named = [f"{name} ({clips})" for name, clips in pool.left_out.items()]
            more = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
            split = "training" if kind == "draws" else "test"
            lines[
                f"few-shot {kind} on {record.benchmark}, {record.protocol}: {len(pool.classes)} of {record.classes} "
                f"classes; left out with fewer than {pool.needed} {split} clips: {', '.join(named[:MOST_NAMED])}{more}"
            ] = None
    return list(lines)
