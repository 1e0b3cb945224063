"""Train configurations one by one and record clips and masks of every step.  usage: recorded.py CONFIG..."""

import hashlib
import json
import sys
from pathlib import Path

import torch

from hpc_jepa.config.loading import read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.distributed import rank
from hpc_jepa.training.batches import BatchPrefetcher
from hpc_jepa.training.loop import train


def tensors_in(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_in(item)
    elif hasattr(value, "__dict__"):
        yield from tensors_in(list(vars(value).values()))


def digest(value):
    parts = [f"{tensor.dtype}{tuple(tensor.shape)}".encode() + tensor.numpy().tobytes() for tensor in tensors_in(value)]
    return hashlib.sha256(b"".join(parts)).hexdigest()


if __name__ == "__main__":
    get = BatchPrefetcher.get
    for path in map(Path, sys.argv[1:]):
        steps = []

        def recorded(self, step, steps=steps):
            batch = get(self, step)
            real = batch.clips.real_frames.tolist()
            masks = digest(batch.masks)
            steps.append(
                {"clips": digest(batch.clips), "masks": masks, "samples": batch.clips.samples.tolist(), "real": real}
            )
            return batch

        BatchPrefetcher.get = recorded
        train(read_config(RunConfig, [path]), lambda record: None)
        path.with_suffix(f".{rank()}.json").write_text(json.dumps(steps))
