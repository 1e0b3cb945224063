"""Evaluation context: one run under one protocol of one benchmark, and its encoders."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from hpc_jepa.checkpoint.layout import Checkpoint, RemovedCheckpointError, open_checkpoint, resolve_checkpoint
from hpc_jepa.config.benchmark import BenchmarkConfig, ProtocolConfig, ProtocolName, Weights
from hpc_jepa.config.training import DeviceSetting
from hpc_jepa.devices import select_device
from hpc_jepa.distributed import GlooGroup, is_main
from hpc_jepa.errors import CheckpointError, HpcJepaError, InputError
from hpc_jepa.evaluation.external_encoders import is_external, load_external_encoder
from hpc_jepa.evaluation.extraction import Encode, TokenEncoder, weight_bytes
from hpc_jepa.evaluation.progress import Progress
from hpc_jepa.evaluation.run_encoders import load_run_encoders
from hpc_jepa.evaluation.split_clips import SplitClips
from hpc_jepa.kernels.build_tools import require_build_tools
from hpc_jepa.models.encoder import Encoder
from hpc_jepa.runs.process_identity import is_in_use, mark_in_use
from hpc_jepa.runs.run_dir import RunDir, open_run

FEATURES_PREFIX = ".features-"
STATES_PREFIX = ".probes-"


class StepNotKeptError(InputError):
    """The run has no checkpoint of a chosen step: never saved, or removed."""


@dataclass(frozen=True)
class EvaluationContext:
    """One run under one protocol of one benchmark, and its device.

    clips: the splits of the benchmark. progress: that of this run. step: chosen step, None for the newest checkpoint.
    """

    run: RunDir
    checkpoint: Checkpoint
    clips: SplitClips
    progress: Progress
    device: torch.device
    step: int | None = None

    @classmethod
    def open(
        cls,
        folder: Path,
        clips: SplitClips,
        progress: Progress | None = None,
        device: DeviceSetting | None = None,
        step: int | None = None,
    ) -> "EvaluationContext":
        """Open a run folder. Collective: all processes must call it.

        progress: None: that of ``clips``. device: None: as the run's engine.device.
        Raises StepNotKeptError if the run has no checkpoint of ``step``, InputError if the folder is not a run, or like
        :func:`hpc_jepa.devices.choose_device`; CheckpointError if the run has no checkpoint; HpcJepaError if Triton
        cannot start kernels on this node.
        """
        run = open_run(folder)
        run.refuse_links_outside()
        group = clips.group
        checkpoint = _newest_checkpoint(folder, group) if step is None else _checkpoint_of(run, step, group)
        chosen = select_device(device or run.config.engine.device)
        if chosen.type == "cuda":
            require_build_tools()
        return cls(run, checkpoint, clips, progress or clips.progress, chosen, step)

    @property
    def benchmark(self) -> BenchmarkConfig:
        """The benchmark."""
        return self.clips.benchmark

    @property
    def protocol(self) -> ProtocolName:
        """Name of the protocol."""
        return self.clips.protocol

    @property
    def config(self) -> ProtocolConfig:
        """Configuration of the protocol."""
        return self.clips.config

    @property
    def group(self) -> GlooGroup:
        """The processes that share the work."""
        return self.clips.group

    def with_newest_checkpoint(self) -> "EvaluationContext":
        """The same for the checkpoint that is the newest now. Collective."""
        return replace(self, checkpoint=_newest_checkpoint(self.run.path, self.group))

    def encoders(self, names: Sequence[Weights]) -> dict[Weights, TokenEncoder]:
        """The named encoders on the device. Collective.

        Raises RemovedCheckpointError on all processes if the training run has removed the checkpoint meanwhile.
        """
        clip, config = self.config.clip, self.run.config
        own = self._own_encoders([name for name in names if not is_external(name)])
        tubelets = clip.frames // config.model.encoder.tubelet
        encoders = {
            name: TokenEncoder(self._checked(encoder.forward_features), tubelets, size=weight_bytes(encoder))
            for name, encoder in own.items()
        }
        for name in filter(is_external, names):
            encoders[name] = load_external_encoder(name, clip, config.seed, self.device)
        return {name: self._on_device(encoders[name]) for name in names}

    @property
    def probe_states(self) -> Path:
        """Folder for the states of probes in training, until the record is written."""
        step = "" if self.step is None else f".{self.step}"
        return self.run.path / f"{STATES_PREFIX}{self.benchmark.name}.{self.protocol}{step}"

    @contextmanager
    def scratch_dir(self) -> Iterator[Path]:
        """A temporary folder in the run that all processes see; the first process deletes it on exit.

        Folders of killed processes of this machine are deleted too.
        """
        if not is_main():
            yield Path(self.group.gather_objects(None)[0])
            return
        for left in self.run.path.glob(f"{FEATURES_PREFIX}*"):
            if not is_in_use(left):
                shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=FEATURES_PREFIX, dir=self.run.path) as folder:
            mark_in_use(Path(folder))
            self.group.gather_objects(folder)
            yield Path(folder)

    def _own_encoders(self, names: Sequence[Weights]) -> dict[Weights, Encoder]:
        own: dict[Weights, Encoder] = {}
        failure: RemovedCheckpointError | None = None
        try:
            own = load_run_encoders(self.run.config, self.checkpoint, names, self.device)
        except RemovedCheckpointError as error:
            failure = error
        for removed in filter(None, self.group.gather_objects(failure)):
            raise removed
        return own

    def _checked(self, encode: Encode) -> Encode:
        """``encode`` that raises InputError for clips that cannot be divided into whole tokens of the run's encoder."""
        encoder = self.run.config.model.encoder
        token = (encoder.tubelet, encoder.patch, encoder.patch)

        def checked(pixels: Tensor) -> Tensor:
            clip = tuple(pixels.shape[2:])
            if any(side % part for side, part in zip(clip, token, strict=True)):
                raise InputError(
                    f"{self.benchmark.name}: protocols.{self.protocol}.clip: clips of {_dimensions(clip)} (frames x "
                    f"pixels) do not divide into tokens of {_dimensions(token)}; change frames or size"
                )
            return encode(pixels)

        return checked

    def _on_device(self, encoder: TokenEncoder) -> TokenEncoder:
        """The encoder for pixels on the CPU, with autocast as the protocol's encoder_precision says."""
        device, bf16 = self.device, self.config.encoder_precision == "bf16"

        def encode(pixels: Tensor) -> Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                return encoder.encode(pixels.to(device))

        return replace(encoder, encode=encode)


def _newest_checkpoint(folder: Path, group: GlooGroup) -> Checkpoint:
    """The one that the first process finds: a training run may save another one before the last process looks."""
    checkpoint: Checkpoint = group.gather_objects(resolve_checkpoint(folder))[0]
    return checkpoint


def _checkpoint_of(run: RunDir, step: int, group: GlooGroup) -> Checkpoint:
    """The one that the first process finds. Raises StepNotKeptError on all processes if there is none."""
    found: Checkpoint | HpcJepaError = group.gather_objects(_find_step(run, step) if is_main() else None)[0]
    if isinstance(found, HpcJepaError):
        raise found
    return found


def _find_step(run: RunDir, step: int) -> Checkpoint | HpcJepaError:
    folder = run.checkpoint_dir(step)
    try:
        return open_checkpoint(folder)
    except CheckpointError as error:
        if folder.is_dir():
            return error
    kept = ", ".join(map(str, run.checkpoint_steps())) or "none"
    return StepNotKeptError(f"{run}: no checkpoint of step {step}; it has {kept} (checkpoint.keep_every keeps more)")


def _dimensions(sides: Sequence[int]) -> str:
    return "x".join(str(side) for side in sides)
