"""Where a run begins: at its own checkpoint, at that of another run, with a released file, or from its seed."""

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from hpc_jepa.checkpoint.branch_point import origin_checkpoint, origin_run
from hpc_jepa.checkpoint.layout import verify_files
from hpc_jepa.checkpoint.reader import TensorReader
from hpc_jepa.checkpoint.released_file import open_released, require_none, take_parts
from hpc_jepa.config.init import InitConfig
from hpc_jepa.config.run import RunConfig
from hpc_jepa.distributed import broadcast_int, is_main
from hpc_jepa.errors import CheckpointError, DataError
from hpc_jepa.runs.origin import RunOrigin
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.training.zero_state import checkpoint_name

LOG = logging.getLogger(__name__)

NETWORKS = ("student.", "target.", "predictor.")
"""Prefixes of the tensors that a branch must have in common with its origin; heads of objectives may differ."""


@dataclass(frozen=True)
class Start:
    """Beginning of a run.

    step: optimizer steps done. clip_offset: step of the clips and masks less the step of the run. origin, tensors: what
    a new run begins with, else None; ``moments``: the tensors include those of the optimizer.
    """

    step: int = 0
    clip_offset: int = 0
    origin: RunOrigin | None = None
    tensors: "StartTensors | None" = None
    moments: bool = False


FROM_SEED = Start()


class StartTensors(Mapping[str, Tensor]):
    """Tensors of an origin by the names of the run, in which one encoder may be a copy of the other.

    aliases: prefix of names of the run -> prefix of names of the origin.
    """

    def __init__(self, stored: Mapping[str, Tensor], aliases: Mapping[str, str]) -> None:
        self._stored = stored
        self._aliases = aliases
        taken = [name for name in stored if not any(name.startswith(f"{prefix}.") for prefix in aliases)]
        self._names = dict.fromkeys(taken)
        for prefix, source in aliases.items():
            own = [name for name in stored if name.startswith(f"{source}.")]
            self._names |= dict.fromkeys(f"{prefix}{name.removeprefix(source)}" for name in own)

    def __getitem__(self, name: str) -> Tensor:
        """The whole tensor."""
        if name not in self._names:
            raise KeyError(name)
        return self._stored[self._source(name)]

    def __iter__(self) -> Iterator[str]:
        """Names of all tensors."""
        return iter(self._names)

    def __len__(self) -> int:
        """Number of tensors."""
        return len(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        source = self._source(name)
        return self._stored.shape(source) if isinstance(self._stored, TensorReader) else tuple(self[name].shape)

    def read_slice(self, name: str, start: int, stop: int) -> Tensor:
        """Elements ``start`` to ``stop`` of the flattened tensor."""
        if isinstance(self._stored, TensorReader):
            return self._stored.read_slice(self._source(name), start, stop)
        return self[name].reshape(-1)[start:stop]

    def _source(self, name: str) -> str:
        prefix = name.partition(".")[0]
        return self._aliases[prefix] + name.removeprefix(prefix) if prefix in self._aliases else name


def find_start(config: RunConfig, module: nn.Module) -> Start:
    """Where the run begins, read and checked before anything is written. Collective.

    ``module``: the networks of the run, before DeepSpeed shards them. Raises InputError or CheckpointError if the run
    cannot begin as ``config.init`` says.
    """
    run = RunDir(config.folder)
    own = broadcast_int(run.last_step() if run.checkpoint_dirs() else -1)
    if own >= 0:
        return Start(own, _own_clip_offset(run, config))
    if config.init is None:
        return Start()
    if config.init.run is None:
        return _from_file(config.init, module)
    return _from_run(config, config.init, module)


def _own_clip_offset(run: RunDir, config: RunConfig) -> int:
    """Clip offset of a run that has checkpoints, which win over ``init``: the run has trained since."""
    if config.init is None:
        return 0
    origin = run.origin
    if origin is None:
        raise CheckpointError(
            f"{run.origin_file}: missing; restore it from a copy: it says at which clips the run began"
        )
    if is_main():
        LOG.info("%s: continues from its own checkpoint; init is where it began: %s", run, origin.summary)
    return origin.clip_offset


def _from_run(config: RunConfig, init: InitConfig, module: nn.Module) -> Start:
    """Begin at a checkpoint of another run."""
    source = origin_run(config)
    checkpoint = origin_checkpoint(config, source)
    errors = verify_files(checkpoint) if is_main() else []
    if broadcast_int(len(errors)):
        raise CheckpointError(errors[0] if errors else f"{checkpoint.path}: damaged; see the log of rank 0")
    copies_student = config.targets == "ema" and source.config.targets != "ema"
    tensors = StartTensors(TensorReader(checkpoint), {"target": "student"} if copies_student else {})
    drawn, left_out = _differences(module, tensors, str(checkpoint.path))
    try:
        before = source.origin
    except DataError as error:
        raise CheckpointError(str(error)) from error
    clips = before.clip_offset if before else 0
    continues = init.count == "continue"
    origin = RunOrigin(
        kind="run",
        path=str(init.run),
        step=checkpoint.step,
        what=init.what,
        parts=("encoder", "target", "predictor"),
        sha256=checkpoint.manifest.checksum,
        fingerprint=checkpoint.manifest.fingerprint,
        first_step=checkpoint.step if continues else 0,
        clip_offset=clips if continues else clips + checkpoint.step,
        drawn=drawn,
        left_out=left_out,
        copied="target" if copies_student else None,
        time=time.time(),
        before=tuple(before.lines) if before else (),
    )
    return Start(origin.first_step, origin.clip_offset, origin, tensors, moments=init.what == "all")


def _from_file(init: InitConfig, module: nn.Module) -> Start:
    """Begin with the networks of a released file, step 0 and a fresh optimizer."""
    assert init.file is not None
    file = open_released(init.file, init.sha256)
    shapes = weight_shapes(module)
    taken = take_parts(file, init.parts, shapes)
    copied: Literal["target", "student"] | None = None
    if "target" not in init.parts:
        copied = "target"
    elif "encoder" not in init.parts:
        copied = "student"
    aliases: dict[str, str] = {copied: "student" if copied == "target" else "target"} if copied else {}
    tensors = StartTensors(taken, aliases)
    origin = RunOrigin(
        kind="file",
        path=str(init.file),
        parts=init.parts,
        sha256=file.sha256,
        drawn=tuple(name for name in shapes if name not in tensors),
        copied=copied,
        time=time.time(),
    )
    return Start(origin=origin, tensors=tensors)


def weight_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of all weights by their names in a checkpoint."""
    return {checkpoint_name(name): tuple(parameter.shape) for name, parameter in module.named_parameters()}


def _differences(module: nn.Module, tensors: StartTensors, place: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Heads that only the run has, and those that only the origin has.

    Raises CheckpointError naming tensors of the networks that are missing, unknown or of another shape.
    """
    shapes = weight_shapes(module)
    weights = [name for name in tensors if name.startswith((*NETWORKS, "objectives."))]
    missing, unknown = [x for x in shapes if x not in tensors], [x for x in weights if x not in shapes]
    misshapen = [x for x in shapes if x in tensors and tensors.shape(x) != shapes[x]]
    faults = {
        "missing": [name for name in missing if name.startswith(NETWORKS)],
        "unknown": [name for name in unknown if name.startswith(NETWORKS)],
        "of another shape": misshapen,
    }
    require_none(faults, place)
    return tuple(missing), tuple(unknown)
