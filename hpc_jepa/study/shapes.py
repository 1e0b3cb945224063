"""Cost of a study by the shape of its jobs: on one node many cells of few GPUs, or few cells of many."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hpc_jepa.config.cluster import ClusterConfig, ResourcesConfig
from hpc_jepa.config.run import RunConfig
from hpc_jepa.study.cell import StudyCell
from hpc_jepa.study.forecast import HOUR, estimated_step, node_ends, step_time
from hpc_jepa.study.gpu_memory import FP32, GIB, memory_plan
from hpc_jepa.study.sizes import model_size
from hpc_jepa.study.status import is_only_evaluated

EXCHANGE_RATE = 100e9
"""Bytes per second between a GPU and the others of its node, assumed: PCIe 4.0 x16 has 32e9, the NVLink of an H100 has
450e9 in each direction.
"""
EQUAL = 1.01
"""Costs whose ratio is less than this count as equal: the estimate is not better than that."""


@dataclass(frozen=True)
class JobShape:
    """Cells at the same time in a job, GPUs of each, and cells that share a GPU."""

    cells_per_job: int
    gpus_per_cell: int
    cells_per_gpu: int = 1


@dataclass(frozen=True)
class ShapePrice:
    """Cost of pretraining in one shape.

    is_current: that of the profile. hours: of the longest run. gpu_hours: of all GPUs of the nodes, idle ones included,
    until the last cell of each node ends. refused: why a cell cannot run so, else empty; the numbers are then None.
    """

    shape: JobShape
    is_current: bool
    hours: float | None = None
    gpu_hours: float | None = None
    days: float | None = None
    refused: str = ""


def shape_prices(
    cells: Sequence[StudyCell], cluster: ClusterConfig, step_seconds: float | None = None
) -> list[ShapePrice]:
    """All shapes that fill a node of the profile, fewest GPUs per cell first; empty without a choice or a step time.

    The step time is that of ``step_time`` in the shape of the profile. In another one it changes as the estimate does:
    arithmetic and launches of kernels, and the exchange of gradients at EXCHANGE_RATE; without ``gpu_tflops`` in the
    profile in proportion to the GPUs.
    """
    train = cluster.train
    lengths: dict[tuple[str, int], list[StudyCell]] = {}
    for cell in cells:
        if is_only_evaluated(cell):
            continue
        lengths.setdefault((cell.config.regime, cell.steps), []).append(cell)
    groups = list(lengths.values())
    times = [step_time(group, cluster, step_seconds) for group in groups]
    known = [time.seconds for time in times if time is not None]
    if train.gpus_per_node < 2 or not groups or len(known) < len(groups):
        return []
    current = JobShape(train.cells_per_job, train.gpus, train.cells_per_gpu)
    prices = []
    for shape in _shapes(train, current, shared=cluster.gpu_tflops is not None):
        reasons = (_refused(group[0].config, shape, cluster) for group in groups)
        if refused := next(filter(None, reasons), ""):
            prices.append(ShapePrice(shape, shape == current, refused=refused))
            continue
        seconds = [
            base * group[0].steps * _ratio(group[0].config, shape, current, cluster.gpu_tflops)
            for base, group in zip(known, groups, strict=True)
        ]
        runs = [time for time, group in zip(seconds, groups, strict=True) for _ in group]
        ends = node_ends(runs, shape.cells_per_job, _nodes(shape, cluster))
        gpu_hours = sum(ends) * max(train.gpus_per_node, shape.gpus_per_cell) / HOUR
        prices.append(ShapePrice(shape, shape == current, max(runs) / HOUR, gpu_hours, max(ends) / HOUR / 24))
    return prices


def cheapest(prices: Sequence[ShapePrice]) -> ShapePrice | None:
    """The price with the fewest GPU-hours; of nearly equal ones that of the profile, else the one that ends first."""
    possible = [price for price in prices if price.gpu_hours is not None and price.days is not None]
    if not possible:
        return None
    least = min(price.gpu_hours or 0.0 for price in possible)
    equal = [price for price in possible if (price.gpu_hours or 0.0) <= EQUAL * least]
    return min(equal, key=lambda price: (not price.is_current, price.days))


def shapes_as_json(prices: Sequence[ShapePrice]) -> list[dict[str, Any]]:
    """Prices for scripts; ``cheapest`` marks one of them."""
    best = cheapest(prices)
    return [{**asdict(price), "cheapest": price == best} for price in prices]


def _shapes(train: ResourcesConfig, current: JobShape, shared: bool) -> Iterator[JobShape]:
    """The current shape, two cells on each GPU, and all that divide the GPUs of a node, by GPUs per cell."""
    node = train.gpus_per_node
    whole = [JobShape(node // gpus, gpus) for gpus in range(1, node + 1) if node % gpus == 0]
    found = {*whole, current, *([JobShape(2 * node, 1, 2)] if shared else [])}
    yield from sorted(found, key=lambda shape: (shape.gpus_per_cell / shape.cells_per_gpu, shape.cells_per_job))


def _nodes(shape: JobShape, cluster: ClusterConfig) -> int:
    """Jobs of this shape on the nodes that the profile uses at the same time."""
    train = cluster.train
    spread = max(shape.gpus_per_cell // train.gpus_per_node, 1)
    return max(cluster.max_concurrent_jobs * train.nodes // spread, 1)


def _refused(config: RunConfig, shape: JobShape, cluster: ClusterConfig) -> str:
    """Why a run does not fit a shape; empty if it does."""
    parts = shape.gpus_per_cell * config.engine.accumulation
    if config.engine.batch_size % parts:
        return f"a batch of {config.engine.batch_size} cannot be divided by {parts}"
    cores, needed = cluster.train.cpus_per_node * cluster.train.nodes, shape.cells_per_job * shape.gpus_per_cell
    if needed > cores:
        return f"needs {needed} cores of {cores}"
    memory = memory_plan(config, shape.gpus_per_cell).total / GIB * shape.cells_per_gpu
    if cluster.gpu_memory_gib is not None and memory > cluster.gpu_memory_gib:
        return f"needs {memory:.0f} of {cluster.gpu_memory_gib:g} GiB on each GPU"
    return ""


def _ratio(config: RunConfig, shape: JobShape, current: JobShape, tflops: float | None) -> float:
    """Step time in a shape over that in the current one."""
    if tflops is None:
        part = shape.gpus_per_cell / shape.cells_per_gpu
        return current.gpus_per_cell / current.cells_per_gpu / part
    return _estimate(config, shape, tflops) / _estimate(config, current, tflops)


def _estimate(config: RunConfig, shape: JobShape, tflops: float) -> float:
    gpus = shape.gpus_per_cell
    exchange = 2 * FP32 * model_size(config).trainable * (gpus - 1) / gpus / EXCHANGE_RATE  # a ring all-reduce
    return estimated_step(config, tflops, gpus, shape.cells_per_gpu).seconds + exchange
