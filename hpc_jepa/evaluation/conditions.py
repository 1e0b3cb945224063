"""What a result of a further task was measured under, as tables and questions name it.

- few_shot: ``5 shots``, or ``5-way 1-shot episodes``;
- robustness: ``noise, severity 3``, ``clean``, and ``mean over corruptions``, the mean over severities and then over
  corruptions, which no record contains;
- text: ``video_to_text, dropout 0.5, random``, by metric; the last part says which frames are dropped.
"""

from collections.abc import Iterator
from typing import get_args

from hpc_jepa.config.benchmark import ProtocolConfig, Task
from hpc_jepa.evaluation.record import Direction, FewShotResult, RobustnessResult, TextResult
from hpc_jepa.evaluation.tasks.robustness import CLEAN, corruption_cases
from hpc_jepa.evaluation.tasks.text import dropped_frames

MEAN = "mean over corruptions"


def condition_of(result: FewShotResult | RobustnessResult | TextResult) -> str:
    """The condition of a result; see the top of the module."""
    if isinstance(result, FewShotResult):
        return _episodes(result.ways, result.shots) if result.kind == "episodes" else _shots(result.shots)
    if isinstance(result, RobustnessResult):
        return _corrupted(result.corruption, result.severity)
    return _dropped(result.direction, result.dropout, result.lost_frames)


def planned_conditions(task: Task, protocol: ProtocolConfig) -> Iterator[str]:
    """The conditions of all results that a protocol measures; of probes none.

    Raises InputError for an unknown corruption.
    """
    if task == "few_shot":
        few = protocol.few_shot
        yield from (_shots(shots) for shots in few.shots)
        yield from (_episodes(few.ways, shots) for shots in few.episode_shots)
    elif task == "robustness":
        yield MEAN
        yield from (
            _corrupted(case.corruption, case.severity) for case in corruption_cases(protocol.robustness.corruptions)
        )
    elif task == "text":
        for lost, dropout in dropped_frames(protocol.text):
            yield from (_dropped(direction, dropout, lost) for direction in get_args(Direction))


def _shots(shots: int) -> str:
    return f"{shots} shot{'' if shots == 1 else 's'}"


def _episodes(ways: int, shots: int) -> str:
    return f"{ways}-way {shots}-shot episodes"


def _corrupted(corruption: str, severity: int) -> str:
    return CLEAN if corruption == CLEAN else f"{corruption}, severity {severity}"


def _dropped(direction: Direction, dropout: float, lost_frames: str) -> str:
    return f"{direction}, dropout {dropout:g}, {lost_frames}"
