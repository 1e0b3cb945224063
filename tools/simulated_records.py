"""Runs and records with chosen answers, written as training and evaluation write them; for simulations and tests."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpc_jepa.config.loading import dump_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.evaluation.record import (
    FewShotRecord,
    ProbeRecord,
    RobustnessRecord,
    RunIdentity,
    TextRecord,
    accuracy_fields,
    write_record,
)
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


def write_few_shot(
    config: RunConfig,
    benchmark: str,
    protocol: str,
    draws: Mapping[tuple[str, int], NDArray[np.bool_]],
    episodes: Mapping[tuple[str, int, int], NDArray[np.int64]] | None = None,
    queries: int = 75,
    clusters: NDArray[np.int64] | None = None,
    labels: NDArray[np.int64] | None = None,
    **facts: Any,
) -> Path:
    """A few-shot record. ``draws``: by weights and shots, which clips are correct under each draw [D, n].

    ``episodes``: by weights, ways and shots, how many of the ``queries`` of each episode are correct [E].
    """
    whole = {**record_facts(config, benchmark, protocol), **facts}
    classes = int(whole["classes"])
    clips = next(iter(draws.values())).shape[1]
    predictions = _clips(clips, classes, clusters, labels)
    results = []

    def add(weights: str, kind: str, ways: int, shots: int, scores: NDArray[np.float64], n: int) -> None:
        value, spread = float(scores.mean()), float(scores.std(ddof=1) / np.sqrt(len(scores)))
        interval = {"value": value, "low": max(0.0, value - 2 * spread), "high": min(1.0, value + 2 * spread), "n": n}
        names = {"weights": weights, "kind": kind, "ways": ways, "shots": shots, "pooling": "mean"}
        results.append({**names, **interval, "count": len(scores), "per_draw": tuple(scores.tolist())})

    for (weights, shots), right in draws.items():
        add(weights, "draws", classes, shots, right.mean(axis=1), clips)
        predictions[f"{weights}.shots-{shots}"] = _predicted(right, predictions["labels"], classes)
    for (weights, ways, shots), counts in (episodes or {}).items():
        add(weights, "episodes", ways, shots, counts / queries, queries)
        predictions[f"{weights}.episodes-{ways}way-{shots}shot"] = counts
    path = RunDir(config.folder).record_file(benchmark, protocol, "few_shot")
    write_record(FewShotRecord, path, {**whole, "results": tuple(results)}, predictions)
    return path


def write_robustness(
    config: RunConfig,
    benchmark: str,
    protocol: str,
    answers: Mapping[tuple[str, str, str, int], NDArray[np.bool_]],
    clusters: NDArray[np.int64] | None = None,
    labels: NDArray[np.int64] | None = None,
    **facts: Any,
) -> Path:
    """A robustness record. ``answers``: by weights, probe, corruption and severity, which clips are correct [S, n]; the
    clean clips are corruption ``clean`` of severity 0.
    """
    whole = {**record_facts(config, benchmark, protocol), **facts}
    classes = int(whole["classes"])
    predictions = _clips(next(iter(answers.values())).shape[-1], classes, clusters, labels)
    results = []
    for (weights, probe, corruption, severity), given in answers.items():
        right = np.atleast_2d(given)
        predictions[f"{weights}.{probe}.{corruption}.{severity}"] = _predicted(right, predictions["labels"], classes)
        consistency = float((right == np.atleast_2d(answers[weights, probe, "clean", 0])).mean())
        names = {"weights": weights, "probe": probe, "corruption": corruption, "severity": severity}
        shown = {"level": 0.1 * severity, "consistency": consistency}
        results.append({**names, **shown, **accuracy_fields(right, clusters)})
    path = RunDir(config.folder).record_file(benchmark, protocol, "robustness")
    write_record(RobustnessRecord, path, {**whole, "results": tuple(results)}, predictions)
    return path


def write_text(
    config: RunConfig,
    benchmark: str,
    protocol: str,
    answers: Mapping[tuple[str, str, float], NDArray[Any]],
    clusters: NDArray[np.int64] | None = None,
    labels: NDArray[np.int64] | None = None,
    **facts: Any,
) -> Path:
    """A text record. ``answers``: by weights, direction and dropout, the rank of the first correct answer [S, queries],
    counted from 0, or for ``class_names`` which clips are correct [S, n].
    """
    whole = {**record_facts(config, benchmark, protocol), **facts}
    classes = int(whole["classes"])
    clips = next(given.shape[-1] for (_, direction, _), given in answers.items() if direction != "text_to_video")
    predictions = _clips(clips, classes, clusters, labels)
    results = []
    for (weights, direction, dropout), given in answers.items():
        of_classes, rows = direction == "class_names", np.atleast_2d(given)
        right = {"top1": rows} if of_classes else {f"R@{depth}": rows < depth for depth in (1, 5, 10)}
        stored = _predicted(rows, predictions["labels"], classes) if of_classes else rows
        predictions[f"{weights}.{direction}.{dropout:g}"] = stored
        for metric, correct in right.items():
            names = {"weights": weights, "direction": direction, "dropout": dropout, "metric": metric}
            own = None if direction == "text_to_video" else clusters
            results.append({**names, "seeds": tuple(range(len(correct))), **accuracy_fields(correct, own)})
    path = RunDir(config.folder).record_file(benchmark, protocol, "text")
    write_record(TextRecord, path, {**whole, "results": tuple(results)}, predictions)
    return path


def _clips(
    clips: int, classes: int, clusters: NDArray[np.int64] | None, labels: NDArray[np.int64] | None
) -> dict[str, NDArray[Any]]:
    """Labels, samples and clusters of predictions; by default classes in turn."""
    known = {} if clusters is None else {"clusters": clusters}
    return {"labels": np.arange(clips) % classes if labels is None else labels, "samples": np.arange(clips), **known}


def _predicted(right: NDArray[np.bool_], labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """The label where an answer is right, the next class where it is not."""
    return np.where(right, labels, (labels + 1) % classes)


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
