"""Compile every Triton kernel for GPUs, without one: the interpreter accepts code that the compiler rejects.

One line of JSON per kernel, shapes and compute capability: registers and stack of a thread, shared memory of a program,
and seconds. Variables that do not fit into the registers of a thread are spilled to its stack.

usage: compile_kernels.py CAPABILITY...
"""

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from hpc_jepa.kernels.triton import layer_norm, masked_error, motion, patches, rotary, token_lists, visible_tokens
from hpc_jepa.types import TokenGrid

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
GRIDS = {"16x224": TokenGrid(8, 14, 14), "16x384": TokenGrid(8, 24, 24), "64x256": TokenGrid(32, 16, 16)}
"""Token grids of clips, by frames and pixels of a side."""
NETWORKS = {"base": (768, 12), "large": (1024, 16), "giant": (1408, 16), "predictor": (256, 8)}
"""Widths and heads."""
LISTS = {
    "visible": "*u8", "limits": "*i64", "order": "*i64", "context": "*i64", "target": "*i64", "distance": "*fp32",
    "next_position": "*i64", "pairs": "*i64", "scratch": "*i32", "squared": "*fp32",
}  # fmt: skip
ERROR = {"prediction": "*bf16", "features": "*fp32", "tokens": "*i64", "error": "*fp32"}
SLOPE = {**ERROR, "error_gradient": "*fp32", "gradient": "*bf16"}
PATCHES = {"pixels": "*bf16", "tokens": "*i64", "table": "*fp32", "patches": "*bf16", "rows": "*fp32"}
NORM = {
    "x": "*bf16", "update": "*bf16", "weight": "*fp32", "bias": "*fp32", "total": "*bf16", "normed": "*bf16",
    "of_normed": "*bf16", "of_total": "*bf16", "of_input": "*bf16", "partial": "*fp32", "eps": "fp32",
}  # fmt: skip
ROTATION = {
    "projections": "*bf16", "turned": "*bf16", "rotation": "*fp32",
    "query": "*bf16", "key": "*bf16", "value": "*bf16", "joined": "*bf16",
}  # fmt: skip
BLOCK_SCORES = {"motion": "*fp32", "table": "*fp64", "scores": "*fp64"}


def kernels() -> Iterator[tuple]:
    """Names of shapes, kernels, types of their arguments, and constants; all other arguments are integers."""
    for shape, grid in GRIDS.items():
        block = token_lists.block_of(grid)
        places = {"placements": "*i64", "visible": "*u8", "counts": "*i64"}
        yield shape, visible_tokens._visible, places, block
        sides = {"TIME": grid.time, "HEIGHT": grid.height, "WIDTH": grid.width}
        for ordered in (True, False):
            yield shape, token_lists._lists, LISTS, {**sides, **block, "ORDERED": ordered, "COMPLEMENT": not ordered}
        yield shape, motion._block_scores, BLOCK_SCORES, motion.block_scores_sizes(grid)
    patch = {"CHANNELS": 4, "ROWS": 16, "COLUMNS": 16}
    yield "patch 16", motion._average_motion, {"pixels": "*fp32", "motion": "*fp32"}, patch
    for name, (width, heads) in NETWORKS.items():
        sizes = layer_norm.norm_sizes(width)
        yield name, layer_norm._forward, NORM, {**sizes, "ADD": True}
        yield name, layer_norm._backward, NORM, {**sizes, "ADD": True, "PROGRAMS": layer_norm.PARTIAL_SUMS}
        turn = {"ONE_TABLE": False, **rotary.rotary_sizes(width, heads)}
        yield name, rotary._rotate, ROTATION, {**turn, "PER_CHANNEL": False}
        yield name, rotary._rotate_back, ROTATION, {**turn, "PER_CHANNEL": True}
        if name != "predictor":
            head = triton.next_power_of_2(width // heads)
            values = {"TUBELET": 2, "PATCH": 16, "VALUES": 1536, "BLOCK": 2048}
            yield name, patches._gather, PATCHES, {**values, "ROTATIONS": width // heads, "ROTATIONS_BLOCK": head}
            levels = {"CHANNELS": 4 * width, "WIDTH": width, "BLOCK": triton.next_power_of_2(width), "NORMALISE": True}
            yield name, masked_error._forward, ERROR, levels
            yield name, masked_error._backward, SLOPE, levels


def compiled(kernel, arguments, constants, capability):
    """A kernel compiled for pointers divisible by 16, as PyTorch allocates them."""
    constants = dict(constants)
    options = {"num_warps": constants.pop("num_warps")} if "num_warps" in constants else {}
    names = kernel.arg_names
    types = {name: "constexpr" if name in constants else arguments.get(name, "i32") for name in names}
    pointers = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if types[name].startswith("*")}
    source = ASTSource(kernel, types, {(names.index(name),): value for name, value in constants.items()}, pointers)
    return compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def usage(binary) -> dict[str, int]:
    """Registers and bytes of stack of a thread."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        listed = subprocess.run([CUOBJDUMP, "--dump-resource-usage", file.name], capture_output=True, text=True)
    registers, stack = re.findall(r"\bREG:(\d+) STACK:(\d+)", listed.stdout)[-1]
    return {"registers": int(registers), "stack": int(stack)}


if __name__ == "__main__":
    for capability in map(int, sys.argv[1:]):
        for shape, kernel, arguments, constants in kernels():
            started = time.process_time()
            program = compiled(kernel, arguments, constants, capability)
            line = {"capability": capability, "kernel": kernel.__name__, "module": kernel.fn.__module__, "shape": shape}
            line |= usage(program.asm["cubin"]) | {"shared": program.metadata.shared}
            print(json.dumps({**line, "seconds": round(time.process_time() - started, 1)}), flush=True)
