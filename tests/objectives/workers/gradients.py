"""Value and gradient of every term of one step, averaged over processes.  usage: gradients.py OUTPUT FOLDER VARIANT...

FOLDER holds further objectives; the file name of each is a variant.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

import hpc_jepa.objectives as package
from hpc_jepa.distributed import GlooGroup, is_main, rank, world_size
from hpc_jepa.training.launch import join_process_group

sys.path.insert(0, str(Path(__file__).parents[1]))
from objective_steps import VARIANTS, configure, make_clips, one_step, term_gradient


def average(tensor):
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor / world_size()


def terms_of(variant, host):
    """{term: (value, gradient)}, both averaged over processes."""
    config = (
        configure(variant) if variant in VARIANTS else configure("baseline", "corrected", f"objectives=[{variant}]")
    )
    clips = make_clips(config, pixels=make_clips(config).pixels.chunk(world_size())[rank()])
    placement = {"rank": rank(), "world_size": world_size(), "gather": host.gather}
    train_module, terms, _ = one_step(config, clips, **placement)
    return {
        name: (average(term.detach().clone()), average(term_gradient(train_module, term)))
        for name, term in terms.items()
    }


if __name__ == "__main__":
    output, folder, *variants = sys.argv[1:]
    package.__path__.append(folder)
    join_process_group()
    host = GlooGroup()
    found = {variant: terms_of(variant, host) for variant in variants}
    if is_main():
        torch.save(found, output)
