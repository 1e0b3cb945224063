"""``hpc-jepa checkpoint``: see, check, continue, thin out, compare and hand on what runs have saved."""

import json
import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from hpc_jepa.cli.console import CONSOLE, plural, progress_bar, stdout_console
from hpc_jepa.errors import CheckpointError, InputError
from hpc_jepa.runs.run_dir import RunDir

if TYPE_CHECKING:
    from hpc_jepa.checkpoint.difference import TensorDiff
    from hpc_jepa.checkpoint.inspect import CheckpointEntry, TensorStats

app = typer.Typer(no_args_is_help=True)

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="RUNS/<study>/<regime>/<variant>/seed-<n>.")]
Place = Annotated[
    Path, typer.Argument(metavar="PATH", help="A run (its newest checkpoint), or one checkpoints/step-*.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Moments = Annotated[bool, typer.Option("--all", help="The optimizer's moments and random state too.")]
Weights = Annotated[Literal["target", "student"], typer.Option(help="The EMA target, or the student it follows.")]

LAUNCHERS = {
    "here": (),
    "torchrun": (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node={processes}", "-m"),
    "deepspeed": ("deepspeed", "--no_local_rank", "--num_gpus={processes}", "--module"),
    "srun": ("srun", "--ntasks={processes}", sys.executable, "-m"),
}

Executor = Literal["here", "torchrun", "deepspeed", "srun"]

RESUME_EXAMPLES = """Examples:

  hpc-jepa checkpoint resume runs/quickstart/quickstart/baseline/seed-0

  hpc-jepa checkpoint resume RUN engine.zero_stage=2 --executor torchrun --processes 4

  hpc-jepa checkpoint resume RUN schedule.steps=40000 'checkpoint.accept=\\[schedule.steps]'
"""
PRUNE_EXAMPLES = """Examples:

  hpc-jepa checkpoint prune RUN --dry-run

  hpc-jepa checkpoint prune RUN --keep 1 --keep-every 10000
"""
EXPORT_EXAMPLES = """Examples:

  hpc-jepa checkpoint export RUN --out baseline-target

  hpc-jepa checkpoint export RUN/checkpoints/step-00012000 --format transformers --weights student --out student
"""
IMPORT_EXAMPLES = """Examples:

  hpc-jepa checkpoint import vitl.pt configs/regime/ucf101.yaml study=released variant=vjepa2-vitl

  hpc-jepa evaluate runs/released/ucf101/vjepa2-vitl/seed-239 --benchmark ucf101
"""


@app.command("list", epilog="Example:  hpc-jepa checkpoint list runs/quickstart/quickstart/baseline/seed-0")
def list_all(run: RunFolder, as_json: AsJson = False) -> None:
    """List the checkpoints of a run: step, age, size, whether names and sizes of files are right, topology."""
    from hpc_jepa.checkpoint.inspect import list_checkpoints
    from hpc_jepa.checkpoint.places import resolve_run_dir

    found = list_checkpoints(resolve_run_dir(run))
    if as_json:
        typer.echo(json.dumps([_listed(entry) for entry in found], indent=1))
        return
    table = _table("checkpoint", "valid", "step", "age", "size", "topology", "loss")
    for entry in found:
        valid = Text("no", style="bold red") if entry.error else Text("yes", style="green")
        table.add_row(entry.path.name, valid, *_known(entry))
    Console().print(table)
    for entry in found:
        if entry.error:
            Console(soft_wrap=True, highlight=False).print(f"{entry.path}: {entry.error}", markup=False)


@app.command(epilog="Example:  hpc-jepa checkpoint inspect RUN/checkpoints/latest --part student --json")
def inspect(
    path: Place,
    part: Annotated[
        str, typer.Option(help="Only tensors whose names begin so: student, predictor, objectives, ...")
    ] = "",
    everything: Moments = False,
    as_json: AsJson = False,
) -> None:
    """Show what a checkpoint holds: where it comes from, the heads of every term, and each tensor with its health."""
    from hpc_jepa.checkpoint.inspect import parameter_counts, tensor_stats
    from hpc_jepa.checkpoint.layout import WEIGHT_PREFIXES
    from hpc_jepa.checkpoint.places import resolve_checkpoint

    checkpoint = resolve_checkpoint(path)
    facts = list(tensor_stats(checkpoint, (part,) if part or everything else WEIGHT_PREFIXES))
    if part and not facts:
        raise InputError(f"--part {part}: {checkpoint.path} holds no tensor whose name begins so")
    heads = parameter_counts(facts, "objectives.auxiliary.")
    if as_json:
        about = checkpoint.manifest.model_dump(mode="json", exclude={"files", "shapes", "checksum"})
        tensors = [{"name": x.name, "shape": x.shape, "dtype": x.dtype, **_health(x)} for x in facts]
        typer.echo(json.dumps({"path": str(checkpoint.path), **about, "heads": heads, "tensors": tensors}, indent=1))
        return
    manifest, console = checkpoint.manifest, stdout_console()
    savers = plural(manifest.world_size, "process", "processes")
    console.print(
        f"[bold]{checkpoint.path}[/]\nstep {manifest.step}, saved by {savers} "
        f"at ZeRO stage {manifest.zero_stage}, configuration {manifest.fingerprint}"
    )
    console.print(", ".join(f"{name} {count:,}" for name, count in parameter_counts(facts).items()), markup=False)
    console.print("heads: " + (", ".join(f"{name} {count:,}" for name, count in heads.items()) or "none"), markup=False)
    console.print(_tensor_table(facts))


@app.command(epilog="Example:  hpc-jepa checkpoint verify RUN && echo sound")
def verify(path: Place, as_json: AsJson = False) -> None:
    """Compare every file with its checksum, and every tensor with its pieces; of a run, in all its checkpoints.

    Leaves with exit code 4 when something is damaged.
    """
    from hpc_jepa.checkpoint.inspect import verify_checkpoint
    from hpc_jepa.checkpoint.places import is_checkpoint_dir, resolve_run_dir

    run = resolve_run_dir(path)
    chosen = [path.resolve()] if is_checkpoint_dir(path) else RunDir(run).checkpoint_dirs()
    if not chosen:
        raise CheckpointError(f"{path}: no checkpoint yet; train the run first")
    with progress_bar("verify", len(chosen)) as advance:
        found = {}
        for one in chosen:
            found[one.name] = verify_checkpoint(one)
            advance()
    if as_json:
        typer.echo(json.dumps({"run": str(run), "faults": found}, indent=1))
    damaged = [fault for lines in found.values() for fault in lines]
    if damaged and not as_json:
        Console(soft_wrap=True, highlight=False).print("\n".join(damaged), markup=False)
    if damaged:
        bad = ", ".join(name for name, lines in found.items() if lines)
        raise CheckpointError(f"{run}: {bad} damaged; 'hpc-jepa checkpoint resume' goes on from the newest sound one")
    CONSOLE.print(f"{run}: {len(chosen)} sound")


@app.command(epilog=RESUME_EXAMPLES)
def resume(
    run: RunFolder,
    settings: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]", help="Settings to change.")] = None,
    executor: Annotated[Executor, typer.Option(help="What starts it.")] = "here",
    processes: Annotated[int, typer.Option(min=1, help="How many; it need not be as many as before.")] = 1,
) -> None:
    """Continue a run from its newest sound checkpoint, with any number of processes and at any ZeRO stage."""
    from hpc_jepa.cli.train import train

    if executor == "here" and processes > 1:
        raise InputError("--processes: one process runs here; choose --executor torchrun, deepspeed or srun for more")
    arguments = [str(RunDir(run).config_file), *(settings or []), f"runs={_runs_of(run)}"]
    if executor == "here":
        train(arguments)
        return
    launcher = [word.format(processes=processes) for word in LAUNCHERS[executor]]
    CONSOLE.print(f"{run}: {executor} starts {plural(processes, 'process', 'processes')}")
    try:
        os.execvp(launcher[0], [*launcher, "hpc_jepa", "train", *arguments])
    except FileNotFoundError as error:
        raise InputError(f"--executor {executor}: no command '{launcher[0]}' on this machine") from error


@app.command(epilog=PRUNE_EXAMPLES)
def prune(
    run: RunFolder,
    keep: Annotated[int | None, typer.Option(min=1, help="Newest ones kept; as the run says.")] = None,
    keep_every: Annotated[int | None, typer.Option(min=0, help="Multiples of so many steps are kept too.")] = None,
    keep_hours: Annotated[float | None, typer.Option(min=0, help="One of every so many hours is kept too.")] = None,
    keep_best: Annotated[int | None, typer.Option(min=0, help="So many with the best figure are kept too.")] = None,
    best_by: Annotated[str | None, typer.Option(help="That figure: loss, terms/ld, health/target_std.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove checkpoints that the run's policy, or the one given here, does not keep.

    The newest undamaged one always stays. Refused while the run is training.
    """
    from hpc_jepa.checkpoint import retention
    from hpc_jepa.checkpoint.places import resolve_run_dir
    from hpc_jepa.io.atomic import exclusive_lock

    chosen = {"keep": keep, "keep_every": keep_every, "keep_hours": keep_hours, "keep_best": keep_best}
    given = {name: value for name, value in {**chosen, "best_by": best_by}.items() if value is not None}
    policy = RunDir(resolve_run_dir(run)).config.checkpoint.model_copy(update=given)
    if dry_run:
        gone = retention.expired(run, policy)
    else:
        with exclusive_lock(RunDir(run).lock_file):
            gone = retention.prune_checkpoints(run, policy)
    if as_json:
        typer.echo(json.dumps({"dry_run": dry_run, "removed": [path.name for path in gone]}))
        return
    names = ", ".join(path.name for path in gone) or "nothing"
    CONSOLE.print(f"{run}: {'would remove' if dry_run else 'removed'} {names}", highlight=False)


@app.command(epilog="Example:  hpc-jepa checkpoint diff runs/a/quickstart/ld/seed-0 runs/b/quickstart/ld/seed-0 --json")
def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="A run, or one checkpoint.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another.")],
    everything: Moments = False,
    as_json: AsJson = False,
) -> None:
    """Say which settings, data and tensors of two checkpoints differ, and by how much."""
    from dataclasses import asdict

    from hpc_jepa.checkpoint.difference import diff_settings, diff_tensors
    from hpc_jepa.checkpoint.layout import WEIGHT_PREFIXES
    from hpc_jepa.checkpoint.places import resolve_checkpoint

    pair = resolve_checkpoint(a), resolve_checkpoint(b)
    settings = diff_settings(*pair)
    tensors = list(diff_tensors(*pair, prefixes=("",) if everything else WEIGHT_PREFIXES))
    if as_json:
        found = {"steps": [one.step for one in pair], "settings": settings, "tensors": [asdict(x) for x in tensors]}
        typer.echo(json.dumps(found, indent=1))
        return
    console = stdout_console()
    console.print(f"A  {pair[0].path}\nB  {pair[1].path}", markup=False)
    if settings:
        table = _table("setting", "A", "B")
        for name, values in settings.items():
            table.add_row(name, *(Text(json.dumps(value)) for value in values))
        console.print(table)
    console.print(_difference_table(tensors) if tensors else "all tensors are equal, bit for bit")


@app.command(epilog=EXPORT_EXAMPLES)
def export(
    path: Place,
    out: Annotated[Path, typer.Option(help="Folder to write; it must not exist.")],
    to: Annotated[
        Literal["safetensors", "transformers", "timm"], typer.Option("--format", help="Names and layout.")
    ] = "safetensors",
    weights: Weights = "target",
) -> None:
    """Write the encoder alone, with a model card: for hpc_jepa.load_encoder, VJEPA2Model or code like timm's."""
    from hpc_jepa.checkpoint.export import export_encoder as export_encoder
    from hpc_jepa.checkpoint.places import resolve_checkpoint

    about = export_encoder(resolve_checkpoint(path), to, weights, out)
    untrained = f" (the {about.read_from}: without EMA the target was not trained)"
    CONSOLE.print(f"{out}: {weights}{untrained if about.read_from != weights else ''} of step {about.step}, {to}")


@app.command("import", epilog=IMPORT_EXAMPLES)
def import_released(
    path: Annotated[
        Path, typer.Argument(metavar="WEIGHT_PREFIXES", help="V-JEPA 2 or 2.1 .pt, or folder of VJEPA2Model.")
    ],
    arguments: Annotated[list[str], typer.Argument(metavar="CONFIG|KEY=VALUE", help="As for 'hpc-jepa train'.")],
    weights: Weights = "target",
    heads: Annotated[int | None, typer.Option(min=1, help="Attention heads, for sizes never released.")] = None,
) -> None:
    """Make a run of no steps from released weights, so that it can be evaluated and reported beside others.

    The architecture is read from the weights, everything else from the configuration.
    """
    from hpc_jepa.checkpoint.pretrained import read_pretrained
    from hpc_jepa.training.import_weights import import_config, import_weights

    files = read_pretrained(path, weights, heads)
    layers = [argument for argument in arguments if "=" not in argument]
    config = import_config(files, layers, [argument for argument in arguments if "=" in argument])
    CONSOLE.print(f"{import_weights(files, config)}: {weights} of {path}")


def _listed(entry: "CheckpointEntry") -> dict[str, Any]:
    facts: dict[str, Any] = {"name": entry.path.name, "valid": not entry.error, "fault": entry.error}
    if entry.manifest is None:
        return facts
    known = entry.manifest
    return facts | {
        "step": known.step,
        "age_seconds": time.time() - known.time,
        "bytes": sum(file.size for file in known.files.values()),
        "world_size": known.world_size,
        "zero_stage": known.zero_stage,
        "metrics": known.metrics,
    }


def _known(entry: "CheckpointEntry") -> list[str]:
    """Step, age, size, topology and loss, as far as the manifest tells."""
    if entry.manifest is None:
        return []
    facts, metrics = _listed(entry), entry.manifest.metrics
    return [
        str(facts["step"]),
        str(timedelta(seconds=round(facts["age_seconds"]))),
        f"{facts['bytes'] / 2**20:.1f} MiB",
        f"{facts['world_size']} x ZeRO {facts['zero_stage']}",
        f"{metrics['loss']:.4f}" if "loss" in metrics else "",
    ]


def _tensor_table(facts: "list[TensorStats]") -> Table:
    table = _table("tensor", "shape", "dtype", "norm", "NaN", "infinite")
    for x in facts:
        style = "bold red" if x.nan or x.infinite else ""
        table.add_row(x.name, _shape(x.shape), x.dtype, f"{x.norm:.5g}", str(x.nan), str(x.infinite), style=style)
    return table


def _difference_table(differences: "list[TensorDiff]") -> Table:
    table = _table("tensor", "shape", "differing", "largest", "relative")
    for x in differences:
        figures = (str(x.differing), f"{x.largest:.3g}", f"{x.relative:.3g}")
        table.add_row(x.name, _shape(x.shape), *(("-", f"only in {x.only}", "-") if x.only else figures))
    return table


def _table(*columns: str) -> Table:
    """Names may take several lines; what is cut off nobody can search for."""
    return Table(*(Column(name, overflow="fold") for name in columns), box=None, padding=(0, 2, 0, 0))


def _health(x: "TensorStats") -> dict[str, float]:
    return {"norm": x.norm, "nan": x.nan, "infinite": x.infinite}


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _runs_of(run: Path) -> Path:
    """The folder of all runs, as it is called from here: where a run was moved to, or written from another folder."""
    config = RunDir(run).config
    inside = config.folder.relative_to(config.runs)
    place = run.resolve()
    if place.parts[-len(inside.parts) :] != inside.parts:
        raise InputError(f"{run}: its configuration calls it {inside}; give the folder that name back")
    return place.parents[len(inside.parts) - 1]
