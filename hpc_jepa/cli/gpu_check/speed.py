"""Speed of a training step: models, numbers of clips, torch.compile, and the cost of options."""

import os
import shutil
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from hpc_jepa.cli.gpu_check.children import json_lines
from hpc_jepa.cli.gpu_check.part import PartContext, SkipPartError, Verdict, verdict_of
from hpc_jepa.cli.gpu_check.step_time import OUT_OF_MEMORY, StepTiming
from hpc_jepa.errors import HpcJepaError

OBJECTIVE = "configs/objective/fwm_hw_ld.yaml"
LAYERS = ("configs/regime/ucf101.yaml", OBJECTIVE)
TINY = (
    "model.encoder={width: 32, depth: 2, heads: 2, patch: 8, levels: [1, 2]}",
    "model.predictor={width: 16, depth: 1, heads: 2}",
    "data.clip={frames: 8, size: 32}",
    "objectives=[fwm, hw, {ld: {hidden: 8}}]",
)
"""Stand-in for every model in a rehearsal."""
MEASURED = "A step in bf16 at ZeRO stage 1, clips of 16x224x224, fwm_hw_ld; peak memory with weights and optimizer"
REHEARSED = "A step of a tiny model in fp32, clips of 8x32x32"


class Case(NamedTuple):
    """A model and the numbers of clips per step, from many to few."""

    model: str
    layers: tuple[str, ...]
    clips: tuple[int, ...]


BASE = Case("ViT-B", LAYERS, (64, 8, 2))
EIGHT_CLIPS = BASE._replace(clips=(8,))
LARGE = Case("ViT-L", (*LAYERS, "configs/model/large.yaml"), (64,))


def eager_steps(context: PartContext) -> Verdict:
    """ViT-B and, unless the form is short, ViT-L."""
    return training_steps(context, (BASE,) if context.mode.short else (BASE, LARGE), "false")


def compiled_steps(context: PartContext) -> Verdict:
    """The same with ``engine.compile``, which needs a C++ compiler; one tiny model in a rehearsal."""
    compiler = os.environ.get("CXX", "g++")
    if not shutil.which(compiler):
        raise SkipPartError(f"no C++ compiler: {compiler} is not on the PATH")
    return training_steps(context, (BASE,) if context.mode.rehearse else (BASE, LARGE), "true")


def training_steps(context: PartContext, cases: Sequence[Case], compiled: str) -> Verdict:
    """Rows for all models; if the clips do not fit into the memory, for half as many."""
    best: dict[str, Any] = {}
    problems, limits = [], 0
    caption = REHEARSED if context.mode.rehearse else MEASURED
    for case in cases:
        name = f"tiny, for {case.model}" if context.mode.rehearse else case.model
        try:
            for result in timed(case, (f"engine.compile={compiled}",), context.mode.rehearse):
                if "error" in result:
                    context.warn(f"{name}: {result['clips']} clips do not fit into the memory")
                    limits += 1
                    continue
                context.row(caption, model=name, **result)
                best = max(best, {"model": name, **result}, key=lambda row: row.get("tflops_per_second", 0.0))
        except HpcJepaError as error:
            problems.append(f"{name}: {error}")
    mfu = f", MFU {best['mfu']:.0%}" if best.get("mfu") else ""
    line = f"{best['model']}, {best['clips']} clips: {best['ms']:.0f} ms{mfu}" if best else "nothing was timed"
    return verdict_of(problems, limits, line)


def timed(case: Case, settings: tuple[str, ...], rehearse: bool) -> Iterator[dict[str, Any]]:
    """Results of a case; after one that did not fit into the memory, of half as many clips in a new process."""
    clips = (4, 2) if rehearse else case.clips
    small = (*TINY, "engine.precision=fp32") if rehearse else ()
    warmup, steps = (2, 3) if rehearse else (5, 12)
    while clips:
        timing = StepTiming(case.layers, (*small, *settings), clips, warmup, steps)
        done = 0
        for result in json_lines(timing.command):
            yield result
            done += 1
            fits = result.get("error") != OUT_OF_MEMORY
        half = clips[done - 1] // 2
        clips = () if fits else tuple(count for count in (half, *clips[done:]) if 0 < count <= half)
        clips = tuple(dict.fromkeys(clips))


def option_costs(context: PartContext) -> Verdict:
    """What ``engine.deterministic`` costs in bf16, and TF32 saves in fp32: ViT-B, 8 clips."""
    caption = REHEARSED if context.mode.rehearse else "A step of ViT-B in ms, with and without the option"
    ratios, problems = [], []
    for name, precision in (("deterministic", "bf16"), ("tf32", "fp32")):
        try:
            plain, other = (
                only(timed(EIGHT_CLIPS, (f"engine.precision={precision}", *extra), context.mode.rehearse))
                for extra in ((), (f"engine.{name}=true",))
            )
        except HpcJepaError as error:
            problems.append(f"engine.{name}: {error}")
            continue
        figures = {"clips": other["clips"], "ms": other["ms"], "without": plain["ms"]}
        ratio = other["ms"] / plain["ms"]
        context.row(caption, option=name, **figures, ratio=ratio)
        ratios.append(f"engine.{name}: {ratio:.2f} times the time of a step")
    return verdict_of(problems, 0, "; ".join(ratios))


def only(results: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """The last result, which fits into the memory. Raises HpcJepaError if none does."""
    fitting = [result for result in results if "error" not in result]
    if not fitting:
        raise HpcJepaError("not one clip fits into the memory")
    return fitting[-1]
