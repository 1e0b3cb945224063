"""Run other people's training steps one at a time, in a child process.

V-JEPA 2 and the code published with the study train in one long function, which passes each step as a closure to a
function ``gpu_timer``. Replacing that function gives control over when a step runs.
"""

import importlib
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import yaml
from peer_import import StandIns, import_root
from timing import milliseconds

from hpc_jepa.errors import HpcJepaError, InputError

ENDLESS = 1_000_000
NEXT, END = "step", "stop"
SECONDS_TO_END = 10
SETTINGS = {
    "optimization.epochs": 1,
    "optimization.ipe": ENDLESS,
    "meta.load_checkpoint": False,
    "data.num_workers": 0,
}
"""Endless training from initial weights."""


class PeerTraining:
    """While entered, ``step()`` runs one training step of the code in ``folder`` and returns its milliseconds.

    folder: a checkout of facebookresearch/vjepa2, or of the study's code, which is in ``vjepa2/``.
    config: one of its YAML files; ``settings`` (``key.sub`` to value) are set in it.

    Raises InputError if there is no such code or ``config`` is not one of its files, HpcJepaError if their training
    exits during a step.
    """

    def __init__(self, folder: Path, config: Path, settings: Mapping[str, object]) -> None:
        tree = _tree(config)
        for key, value in {**SETTINGS, **settings}.items():
            *sections, name = key.split(".")
            section = tree
            for part in sections:
                section = section.setdefault(part, {})
            section[name] = value
        root = import_root(folder, f"app/{tree['app']}/train.py")
        context = get_context("spawn")
        self._turn, theirs = context.Pipe()
        self._scratch = tempfile.TemporaryDirectory()
        arguments = (root, {**tree, "folder": self._scratch.name}, torch.get_num_threads(), theirs)
        self._process = context.Process(target=_train, args=arguments, daemon=True)
        self._theirs = theirs

    def __enter__(self) -> "PeerTraining":
        self._process.start()
        self._theirs.close()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.is_alive():
            self._turn.send(END)
            self._process.join(SECONDS_TO_END)
        self._process.kill()
        self._process.join()
        self._scratch.cleanup()

    def step(self) -> float:
        """Milliseconds of the next step."""
        try:
            self._turn.send(NEXT)
            return float(self._turn.recv())
        except (EOFError, ConnectionError) as error:
            self._process.join()
            code = self._process.exitcode
            raise HpcJepaError(f"their training ended with exit code {code}; see its output above") from error


def _tree(file: Path) -> dict[str, Any]:
    """Read one of their YAML files."""
    try:
        tree = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise InputError(f"{file}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict) or "app" not in tree:
        raise InputError(f"{file}: no key 'app'; use a training configuration of the code to compare with")
    return tree


def _train(root: Path, config: dict[str, Any], threads: int, turn: Connection) -> None:
    """Child process: their training on clips of noise."""
    torch.set_num_threads(threads)
    sys.path.insert(0, str(root))
    sys.meta_path.insert(0, StandIns(("src.datasets", "torchvision")))  # data loading is not compared
    warnings.simplefilter("ignore")
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        torch.distributed.init_process_group(
            backend, init_method=f"file://{config['folder']}/store", rank=0, world_size=1
        )
        module = importlib.import_module(f"app.{config['app']}.train")
        module.init_data = _noise(config["data"]["crop_size"])  # type: ignore[attr-defined]
        module.gpu_timer = _in_turn(turn)  # type: ignore[attr-defined]
        module.main(args=config)


def _in_turn(turn: Connection) -> Callable[..., tuple[Any, float]]:
    """A ``gpu_timer`` that waits for its turn and reports the duration of the step."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def timer(step: Callable[[], Any], **_: object) -> tuple[Any, float]:
        result: list[Any] = []
        if turn.recv() == END:
            raise SystemExit(0)
        taken = milliseconds(lambda: result.append(step()), device)
        turn.send(taken)
        return result[0], taken

    return timer


class _Clips:
    """Replacement of their loader and sampler: clips of noise, masks from their collator."""

    def __init__(self, collator: Callable[[list[Any]], Any], shape: tuple[int, ...]) -> None:
        self._collator = collator
        self._shape = shape

    def set_epoch(self, epoch: int) -> None:
        """Epochs do not differ."""

    def __len__(self) -> int:
        return ENDLESS

    def __iter__(self) -> Iterator[Any]:
        while True:
            clips = torch.randn(self._shape)
            yield self._collator([([clip], 0, [torch.arange(clip.shape[1])]) for clip in clips])


def _noise(size: int) -> Callable[..., tuple[_Clips, _Clips]]:
    """An ``init_data`` with square clips."""

    def init_data(
        *, collator: Callable[[list[Any]], Any], batch_size: int, dataset_fpcs: list[int], **_: object
    ) -> tuple[_Clips, _Clips]:
        loader = _Clips(collator, (batch_size, 3, dataset_fpcs[0], size, size))
        return loader, loader

    return init_data
