"""Compile every Triton kernel for a GPU, without one: the interpreter accepts code that the compiler rejects."""

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from hpc_jepa.kernels.triton import masked_error, motion, patches, token_lists, visible_tokens

HOPPER = GPUTarget("cuda", 90, 32)
GRID = {"TIME": 8, "HEIGHT": 14, "WIDTH": 14, "BLOCK": 2048}
LEVELS = {"CHANNELS": 3072, "WIDTH": 768, "BLOCK": 1024, "NORMALISE": True}
LISTS = {
    "visible": "*u8", "limits": "*i64", "order": "*i64", "context": "*i64", "target": "*i64", "distance": "*fp32",
    "next_position": "*i64", "pairs": "*i64", "scratch": "*i32", "squared": "*fp32",
}  # fmt: skip
ERROR = {"prediction": "*bf16", "features": "*fp32", "tokens": "*i64", "error": "*fp32"}
SLOPE = {**ERROR, "error_gradient": "*fp32", "gradient": "*bf16"}
PATCHES = {"pixels": "*bf16", "tokens": "*i64", "table": "*fp32", "patches": "*bf16", "rows": "*fp32"}
VALUES = {"TUBELET": 2, "PATCH": 16, "VALUES": 1536, "BLOCK": 2048, "ROTATIONS": 62, "ROTATIONS_BLOCK": 64}

KERNELS = [
    (visible_tokens._visible, {"placements": "*i64", "visible": "*u8", "counts": "*i64"}, {"BLOCK": 2048}),
    (token_lists._lists, LISTS, {**GRID, "ORDERED": True, "COMPLEMENT": False}),
    (token_lists._lists, LISTS, {**GRID, "ORDERED": False, "COMPLEMENT": True}),
    (motion._average_motion, {"pixels": "*fp32", "motion": "*fp32"}, {"CHANNELS": 4, "ROWS": 16, "COLUMNS": 16}),
    (
        motion._block_scores,
        {"motion": "*fp32", "table": "*fp64", "scores": "*fp64"},
        {"TIME": 8, "HEIGHT": 16, "WIDTH": 16},
    ),
    (patches._gather, PATCHES, VALUES),
    (masked_error._forward, ERROR, LEVELS),
    (masked_error._backward, SLOPE, LEVELS),
]
"""Kernels, types of their arguments, and constants; all other arguments are integers."""

for kernel, arguments, constants in KERNELS:
    names = kernel.arg_names
    types = {name: "constexpr" if name in constants else arguments.get(name, "i32") for name in names}
    source = ASTSource(kernel, types, {(names.index(name),): value for name, value in constants.items()})
    print(kernel.__name__, len(compile(source, target=HOPPER).asm["ptx"]))
