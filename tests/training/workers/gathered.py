"""Whole parameters of a module at any ZeRO stage, for the workers beside this file."""

import deepspeed


def full_parameters(module):
    """Names and float32 values of all parameters, on the CPU; collective at stage 3."""
    for name, parameter in module.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
            yield name, parameter.detach().float().cpu().clone()
