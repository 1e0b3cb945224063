#!/usr/bin/env python3
"""Kernels and bytes of one compiled transformer block on a GPU, counted without one, beside those of eager mode.

    python tools/count_compiled.py                          a block of ViT-B on 64 clips of 16x224x224, bf16
    python tools/count_compiled.py --clips 8 --width 1024 --heads 16

The block is traced on fake CUDA tensors and lowered by Inductor for compute capability 9.0; the generated code is
counted, not run. Counted are kernels, casts of weights included, and GB without matrix products and attention.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Annotated, Any
from unittest import mock

import torch
import typer
from torch import Tensor, fx, nn
from torch._dynamo.backends.common import aot_autograd
from torch._inductor.debug import DebugContext
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V

from hpc_jepa.models.block import Block, exclude_cudnn_attention
from hpc_jepa.profiling.fake_cuda import fake_cuda, move_to_cuda
from hpc_jepa.profiling.operation_counts import OperationCounter

H100 = SimpleNamespace(
    name="H100", type="cuda", index=0, cc="90", major=9, minor=0, gcnArchName="", warp_size=32,
    multi_processor_count=132, total_memory=80 << 30, L2_cache_size=50 << 20, regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048,
    shared_memory_per_block=49152, shared_memory_per_block_optin=232448, shared_memory_per_multiprocessor=233472,
)  # fmt: skip
"""Properties of the device that code is generated for."""
WORD = 4
"""Inductor reports the bytes of a node divided by this."""


@contextmanager
def hopper() -> Iterator[None]:
    """Let Inductor generate code for a GPU that is not there."""
    state = torch.zeros(16, dtype=torch.uint8)
    answers: dict[str, Callable[..., Any]] = {
        "torch.cuda.is_available": lambda: True,
        "torch.cuda.device_count": lambda: 1,
        "torch.cuda.current_device": lambda: 0,
        "torch.cuda.get_device_capability": lambda *_: (9, 0),
        "torch.cuda.get_device_properties": lambda *_: H100,
        "torch.cuda._get_device_properties": lambda *_: H100,
        "torch.cuda._lazy_init": lambda: None,
        "torch.cuda.random._lazy_init": lambda: None,
        "torch.cuda.get_rng_state": lambda *_: state,
        "torch.cuda.set_rng_state": lambda *_: None,
        "torch.utils._triton.triton_hash_with_backend": lambda *_: "none",
    }
    with ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch(name, answer, create=True))
        yield


class Lowering:
    """A backend of torch.compile that lowers each graph, counts its code, and runs the graph unchanged.

    counts: kernels and GB of every graph: the forward, then the backward pass.
    """

    def __init__(self) -> None:
        self.counts: list[dict[str, float]] = []

    def __call__(self, graph: fx.GraphModule, inputs: Sequence[Tensor]) -> Callable[..., Any]:
        """Count the code of one graph."""
        lowering = GraphLowering(graph, example_inputs=inputs)
        mode = torch._guards.detect_fake_mode(inputs)
        with V.set_debug_handler(DebugContext()), V.set_graph_handler(lowering), V.set_fake_mode(mode):
            lowering.run(*inputs)
            lowering.codegen()
            total, nodes, _ = lowering.count_bytes()
        library = [WORD * count for node, count in nodes if type(node).__name__.startswith("Extern")]
        outputs = library.count(0)  # one of several results of a kernel is a node too
        self.counts.append({"kernels": float(len(nodes) - outputs), "GB": (total - sum(library)) / 1e9})
        return graph.forward


def count_block(width: int, heads: int, clips: int, tokens: int) -> dict[str, list[dict[str, float]]]:
    """Counts of forward and backward pass of one block in eager mode and compiled."""
    with torch.device("meta"):
        block = Block(width, heads, 4.0, False)
    exclude_cudnn_attention()
    lowering, counters = Lowering(), (OperationCounter(), OperationCounter())
    backend = aot_autograd(fw_compiler=lowering, bw_compiler=lowering, decompositions=select_decomp_table())
    with fake_cuda(), hopper(), torch.autocast("cuda", torch.bfloat16):
        move_to_cuda(block)
        x = torch.empty(clips, tokens, width, dtype=torch.bfloat16, device="cuda", requires_grad=True)
        rotation = torch.empty(1, 1, tokens, width // heads // 2, 2, device="cuda")
        with counters[0]:
            loss = block(x, rotation, [tokens])
        with counters[1]:
            loss.backward(torch.empty_like(loss))
        compiled: nn.Module = torch.compile(block, backend=backend, dynamic=False)  # type: ignore[assignment]
        made = compiled(x, rotation, [tokens])
        made.backward(torch.empty_like(made))
    eager = [{"kernels": float(c.total.kernels), "GB": c.total.elementwise_bytes / 1e9} for c in counters]
    return {"eager": eager, "compiled": lowering.counts}


def main(
    width: int = 768,
    heads: int = 12,
    clips: int = 64,
    tokens: int = 1568,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the counts of one block."""
    counts = count_block(width, heads, clips, tokens)
    if as_json:
        typer.echo(json.dumps(counts))
        return
    for mode, passes in counts.items():
        for name, count in zip(("forward", "backward"), passes, strict=True):
            typer.echo(f"{mode:9}{name:9}{count['kernels']:4.0f} kernels{count['GB']:6.2f} GB")


if __name__ == "__main__":
    typer.run(main)
