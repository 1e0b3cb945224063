"""``hpc-jepa checkpoint``: list, inspect, verify, resume, prune, compare, export, import and check checkpoints."""

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Column, Table
from rich.text import Text

from hpc_jepa.cli.console import CONSOLE, AsJson, clock, examples, plural, progress_bar, split_overrides, stdout_console
from hpc_jepa.config.init import PARTS
from hpc_jepa.errors import CheckpointError, InputError
from hpc_jepa.io.escape import SafeConsole
from hpc_jepa.runs.run_dir import RunDir

if TYPE_CHECKING:
    from hpc_jepa.checkpoint.inspect import CheckpointEntry, TensorDiff, TensorStats
    from hpc_jepa.config.init import Part

app = typer.Typer(no_args_is_help=True)

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="RUNS/<study>/<regime>/<variant>/seed-<n>.")]
CheckpointPath = Annotated[
    Path, typer.Argument(metavar="PATH", help="Run folder (its newest checkpoint), or one checkpoints/step-*.")
]
AllTensors = Annotated[bool, typer.Option("--all", help="Include optimizer moments and random state.")]
Weights = Annotated[Literal["target", "student"], typer.Option(help="EMA target encoder, or student encoder.")]

LAUNCHERS = {
    "here": (),
    "torchrun": (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node={processes}", "-m"),
    "deepspeed": ("deepspeed", "--no_local_rank", "--num_gpus={processes}", "--module"),
    "srun": ("srun", "--ntasks={processes}", sys.executable, "-m"),
}

Executor = Literal["here", "torchrun", "deepspeed", "srun"]

RESUME_EXAMPLES = examples(
    "hpc-jepa checkpoint resume runs/quickstart/quickstart/baseline/seed-0",
    "hpc-jepa checkpoint resume RUN engine.zero_stage=2 --executor torchrun --processes 4",
    "hpc-jepa checkpoint resume RUN schedule.steps=40000 'checkpoint.accept=\\[schedule.steps]'",
)
PRUNE_EXAMPLES = examples(
    "hpc-jepa checkpoint prune RUN --dry-run",
    "hpc-jepa checkpoint prune RUN --keep 1 --keep-every 10000",
)
EXPORT_EXAMPLES = examples(
    "hpc-jepa checkpoint export RUN --out baseline-target",
    "hpc-jepa checkpoint export RUN/checkpoints/step-00012000 --format transformers --weights student --out student",
)
IMPORT_EXAMPLES = examples(
    "hpc-jepa checkpoint import vitl.pt configs/regime/ucf101.yaml study=released variant=vjepa2-vitl",
    "hpc-jepa evaluate runs/released/ucf101/vjepa2-vitl/seed-239 --benchmark ucf101",
)

CHECK_EXAMPLES = examples(
    "hpc-jepa checkpoint check vitb.pt",
    "hpc-jepa checkpoint check vitb.pt configs/regime/own.yaml --forward",
    "hpc-jepa checkpoint check vitb.pt configs/regime/own.yaml --parts encoder,target",
)


@app.command("list", epilog="Example:  hpc-jepa checkpoint list runs/quickstart/quickstart/baseline/seed-0")
def checkpoint_list(run: RunFolder, as_json: AsJson = False) -> None:
    """List the checkpoints of a run: step, age, size, topology, and whether file names and sizes match the manifest."""
    from hpc_jepa.checkpoint.inspect import list_checkpoints
    from hpc_jepa.checkpoint.layout import resolve_run_dir
    from hpc_jepa.checkpoint.retention import best_marks

    found = resolve_run_dir(run)
    entries = list_checkpoints(found.path)
    sound = [entry.manifest for entry in entries if entry.manifest is not None and not entry.error]
    try:
        marks = best_marks(found, sound)
    except InputError:  # no configuration, or one that cannot be read: the checkpoints are listed all the same
        marks = {}
    marked = [marks.get(entry.manifest.step, "") if entry.manifest is not None else "" for entry in entries]
    if as_json:
        summaries = [{**_summary(entry), "best": mark} for entry, mark in zip(entries, marked, strict=True)]
        typer.echo(json.dumps(summaries, indent=1))
        return
    table = _table("checkpoint", "valid", "step", "age", "size", "topology", "loss", *(["keep_best"] if marks else []))
    for entry, mark in zip(entries, marked, strict=True):
        valid = Text("no", style="bold red") if entry.error else Text("yes", style="green")
        table.add_row(entry.path.name, valid, *_cells(entry), *([mark] if mark else []))
    stdout_console().print(table)
    for entry in entries:
        if entry.error:
            SafeConsole(soft_wrap=True, highlight=False).print(f"{entry.path}: {entry.error}")


@app.command("inspect", epilog="Example:  hpc-jepa checkpoint inspect RUN/checkpoints/latest --part student --json")
def checkpoint_inspect(
    path: CheckpointPath,
    part: Annotated[str, typer.Option(help="Prefix of tensor names: student, predictor, objectives, ...")] = "",
    all_tensors: AllTensors = False,
    as_json: AsJson = False,
) -> None:
    """Show a checkpoint: origin, head parameters of each term, and norm and NaN counts of each tensor."""
    from hpc_jepa.checkpoint.inspect import parameter_counts, tensor_stats
    from hpc_jepa.checkpoint.layout import WEIGHT_PREFIXES, read_checkpoint

    prefixes = (part,) if part or all_tensors else WEIGHT_PREFIXES
    checkpoint, stats = read_checkpoint(path, lambda found: (found, list(tensor_stats(found, prefixes))))
    if part and not stats:
        raise InputError(f"--part {part}: {checkpoint.path}: no tensor name starts with this prefix")
    heads = parameter_counts(stats, "objectives.auxiliary.")
    if as_json:
        origin = checkpoint.manifest.model_dump(mode="json", exclude={"files", "shapes", "checksum"})
        tensors = [{"name": x.name, "shape": x.shape, "dtype": x.dtype, **_norm_and_nans(x)} for x in stats]
        typer.echo(json.dumps({"path": str(checkpoint.path), **origin, "heads": heads, "tensors": tensors}, indent=1))
        return
    manifest, console = checkpoint.manifest, stdout_console()
    processes = plural(manifest.world_size, "process", "processes")
    console.print(
        f"{checkpoint.path}\nstep {manifest.step}, saved by {processes} "
        f"at ZeRO stage {manifest.zero_stage}, configuration {manifest.fingerprint}"
    )
    console.print(", ".join(f"{name} {count:,}" for name, count in parameter_counts(stats).items()))
    console.print("heads: " + (", ".join(f"{name} {count:,}" for name, count in heads.items()) or "none"))
    console.print(_tensor_table(stats))


@app.command("verify", epilog="Example:  hpc-jepa checkpoint verify RUN && echo valid")
def checkpoint_verify(path: CheckpointPath, as_json: AsJson = False) -> None:
    """Check the checksum of every file and the shards of every tensor; for a run, in all its checkpoints.

    Exits with code 4 if anything is damaged.
    """
    from hpc_jepa.checkpoint.inspect import verify_checkpoint
    from hpc_jepa.checkpoint.layout import is_checkpoint_dir, resolve_run_dir

    run = resolve_run_dir(path)
    folders = [path.resolve()] if is_checkpoint_dir(path) else run.checkpoint_dirs()
    if not folders:
        raise CheckpointError(f"{path}/checkpoints: no checkpoint yet; train the run first")
    errors: dict[str, list[str]] = {}
    with progress_bar("verify", len(folders)) as advance:
        for folder in folders:
            errors[folder.name] = verify_checkpoint(folder)
            advance()
    if as_json:
        typer.echo(json.dumps({"run": str(run), "errors": errors}, indent=1))
    damaged = [name for name, lines in errors.items() if lines]
    if damaged and not as_json:
        lines = [line for name in damaged for line in errors[name]]
        SafeConsole(soft_wrap=True, highlight=False).print("\n".join(lines))
    if damaged:
        names = ", ".join(damaged)
        raise CheckpointError(f"{run}: {names} damaged; 'hpc-jepa checkpoint resume' uses the newest valid checkpoint")
    CONSOLE.print(f"{run}: {len(folders)} valid")


@app.command("resume", epilog=RESUME_EXAMPLES)
def checkpoint_resume(
    run: RunFolder,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings to change.")] = None,
    executor: Annotated[Executor, typer.Option(help="How to start the processes.")] = "here",
    processes: Annotated[int, typer.Option(min=1, help="Number of processes; may differ from before.")] = 1,
) -> None:
    """Resume a run from its newest valid checkpoint, with any number of processes and at any ZeRO stage."""
    from hpc_jepa.checkpoint.layout import is_checkpoint_dir, resolve_run_dir
    from hpc_jepa.cli.train import train_command

    if executor == "here" and processes > 1:
        raise InputError(f"--processes {processes}: --executor here runs one process; use torchrun, deepspeed or srun")
    if is_checkpoint_dir(run):
        raise InputError(f"{run}: one checkpoint; name its run, {resolve_run_dir(run)}; it resumes from the newest one")
    arguments = [str(RunDir(run).config_file), *(overrides or []), f"runs={_runs_root(run)}"]
    if executor == "here":
        train_command(arguments)
        return
    launcher = [word.format(processes=processes) for word in LAUNCHERS[executor]]
    CONSOLE.print(f"{run}: {executor} starts {plural(processes, 'process', 'processes')}")
    try:
        os.execvp(launcher[0], [*launcher, "hpc_jepa", "train", *arguments])
    except FileNotFoundError as error:
        raise InputError(f"--executor {executor}: command '{launcher[0]}' not found") from error


@app.command("prune", epilog=PRUNE_EXAMPLES)
def checkpoint_prune(
    run: RunFolder,
    keep: Annotated[
        int | None, typer.Option(min=1, help="Keep the newest N.", show_default="checkpoint.keep of the run")
    ] = None,
    keep_every: Annotated[int | None, typer.Option(min=0, help="Also keep multiples of N steps.")] = None,
    keep_hours: Annotated[float | None, typer.Option(min=0, help="Also keep one per N hours.")] = None,
    keep_best: Annotated[int | None, typer.Option(min=0, help="Also keep the N best by --best-by.")] = None,
    best_by: Annotated[str | None, typer.Option(help="Metric: loss, terms/ld, health/target_std, ...")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be removed, remove nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove checkpoints that the retention policy (of the run, or given here) does not keep.

    Never removes the newest valid one. Refused while the run is training.
    """
    from hpc_jepa.checkpoint import retention
    from hpc_jepa.checkpoint.layout import is_checkpoint_dir, resolve_run_dir
    from hpc_jepa.io.atomic import exclusive_lock

    options = {"keep": keep, "keep_every": keep_every, "keep_hours": keep_hours, "keep_best": keep_best}
    given = {name: value for name, value in {**options, "best_by": best_by}.items() if value is not None}
    if is_checkpoint_dir(run):
        raise InputError(f"{run}: one checkpoint; name its run, {resolve_run_dir(run)}")
    policy = resolve_run_dir(run).config.checkpoint.model_copy(update=given)
    if dry_run:
        removed = retention.expired(run, policy)
    else:
        RunDir(run).refuse_links_outside()
        with exclusive_lock(RunDir(run).lock_file):
            removed = retention.prune_checkpoints(run, policy)
    if as_json:
        typer.echo(json.dumps({"dry_run": dry_run, "removed": [path.name for path in removed]}))
        return
    names = ", ".join(path.name for path in removed) or "nothing"
    CONSOLE.print(f"{run}: {'would remove' if dry_run else 'removed'} {names}", highlight=False)


@app.command("diff", epilog="Example:  hpc-jepa checkpoint diff RUN RUN/checkpoints/step-00012000 --json")
def checkpoint_diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="Run or checkpoint.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The one to compare with.")],
    all_tensors: AllTensors = False,
    as_json: AsJson = False,
) -> None:
    """Compare two checkpoints: settings, data and tensors, with the size of each difference."""
    from dataclasses import asdict

    from hpc_jepa.checkpoint.inspect import diff_settings, diff_tensors
    from hpc_jepa.checkpoint.layout import WEIGHT_PREFIXES, resolve_checkpoint

    pair = resolve_checkpoint(a), resolve_checkpoint(b)
    settings = diff_settings(*pair)
    tensors = list(diff_tensors(*pair, prefixes=("",) if all_tensors else WEIGHT_PREFIXES))
    if as_json:
        steps = [checkpoint.step for checkpoint in pair]
        diff = {"steps": steps, "settings": settings, "tensors": [asdict(x) for x in tensors]}
        typer.echo(json.dumps(diff, indent=1))
        return
    console = stdout_console()
    console.print(f"A  {pair[0].path}\nB  {pair[1].path}")
    if settings:
        table = _table("setting", "A", "B")
        for name, values in settings.items():
            table.add_row(name, *(Text(json.dumps(value)) for value in values))
        console.print(table)
    console.print(_difference_table(tensors) if tensors else "all tensors are equal bit for bit")


@app.command("export", epilog=EXPORT_EXAMPLES)
def checkpoint_export(
    path: CheckpointPath,
    out: Annotated[Path, typer.Option(help="Folder to create.")],
    to: Annotated[
        Literal["safetensors", "transformers", "timm", "original"],
        typer.Option("--format", help="Tensor names and layout."),
    ] = "safetensors",
    weights: Weights = "target",
) -> None:
    """Export the encoder with a model card, for hpc_jepa.load_encoder, transformers (VJEPA2Model) or timm-like code.

    The format original holds all three networks as facebookresearch/vjepa2 saves them.
    """
    from hpc_jepa.checkpoint.export import export_encoder
    from hpc_jepa.checkpoint.layout import read_checkpoint

    card = read_checkpoint(path, lambda checkpoint: export_encoder(checkpoint, to, weights, out))
    untrained = f" (the {card.read_from}: without EMA the target is not trained)"
    CONSOLE.print(f"{out}: {weights}{untrained if card.read_from != weights else ''} of step {card.step}, {to}")


@app.command("import", epilog=IMPORT_EXAMPLES)
def checkpoint_import(
    path: Annotated[Path, typer.Argument(metavar="WEIGHTS", help="V-JEPA 2 or 2.1 .pt file, or VJEPA2Model folder.")],
    arguments: Annotated[list[str], typer.Argument(metavar="CONFIG|KEY=VALUE", help="As in 'hpc-jepa train'.")],
    weights: Weights = "target",
    heads: Annotated[int | None, typer.Option(min=1, help="Attention heads, for unreleased sizes.")] = None,
    depth: Annotated[int | None, typer.Option(min=1, help="Number of blocks, for unreleased sizes.")] = None,
) -> None:
    """Create a run with zero steps from released weights, to evaluate and report it like any other run.

    The architecture is read from the weights, all_tensors else from the configuration.
    """
    from hpc_jepa.checkpoint.pretrained import read_pretrained
    from hpc_jepa.training.import_weights import import_config, import_weights

    files = read_pretrained(path, weights, heads, depth)
    config = import_config(files, *split_overrides(arguments))
    CONSOLE.print(f"{import_weights(files, config)}: {weights} of {path}")


@app.command("check", epilog=CHECK_EXAMPLES)
def checkpoint_check(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Released .pt file in V-JEPA 2.1's layout.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="CONFIG|KEY=VALUE", help="As in 'hpc-jepa train'; none: only SHA-256.")
    ] = None,
    parts: Annotated[
        str | None,
        typer.Option(help="Networks to load from it, separated by commas; by default init.parts of this file, or all."),
    ] = None,
    forward: Annotated[bool, typer.Option("--forward", help="Also compute one masked pass on random clips.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check whether a released file fits a configuration, before a job is queued. Prints its SHA-256.

    Exits with code 4 and names the tensors if it does not fit.
    """
    from hpc_jepa.checkpoint.released_file import open_released
    from hpc_jepa.config.loading import read_config
    from hpc_jepa.config.run import RunConfig
    from hpc_jepa.distributed import set_ds_accelerator

    if forward and not arguments:
        raise InputError("--forward: name the configuration of the run, as in 'hpc-jepa train'")
    config = read_config(RunConfig, *split_overrides(arguments)) if arguments else None
    init = config.init if config and config.init and config.init.file == path else None
    chosen = _parts(parts) if parts is not None else init.parts if init else PARTS
    file = open_released(path, init.sha256 if init else None)
    if config is None:
        if as_json:
            typer.echo(json.dumps({"sha256": file.sha256, "keys": list(file.content)}))
            return
        CONSOLE.print(
            f"{path}: SHA-256 {file.sha256}; holds {', '.join(file.content)}", highlight=False, soft_wrap=True
        )
        return
    set_ds_accelerator("cpu")
    from hpc_jepa.training.check_file import check_parts, forward_loss

    tensors = check_parts(file, config, chosen)
    result = forward_loss(config, tensors) if forward else None
    if as_json:
        passed = {"loss": result.loss, "terms": result.terms} if result else {}
        typer.echo(json.dumps({"sha256": file.sha256, "parts": chosen, "tensors": len(tensors), **passed}, indent=1))
        return
    CONSOLE.print(f"{path}: SHA-256 {file.sha256}", highlight=False, soft_wrap=True)
    CONSOLE.print(f"fits: {', '.join(chosen)} ({len(tensors)} tensors)", highlight=False)
    if result is not None:
        terms = ", ".join(f"{name} {value:.4f}" for name, value in result.terms.items())
        CONSOLE.print(f"one masked pass on random clips: loss {result.loss:.4f} ({terms})", highlight=False)


def _parts(text: str) -> "tuple[Part, ...]":
    """The networks that ``--parts`` names. Raises InputError."""
    names = text.split(",")
    unknown = [name for name in names if name not in PARTS]
    if unknown or len(set(names)) != len(names):
        raise InputError(f"--parts {text}: a list of {', '.join(PARTS)}, each once")
    return tuple(part for part in PARTS if part in names)


def _summary(entry: "CheckpointEntry") -> dict[str, Any]:
    summary: dict[str, Any] = {"name": entry.path.name, "valid": not entry.error, "error": entry.error}
    if (manifest := entry.manifest) is None:
        return summary
    return summary | {
        "step": manifest.step,
        "age_seconds": time.time() - manifest.time,
        "bytes": sum(file.size for file in manifest.files.values()),
        "world_size": manifest.world_size,
        "zero_stage": manifest.zero_stage,
        "metrics": manifest.metrics,
    }


def _cells(entry: "CheckpointEntry") -> list[str]:
    """Step, age, size, topology and loss; empty without a readable manifest."""
    if entry.manifest is None:
        return []
    summary, metrics = _summary(entry), entry.manifest.metrics
    return [
        str(summary["step"]),
        clock(summary["age_seconds"]),
        f"{summary['bytes'] / 2**20:.1f} MiB",
        f"{summary['world_size']} x ZeRO {summary['zero_stage']}",
        f"{metrics['loss']:.4f}" if "loss" in metrics else "",
    ]


def _tensor_table(stats: "list[TensorStats]") -> Table:
    table = _table("tensor", "shape", "dtype", "norm", "NaN", "infinite")
    for x in stats:
        style = "bold red" if x.nan or x.infinite else ""
        table.add_row(x.name, _shape(x.shape), x.dtype, f"{x.norm:.5g}", str(x.nan), str(x.infinite), style=style)
    return table


def _difference_table(differences: "list[TensorDiff]") -> Table:
    table = _table("tensor", "shape", "differing", "largest", "relative")
    for x in differences:
        sizes = (str(x.differing), f"{x.largest:.3g}", f"{x.relative:.3g}")
        table.add_row(x.name, _shape(x.shape), *(("-", f"only in {x.only}", "-") if x.only else sizes))
    return table


def _table(*columns: str) -> Table:
    """A table that wraps long names instead of truncating them."""
    return Table(*(Column(name, overflow="fold") for name in columns), box=None, padding=(0, 2, 0, 0))


def _norm_and_nans(x: "TensorStats") -> dict[str, float]:
    return {"norm": x.norm, "nan": x.nan, "infinite": x.infinite}


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _runs_root(run: Path) -> Path:
    """The folder of all runs that holds ``run`` now; it may have been moved since it was written."""
    config = RunDir(run).config
    relative, absolute = config.folder.relative_to(config.runs), run.resolve()
    if absolute.parts[-len(relative.parts) :] != relative.parts:
        raise InputError(f"{run}: config.yaml belongs to {relative}; rename the folder to that path")
    return absolute.parents[len(relative.parts) - 1]
