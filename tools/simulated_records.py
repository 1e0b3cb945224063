"""Runs and records with chosen answers, written as training and evaluation write them; for simulations and tests."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpc_jepa.config.loading import dump_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.evaluation.record import ProbeRecord, RunIdentity, accuracy_fields, write_record
from hpc_jepa.runs.run_dir import RunDir

Answers = Mapping[tuple[str, str], NDArray[np.bool_]]
"""By weights and probe: which test clips each probe seed classifies correctly, [n] or [S, n]."""


def write_run(config: RunConfig, state: str = "done", step: int | None = None, **facts: Any) -> RunDir:
    """Configuration and state of a run at ``step``, by default its last. ``facts``: other fields of the state."""
    run, steps = RunDir(config.folder), config.schedule.steps
    run.path.mkdir(parents=True, exist_ok=True)
    run.config_file.write_text(dump_config(config))
    content = {"state": state, "step": steps if step is None else step, "steps": steps, **facts}
    run.state_file.write_text(json.dumps(content))
    return run


def write_answers(
    config: RunConfig,
    benchmark: str,
    protocol: str,
    answers: Answers,
    clusters: NDArray[np.int64] | None = None,
    labels: NDArray[np.int64] | None = None,
    step: int | None = None,
    **facts: Any,
) -> Path:
    """A probe record in which the clips of ``answers`` are correct, and the others of the next class.

    ``clusters``, ``labels``: [n]; by default unknown, and classes in turn. ``step``: of a checkpoint before the last.
    ``facts``: other fields than those of
    :func:`record_facts`.
    """
    whole = {**record_facts(config, benchmark, protocol, step), **facts}
    clips = next(iter(answers.values())).shape[-1]
    classes = int(whole["classes"])
    if labels is None:
        labels = np.arange(clips) % classes
    predictions = {"labels": labels, "samples": np.arange(clips)}
    if clusters is not None:
        predictions["clusters"] = clusters
    results = []
    for (weights, probe), given in answers.items():
        right = np.atleast_2d(given)
        predictions[f"{weights}.{probe}"] = np.where(right, labels, (labels + 1) % classes)
        pooling, seeds = "tokens" if probe == "attentive" else "mean", range(len(right)) if len(right) > 1 else ()
        names = {"weights": weights, "probe": probe, "pooling": pooling, "probe_seeds": tuple(seeds)}
        results.append({**names, "metric": "top1", **accuracy_fields(right, clusters)})
    path = RunDir(config.folder).record_file(benchmark, protocol, step=step)
    write_record(ProbeRecord, path, {**whole, "results": tuple(results)}, predictions)
    return path


def record_facts(config: RunConfig, benchmark: str, protocol: str, step: int | None = None) -> dict[str, Any]:
    """Fields of a record beside its results; ``step``: of the evaluated checkpoint, by default the last."""
    return {
        "run": RunIdentity.of(config, config.schedule.steps if step is None else step),
        "benchmark": benchmark,
        "title": benchmark,
        "classes": 8,
        "protocol": protocol,
        "protocol_fingerprint": "0123456789abcdef",
        "data": {"train": "a" * 64, "test": "b" * 64},
        "software": {"torch": "2.13.0"},
    }
