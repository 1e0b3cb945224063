"""Answers of studies as rows of a table and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from hpc_jepa.report.answer_text import answer_sentences, has_parted
from hpc_jepa.report.corruption_answer import CorruptionSummary
from hpc_jepa.report.questions import Answer, AskedContrast, curve_of, position_of

COLUMNS = (
    *("study", "regime", "task", "benchmark", "protocol", "probe", "condition", "metric", "kind", "contrast"),
    *("difference", "low", "high", "unit", "simultaneous_low", "simultaneous_high", "p", "p_holm", "decided"),
    *("seeds", "dropped_seeds", "clusters", "seeds_needed", "also_differs_in", "differs_alone_in", "weights"),
)


def answers_frame(answers: Sequence[Answer]) -> pd.DataFrame:
    """One line per comparison that a study asks for."""
    lines = [_line(answer, asked) for answer in answers for asked in answer.contrasts]
    return pd.DataFrame(lines, columns=COLUMNS)


def answer_json(answer: Answer, corruption: Sequence[CorruptionSummary]) -> dict[str, Any]:
    """Question, sentences, comparisons, and of robustness the ratios of corruption errors."""
    own = [summary for summary in corruption if summary.study == answer.study]
    return {
        "study": answer.study,
        "question": answer.question,
        "outcome": answer.outcome.model_dump(mode="json"),
        "contrast": answer.contrast.model_dump(mode="json", exclude_defaults=True),
        "family": answer.family,
        "sentences": answer_sentences(answer, own),
        "contrasts": [_contrast_json(asked) for asked in answer.contrasts],
        "corruption": [asdict(summary) for summary in own],
        "missing": list(answer.missing),
    }


def _line(answer: Answer, asked: AskedContrast) -> dict[str, Any]:
    contrast, column = asked.contrast, asked.column
    simultaneous = (contrast.simultaneous_low, contrast.simultaneous_high)
    low, high = (None if end is None else contrast.rounded(end) for end in simultaneous)
    return {
        "study": answer.study,
        "regime": asked.regime,
        **{name: getattr(column, name) for name in ("task", "benchmark", "protocol", "probe", "condition", "metric")},
        "kind": asked.kind,
        "contrast": asked.name,
        "difference": contrast.rounded(contrast.points),
        "low": contrast.rounded(contrast.low),
        "high": contrast.rounded(contrast.high),
        "unit": contrast.unit,
        "simultaneous_low": low,
        "simultaneous_high": high,
        "p": f"{contrast.p_value:.4g}",
        "p_holm": None if contrast.adjusted is None else f"{contrast.adjusted:.4g}",
        "decided": asked.outcome or "",
        "seeds": contrast.seeds,
        "dropped_seeds": contrast.dropped_seeds,
        "clusters": "unknown" if contrast.clusters is None else contrast.clusters,
        "seeds_needed": "" if asked.needed is None else asked.needed.number,
        "also_differs_in": ", ".join(contrast.differs),
        "differs_alone_in": ", ".join(asked.alone),
        "weights": ", ".join(f"{name}: {weight:+g}" for name, weight in asked.weights.items()),
    }


def _contrast_json(asked: AskedContrast) -> dict[str, Any]:
    return {
        "regime": asked.regime,
        "column": asdict(asked.column),
        "curve": curve_of(asked.column),
        "position": position_of(asked.column),
        "kind": asked.kind,
        "name": asked.name,
        "weights": dict(asked.weights),
        "decided": asked.outcome,
        "apart": has_parted(asked),
        "alone": list(asked.alone),
        "seeds_needed": None if asked.needed is None else asked.needed.seeds,
        **asdict(asked.contrast),
    }
