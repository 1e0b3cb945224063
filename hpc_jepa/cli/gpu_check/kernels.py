"""The tests that need a GPU, and the fused operations against their lower bounds."""

import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from hpc_jepa.cli.gpu_check.children import checkout, last_line, run_command
from hpc_jepa.cli.gpu_check.part import PartContext, Verdict, verdict_of

NO_TESTS = 5
"""Exit code of pytest if no test was selected."""
STAND_INS = ("tests/kernels/test_patches.py", "tests/kernels/test_visible_tokens.py")
"""Run in Triton's interpreter in a rehearsal."""


def gpu_tests(context: PartContext) -> Verdict:
    """``pytest -m gpu``: kernels against references, and host syncs of every variant. Needs a checkout and pytest."""
    import pytest  # noqa: F401  # skips this part if it is not installed

    root, outcome = checkout(), context.folder / "tests.xml"
    selection = STAND_INS if context.mode.rehearse else ("-m", "gpu", *in_parallel())
    command = [sys.executable, "-m", "pytest", *selection, f"--junitxml={outcome}", "-p", "no:cacheprovider"]
    finished = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    print(finished.stdout, finished.stderr, flush=True)
    if finished.returncode == NO_TESTS or not outcome.exists():
        return Verdict("failed", f"no test ran: {last_line(finished.stdout + finished.stderr)}")
    by_file, failed = outcomes(outcome)
    for file, counts in by_file.items():
        context.row("Tests", file=file, **{name: counts[name] for name in ("passed", "failed", "skipped")})
    total = sum(by_file.values(), Counter[str]())
    line = f"{total['passed']} passed, {total['skipped']} skipped"
    problems = [f"{name} failed" for name in failed]
    if finished.returncode and not problems:
        problems = [f"pytest: exit code {finished.returncode}: {last_line(finished.stdout + finished.stderr)}"]
    if not total["passed"]:
        problems.append(f"no test passed ({total['skipped']} skipped)")
    return verdict_of(problems, 0, line)


def in_parallel() -> tuple[str, ...]:
    """Options for several processes, most of whose time is compiling kernels."""
    processes = min(8, len(os.sched_getaffinity(0)) // 2)
    return ("-n", str(processes)) if processes > 1 and importlib.util.find_spec("xdist") else ()


def outcomes(path: Path) -> tuple[dict[str, Counter[str]], list[str]]:
    """Numbers of outcomes by test file, and the names of failed tests, from a JUnit file."""
    by_file: dict[str, Counter[str]] = {}
    failed = []
    for case in ElementTree.parse(path).iter("testcase"):
        tags = {element.tag for element in case}
        result = "failed" if tags & {"failure", "error"} else "skipped" if "skipped" in tags else "passed"
        file = (case.get("classname") or case.get("name") or "").replace(".", "/") + ".py"
        by_file.setdefault(file, Counter())[result] += 1
        if result == "failed":
            failed.append(f"{file}::{case.get('name')}")
    return by_file, failed


def bounds(context: PartContext) -> Verdict:
    """EMA, masks and masked loss: milliseconds, the lower bound measured in the same run, and the plain form."""
    shapes = "tiny" if context.mode.rehearse else "EMA of ViT-L, masks of 32 clips, loss of 8 clips at ViT-B"
    ratios = []
    for name, ours, floor, plain in operations(["--quick"] if context.mode.rehearse else []):
        context.row(
            f"Milliseconds ({shapes}; the plain form of masks runs on the CPU)",
            operation=name,
            ours=ours,
            lower_bound=floor,
            plain=plain,
            over_bound=ours / floor,
        )
        ratios.append(f"{name} {ours / floor:.1f}")
    return Verdict("ok", f"times their lower bounds: {'; '.join(ratios)}")


def operations(quick: list[str]) -> Iterator[tuple[str, float, float, float]]:
    """Name and milliseconds: ours, lower bound, plain form. A benchmark that fails leaves the rows before it."""
    ema = bench("bench_ema.py", *(quick or ["--model", "large"]))["ms"]
    yield "EMA update", ema["ours"], 1.5 * ema["copy"], ema["two passes"]  # 12 bytes a parameter; a copy moves 8
    loss = bench("bench_masked_loss.py", *quick)
    ours, plain = (next(loss["ms"][side] for side in loss["ms"] if side.startswith(form)) for form in ("ours", "plain"))
    yield "masked loss", ours, loss["floor_ms"], plain
    for kind, row in bench("bench_masks.py", *quick)["kinds"].items():
        yield f"masks, {kind}", row["ours_ms"], row["floor_ms"], row["plain_ms"]


def bench(tool: str, *arguments: str) -> dict[str, Any]:
    """The JSON of a benchmark in ``tools/``. Needs a checkout."""
    root = checkout()
    output = run_command([sys.executable, str(root / "tools" / tool), *arguments, "--json"], cwd=root)
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result
