"""``hpc-jepa objectives``: list the training objectives and show their formulas."""

import json
from typing import Annotated

import typer
from rich.columns import Columns
from rich.table import Table
from rich.text import Text

from hpc_jepa.cli.console import AsJson
from hpc_jepa.config.semantics import Preset
from hpc_jepa.io.escape import SafeConsole

app = typer.Typer(no_args_is_help=True)

FAMILIES = {
    "M": "masking",
    "R": "loss re-weighting",
    "D": "latent dynamics, temporal alignment",
    "F": "factorisation",
    "K": "smoothness",
    "G": "distribution regulariser",
    "X": "contrastive",
    "A": "action",
}

Name = Annotated[str, typer.Argument(help="A name from 'hpc-jepa objectives list'.")]
SemanticsOption = Annotated[Preset, typer.Option(help="Semantics for which head sizes are shown.")]


@app.command("list", epilog="Example:  hpc-jepa objectives list --json")
def objectives_list(as_json: AsJson = False, semantics: SemanticsOption = "corrected") -> None:
    """List every variant with its terms and weights. A configuration can combine terms in any other way."""
    from hpc_jepa.objectives.variants import describe_variant, variant_names

    entries = [describe_variant(name, semantics) for name in variant_names()]
    if as_json:
        typer.echo(json.dumps([entry._asdict() for entry in entries], indent=1))
        return
    table = Table("name", "families", "terms and weights", "heads", "paper ran it in", box=None, padding=(0, 2, 0, 0))
    for entry in entries:
        table.add_row(
            Text(entry.name, "bold"),
            entry.families or "-",
            _terms(entry.options) or ("masking only" if entry.masking else "base loss only"),
            f"{entry.head_parameters / 1e6:.1f} M" if entry.head_parameters else "-",
            ", ".join(entry.published_in) or "-",
        )
    SafeConsole().print(table)
    legend = [Text.assemble((letter, "bold dim"), (f" {meaning}", "dim")) for letter, meaning in FAMILIES.items()]
    SafeConsole().print(Columns(legend, padding=(0, 2)))


@app.command("show", epilog="Example:  hpc-jepa objectives show fwm_hw_ld")
def objectives_show(name: Name, as_json: AsJson = False, semantics: SemanticsOption = "corrected") -> None:
    """Show one variant: formulas, options, masking and head sizes."""
    from hpc_jepa.objectives.variants import describe_variant, formulas

    entry = describe_variant(name, semantics)
    if as_json:
        typer.echo(json.dumps({**entry._asdict(), "formulas": formulas(name)}, indent=1))
        return
    console = SafeConsole(highlight=False)
    console.print(Text.assemble((entry.name, "bold"), f"   families {entry.families or '-'}, EMA {entry.ema}"))
    for part, options in entry.options.items():
        console.print(f"  {part}: " + ", ".join(f"{key} {value}" for key, value in options.items()))
    if entry.masking:
        console.print(f"  masking: {json.dumps(entry.masking)}")
    console.print(f"  head parameters at ViT-B, four levels: {entry.head_parameters:,}\n")
    for title, formula in formulas(name).items():
        console.print(Text(title, "bold"))
        console.print(_reflow(formula) + "\n")


def _reflow(text: str) -> str:
    """One line per paragraph, for the terminal to wrap."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _terms(options: dict[str, dict[str, object]]) -> str:
    weights = {
        part: [f"{value:g}" for key, value in chosen.items() if key.endswith("weight") and isinstance(value, float)]
        for part, chosen in options.items()
    }
    return " + ".join(f"{part} {'/'.join(values)}" for part, values in weights.items())
