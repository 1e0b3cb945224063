"""All commands in one place, and the one-line errors of all of them.

Commands import what they need when they run: help and errors should not wait for torch.
"""

from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperGroup

import hpc_jepa
from hpc_jepa.cli import (
    checkpoint,
    doctor,
    evaluate,
    objectives,
    report,
    shards,
    shards_bench,
    study,
    train,
)
from hpc_jepa.cli.console import CONSOLE
from hpc_jepa.errors import EXIT_INTERRUPTED, HpcJepaError


class OneLineErrors(TyperGroup):
    """Expected failures become one line and an exit code; ``--debug`` shows where they came from."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Exit codes: 2 bad input, 3 bad data, 4 damaged checkpoint, 130 stopped, 1 the rest."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # whoever read the output has seen enough: typer ends without a word
            raise
        except (HpcJepaError, OSError) as error:
            if ctx.params["debug"]:
                raise
            CONSOLE.print(f"[bold red]error:[/] {escape(_one_line(error))}", highlight=False)
            raise typer.Exit(error.exit_code if isinstance(error, HpcJepaError) else 1) from error
        except KeyboardInterrupt as interrupt:
            CONSOLE.print("stopped")
            raise typer.Exit(EXIT_INTERRUPTED) from interrupt


def _one_line(error: HpcJepaError | OSError) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


app = typer.Typer(
    cls=OneLineErrors,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Pretrain Video-JEPA models with auxiliary objectives, evaluate them frozen, and judge the difference.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(hpc_jepa.__version__)
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of expected errors too.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of every command."""


app.command("train", epilog=train.EXAMPLES)(train.train)
app.command("evaluate", epilog=evaluate.EXAMPLES)(evaluate.evaluate)
app.command("report", epilog=report.EXAMPLES)(report.report)
app.command("doctor", epilog=doctor.EXAMPLES)(doctor.doctor)
shards.app.command("bench", epilog=shards_bench.EXAMPLES)(shards_bench.bench)
app.add_typer(checkpoint.app, name="checkpoint", help="See, check, continue, thin out and hand on what runs saved.")
app.add_typer(shards.app, name="shards", help="Build, check and look into tar shards.")
app.add_typer(objectives.app, name="objectives", help="What there is to train with.")
app.add_typer(study.app, name="study", help="Plan and run a grid of variants, and see how it stands.")
