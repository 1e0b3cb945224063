"""Loss and gradients of one step of every variant, averaged over processes.  usage: gradients.py OUTPUT SEMANTICS"""

import sys

import torch
import torch.distributed as dist

from hpc_jepa.config.loading import CONFIGS, read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.distributed import GlooGroup, is_main, rank, world_size
from hpc_jepa.masking.mask_sampler import MaskSampler
from hpc_jepa.objectives.composition import weighted_sum
from hpc_jepa.training.launch import join_process_group
from hpc_jepa.training.train_module import build_train_module
from hpc_jepa.types import ClipBatch, TokenGrid

SMALL = (
    "model.encoder={width: 32, depth: 4, heads: 2, patch: 8, levels: [1, 2, 3, 4]}",
    "model.predictor={width: 16, depth: 1, heads: 2}",
    "engine={batch_size: 4, precision: fp32}",
    "data.clip={frames: 8, stride: 1, size: 48}",
    "schedule.steps=100",
)
STEP = 60


def average(tensor):
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor / world_size()


def one_step(variant, semantics, host):
    files = [CONFIGS / "regime" / "ucf101.yaml", CONFIGS / "objective" / f"{variant}.yaml"]
    config = read_config(RunConfig, files, [f"semantics={semantics}", *SMALL])
    pixels = torch.randn(4, 3, 8, 48, 48, generator=torch.Generator().manual_seed(1)).chunk(world_size())[rank()]
    nothing = torch.zeros(len(pixels), dtype=torch.int64)
    masker = MaskSampler(
        config.masking,
        config.semantics,
        TokenGrid(4, 6, 6),
        seed=0,
        batch_size=4,
        rank=rank(),
        world_size=world_size(),
        gather=host.gather,
    )
    train_module = build_train_module(config)
    terms, _ = train_module(pixels, masker(STEP, ClipBatch(pixels, nothing, nothing, nothing.bool())), STEP)
    loss = weighted_sum(terms, train_module.objectives.weights(STEP))
    loss.backward()
    gradients = {name: average(p.grad) for name, p in train_module.named_parameters() if p.grad is not None}
    return {"loss": average(loss.detach().clone()), "gradients": gradients}


if __name__ == "__main__":
    output, semantics = sys.argv[1:]
    join_process_group()
    host = GlooGroup()
    variants = sorted(path.stem for path in (CONFIGS / "objective").glob("*.yaml"))
    found = {variant: one_step(variant, semantics, host) for variant in variants}
    if is_main():
        torch.save(found, output)
