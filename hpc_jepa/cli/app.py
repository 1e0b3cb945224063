"""The command tree of ``hpc-jepa`` and its one-line errors.

Commands import what they need when they run, so that ``--help`` and errors appear without importing torch.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.text import Text
from typer.core import TyperGroup

import hpc_jepa
from hpc_jepa.cli import (
    checkpoint,
    doctor,
    evaluate,
    init,
    objectives,
    report,
    shards,
    shards_bench,
    study,
    study_stage,
    train,
)
from hpc_jepa.cli.console import CONSOLE
from hpc_jepa.errors import EXIT_INTERRUPTED, HpcJepaError
from hpc_jepa.io.escape import visible

UsageError: Any = typer.BadParameter.__mro__[1]
"""Base class of the errors of a wrong command line; typer has no public name for it."""


class OneLineErrors(TyperGroup):
    """Print expected errors as one line and exit with their code; ``--debug`` shows the traceback."""

    def make_context(self, *arguments: Any, **extra: Any) -> Any:
        """Parse the options before the command."""
        with _one_line_usage_errors():
            return super().make_context(*arguments, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Exit codes: 2 bad input, 3 bad data, 4 damaged checkpoint, 130 stopped, 1 the rest."""
        try:
            with _one_line_usage_errors():
                return super().invoke(ctx)
        except BrokenPipeError:  # the reader of the pipe has closed it: typer exits silently
            raise
        except (HpcJepaError, OSError) as error:
            if ctx.params["debug"]:
                raise
            _print_error(_one_line(error))
            raise typer.Exit(error.exit_code if isinstance(error, HpcJepaError) else 1) from error
        except KeyboardInterrupt as interrupt:
            CONSOLE.print("stopped")
            raise typer.Exit(EXIT_INTERRUPTED) from interrupt


@contextmanager
def _one_line_usage_errors() -> Iterator[None]:
    """Print a wrong option, argument or command as one line, with the nearest known one, and exit with code 2."""
    try:
        yield
    except UsageError as error:
        if error.ctx is None or not error.format_message() or type(error).__name__ == "NoArgsIsHelpError":
            raise
        message = " ".join(error.format_message().split()).removesuffix(".")
        separator = "" if message.endswith("?") else ";"
        _print_error(f"{message}{separator} see {error.ctx.command_path} --help")
        raise typer.Exit(error.exit_code) from error


def _print_error(message: str) -> None:
    CONSOLE.print(Text.assemble(("error:", "bold red"), " ", visible(message)))


def _one_line(error: HpcJepaError | OSError) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(filter(None, map(str.strip, str(error).splitlines())))  # blanks may be part of a path


app = typer.Typer(
    cls=OneLineErrors,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Pretrain Video-JEPA models with auxiliary objectives, evaluate the frozen encoders, and compare them.",
)


def _version(requested: bool) -> None:
    if requested:
        typer.echo(hpc_jepa.__version__)
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of expected errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of every command."""


app.command("train", epilog=train.EXAMPLES)(train.train_command)
app.command("evaluate", epilog=evaluate.EXAMPLES)(evaluate.evaluate_command)
app.command("report", epilog=report.EXAMPLES)(report.report_command)
app.command("doctor", epilog=doctor.EXAMPLES)(doctor.doctor_command)
app.command("init", epilog=init.EXAMPLES)(init.init_command)
shards.app.command("bench", epilog=shards_bench.EXAMPLES)(shards_bench.shards_bench)
app.add_typer(checkpoint.app, name="checkpoint", help="List, verify, resume, prune, compare and export checkpoints.")
app.add_typer(shards.app, name="shards", help="Build, verify and inspect tar shards.")
app.add_typer(objectives.app, name="objectives", help="List the training objectives and show their formulas.")
study.app.command("stage", epilog=study_stage.EXAMPLES)(study_stage.stage_command)
app.add_typer(study.app, name="study", help="Plan, run and follow a study: a grid of regimes, variants and seeds.")
