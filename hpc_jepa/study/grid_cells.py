"""The runs of a grid without their evaluations: regimes x variants x points of the axes x phases x seeds."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hpc_jepa.config.init import InitConfig
from hpc_jepa.config.loading import find_config, read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.semantics import switch_text
from hpc_jepa.config.strict import KeyPath
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.config.study_variants import RunPhase, VariantConfig
from hpc_jepa.config.sweep import override_text, settings_name, sweep_points
from hpc_jepa.config.yaml_reader import as_value, parse_value
from hpc_jepa.errors import InputError
from hpc_jepa.io.resources import resource_name
from hpc_jepa.study.cell import StudyCell


def grid_cells(study: StudyConfig, runs: Path) -> list[StudyCell]:
    """All runs of the grid in folders of the study itself.

    Raises InputError for an unknown regime, variant or setting, and if two cells would share a folder.
    """
    cells = [
        cell
        for regime in study.regimes
        for variant in study.variants
        for point in sweep_points(study.axes)
        for cell in _variant_cells(study, regime, variant, point, runs)
    ]
    _check_distinct_folders(cells)
    return cells


def _variant_cells(
    study: StudyConfig, regime: str, variant: VariantConfig, point: Mapping[str, Any], runs: Path
) -> list[StudyCell]:
    """The cells of all phases of a variant at one point of the axes, earlier phases first."""
    if not study.phases:
        return _cells(study, regime, variant, point, runs)
    cells: dict[str | None, list[StudyCell]] = {None: []}
    for phase in study.phases:
        cells[phase.name] = _cells(study, regime, variant, point, runs, phase, cells[phase.after])
    return [cell for of_phase in cells.values() for cell in of_phase]


def _cells(
    study: StudyConfig,
    regime: str,
    variant: VariantConfig,
    point: Mapping[str, Any],
    runs: Path,
    phase: RunPhase | None = None,
    before: Sequence[StudyCell] = (),
) -> list[StudyCell]:
    """One cell per seed. The configuration is read and validated once: seeds are validated with the study.

    point: values of the axes. before: cells of the phase that this one begins after, seed by seed.
    """
    seeds = variant.seeds or study.run_seeds
    files = (find_config(regime, "regime"), find_config(variant.objective, "objective"))
    layers = tuple(str(resource_name(file)) for file in files)
    preset = f"semantics={variant.semantics.preset}"
    overrides = (f"study={as_value(study.study)}", f"runs={as_value(str(runs))}", preset)
    own = (*study.overrides, *variant.overrides, *(override_text(key, value) for key, value in point.items()))
    if phase is not None:
        own = (*own, *phase.overrides)
    begins = [_begin_after(phase, cell) for cell in before] if phase is not None and before else [()] * len(seeds)
    with _study_file_named(study, variant, point, phase):
        config = read_config(RunConfig, layers, (*overrides, f"seed={seeds[0]}", *own, *begins[0]))
    name = _variant_name(variant, config.variant, point) + (f".{phase.name}" if phase else "")
    if name != config.variant:
        own = (*own, f"variant={as_value(name)}")
        config = config.model_copy(update={"variant": name})
    switches = _switch_overrides(variant)
    if switches:
        layered = (*overrides, f"seed={seeds[0]}", *own, *begins[0], *switches)
        config = _with_switches(variant, config, layers, layered)
    cells = []
    for index, (seed, begin) in enumerate(zip(seeds, begins, strict=True)):
        after = before[index].folder if before else None
        own_config = config.model_copy(update={"seed": seed})
        if after is not None and config.init is not None:
            own_config = own_config.model_copy(update={"init": config.init.model_copy(update={"run": after})})
        arguments = (*layers, *overrides, f"seed={seed}", *own, *begin, *switches)
        cells.append(StudyCell(own_config, arguments, (), after))
    return cells


@contextmanager
def _study_file_named(
    study: StudyConfig, variant: VariantConfig, point: Mapping[str, Any], phase: RunPhase | None
) -> Iterator[None]:
    """Say where the study has an override that an error names: file, line and key."""
    try:
        yield
    except InputError as error:
        places: list[tuple[KeyPath, str]] = [(("axes", key), override_text(key, value)) for key, value in point.items()]
        places += [(("overrides",), text) for text in study.overrides]
        number = str(study.variants.index(variant))
        places += [(("variants", number, "overrides"), text) for text in variant.overrides]
        if phase is not None:
            place = ("phases", str(study.phases.index(phase)), "overrides")
            places += [(place, text) for text in phase.overrides]
        for keys, text in places:
            if str(error).startswith(f"override {text}"):
                raise InputError(f"{study.locations.prefix(keys)}{'.'.join(keys)}: {error}") from error
        raise


def _begin_after(phase: RunPhase, before: StudyCell) -> tuple[str, ...]:
    """The override that begins a run with the last checkpoint of another one, whatever its variant sets for init."""
    own = InitConfig(run=before.folder, step=before.config.schedule.steps, what=phase.what)
    return (override_text("init", own.model_dump(mode="json")),)


def _variant_name(variant: VariantConfig, objective: str, point: Mapping[str, Any]) -> str:
    """Name of the variant in folders and tables, with its settings; ``objective``: that of the composition."""
    if variant.name is not None:
        return settings_name(variant.name, point)
    own = {key: parse_value(text) for key, _, text in (override.partition("=") for override in variant.overrides)}
    return settings_name(objective, {**own, **point})


def _switch_overrides(variant: VariantConfig) -> tuple[str, ...]:
    """Overrides that set the single switches of a variant. They come last: overrides of the study are for all cells."""
    switches = variant.semantics.switches
    if not switches:
        return ()
    return (
        *(f"semantics.{name}={switch_text(value)}" for name, value in switches.items()),
        f"switches=[{', '.join(switches)}]",
    )


def _with_switches(
    variant: VariantConfig, plain: RunConfig, layers: Sequence[str], overrides: Sequence[str]
) -> RunConfig:
    """The configuration with the switches. Raises InputError if one of them changes nothing in this regime."""
    for name, value in variant.semantics.switches.items():
        if getattr(plain.semantics, name) == value:
            raise InputError(
                f"variants: {variant.objective}: {name} is {switch_text(value)} under {plain.semantics_name} semantics "
                f"in regime {plain.regime} without this switch too; leave it out"
            )
    return read_config(RunConfig, layers, overrides)


def _check_distinct_folders(cells: Sequence[StudyCell]) -> None:
    seen: set[Path] = set()
    for cell in cells:
        if cell.folder in seen:
            raise InputError(
                f"{cell.folder}: two variants of the study have this run folder; remove one, or set name: of one"
            )
        seen.add(cell.folder)
