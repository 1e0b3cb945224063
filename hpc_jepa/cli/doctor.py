"""``hpc-jepa doctor``: check packages, hardware, codecs, Slurm and disk speed."""

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table
from rich.text import Text

from hpc_jepa.cli.console import CONSOLE, AsJson, examples
from hpc_jepa.cli.machine import CheckResult
from hpc_jepa.io.escape import SafeConsole

EXAMPLES = examples(
    "hpc-jepa doctor",
    "hpc-jepa doctor --folder /scratch/me --json",
    "hpc-jepa doctor --gpu --folder /scratch/me",
)

COLOURS = {"ok": "green", "note": "yellow", "missing": "bold red"}


def doctor_command(
    folder: Annotated[Path, typer.Option(help="Folder whose file system is measured with a 64 MiB file.")] = Path(),
    as_json: AsJson = False,
    gpu: Annotated[
        bool,
        typer.Option("--gpu", help="Try the GPU instead, for minutes: codecs, ZeRO stages, speed. Report in --folder."),
    ] = False,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", envvar="REHEARSE", help="With --gpu: small, on the CPU; measures nothing.")
    ] = False,
) -> None:
    """Check this machine: packages, CPU, GPU, CUDA versions, DALI, codecs, Slurm commands, file-system speed.

    Each line is ok, note (works, with a limitation) or missing. The exit code is 0; with --gpu it is 1 if
    a part failed, and 130 if the check was stopped.
    """
    from hpc_jepa.cli.machine import cuda, hardware, software, video

    hardware.require_writable_folder(folder)
    if gpu:
        raise typer.Exit(_check_gpu(folder, as_json, rehearse))
    checks: dict[str, Callable[[], list[CheckResult]]] = {
        "packages": lambda: [software.python(), *software.packages()],
        "processor": lambda: [hardware.cores(), hardware.bf16()],
        "GPU": lambda: [*hardware.gpus(), *cuda.compare_versions(cuda.installed_versions()), cuda.build_tools()],
        "DALI": video.dali_graphs,
        "codecs": lambda: [video.codec(*names) for names in video.CODECS],
        "Slurm": lambda: [software.slurm()],
        "file system": lambda: [hardware.file_system(folder)],
    }
    results: list[CheckResult] = []
    with CONSOLE.status("") as status:
        for subject, check in checks.items():
            status.update(f"checking {subject}")
            results += check()
    if as_json:
        typer.echo(json.dumps([asdict(result) for result in results], indent=1))
    else:
        SafeConsole().print(_table(results))


def _check_gpu(folder: Path, as_json: bool, rehearse: bool) -> int:
    """The short form of ``make gpu-check``; its exit code. With JSON, progress goes to standard error."""
    from hpc_jepa.cli.gpu_check.check import check_gpu, chosen_parts
    from hpc_jepa.cli.gpu_check.part import Mode

    mode = Mode(rehearse=rehearse, short=True)
    report = check_gpu(chosen_parts(None, short=True), mode, folder, 1.0, partial(typer.echo, err=as_json))
    if as_json:
        typer.echo(report.to_json(), nl=False)
    return report.exit_code


def _table(results: list[CheckResult]) -> Table:
    table = Table("", "", Column(overflow="fold"), box=None, show_header=False, padding=(0, 1), pad_edge=False)
    for result in results:
        text = Text(result.detail)
        if result.advice:
            text.append(f"\n{result.advice}", style="italic")
        table.add_row(Text(result.status, style=COLOURS[result.status]), Text(result.check, style="bold"), text)
    return table
