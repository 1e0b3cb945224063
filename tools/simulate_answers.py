#!/usr/bin/env python3
"""Simulated studies that ask a question: how often does the first sentence name a gain or loss, without and with one?

    python tools/simulate_answers.py                      300 studies without effect and 300 with one of 8 points
    python tools/simulate_answers.py robustness --grids 20

The interaction of ``cross_domain`` is planted in the variants that have both factors, else the gain of the first group.
"""

import re
from typing import Annotated

import numpy as np
import typer
from simulated_answers import SimulatedAnswers, planted
from timing import one_line_errors

from hpc_jepa.config.loading import find_config, read_config
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.report.answer_text import answer_sentences
from hpc_jepa.report.corruption_answer import corruption_summaries
from hpc_jepa.report.questions import answer_questions

STUDIES = ("few_shot", "robustness", "cross_domain", "alignment")
GAIN = re.compile(r"\ba gain \(|\badds more |(part from|apart) [^:;]*, gains\b")
LOSS = re.compile(r"\ba loss \(|\badds less |(part from|apart) [^:;]*, losses\b|, gains and losses\b")


def shares_named(study: StudyConfig, gain: float, grids: int, seed: int = 0) -> tuple[float, float]:
    """Shares of simulated studies whose first sentence names any gain, and any loss. ``gain``: planted, a fraction."""
    simulated, rng = SimulatedAnswers(study, planted(study, gain)), np.random.default_rng(seed)
    named = []
    for _ in range(grids):
        (answer,) = answer_questions([simulated.draw(rng)], {study.study: study})
        sentence = answer_sentences(answer, corruption_summaries(answer))[0]
        named.append((bool(GAIN.search(sentence)), bool(LOSS.search(sentence))))
    gains, losses = np.mean(named, axis=0)
    return float(gains), float(losses)


def main(
    studies: Annotated[list[str] | None, typer.Argument(help="Shipped studies.")] = None,
    grids: Annotated[int, typer.Option(min=1, help="Simulated studies of each kind.")] = 300,
    gain: Annotated[float, typer.Option(min=0, max=0.3, help="Planted gain.")] = 0.08,
    random_seed: Annotated[int, typer.Option(help="Seed of the simulation.")] = 0,
) -> None:
    """Print for each study how often its first sentence names a gain or a loss."""
    with one_line_errors():
        for name in studies or STUDIES:
            study = read_config(StudyConfig, [find_config(name, "study")])
            for planted_gain in (0.0, gain):
                gains, losses = shares_named(study, planted_gain, grids, random_seed)
                typer.echo(
                    f"{name}, {100 * planted_gain:g} points: {100 * gains:.1f} % gains, {100 * losses:.1f} % losses"
                )


if __name__ == "__main__":
    typer.run(main)
