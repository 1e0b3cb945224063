"""Phases and host syncs of small hand-made traces, one of them of a GPU."""

import json

import pytest
import torch

from hpc_jepa.config.run import RunConfig
from hpc_jepa.profiling.summary import ProfiledSteps, summary_page
from hpc_jepa.profiling.trace import Trace

TRAINER, PREFETCH, AUTOGRAD, STREAM = 1, 2, 3, 7


def event(category, name, thread, start, duration, **facts):
    return {"ph": "X", "cat": category, "name": name, "tid": thread, "ts": start, "dur": duration, "args": facts}


def launched(name, thread, asked, start, duration, link, category="kernel", **facts):
    """A CUDA call of the host and the work it launched."""
    call = "cudaLaunchKernel" if category == "kernel" else "cudaMemcpyAsync"
    return [
        event("cuda_runtime", call, thread, asked, 1, correlation=link),
        event(category, name, STREAM, start, duration, correlation=link, **facts),
    ]


# Host: a step from 0 to 100 and one from 110 to 200. GPU: 10 to 250.
GPU = [
    event("user_annotation", "step", TRAINER, 0, 100),
    event("user_annotation", "data wait", TRAINER, 0, 10),
    event("user_annotation", "student", TRAINER, 20, 20),
    event("user_annotation", "backward", TRAINER, 50, 40),
    event("user_annotation", "step", TRAINER, 110, 90),
    event("user_annotation", "student", TRAINER, 120, 20),
    event("cpu_op", "aten::mm", TRAINER, 21, 5, **{"External id": 1}),
    event("cpu_op", "aten::add", AUTOGRAD, 60, 5, **{"External id": 2}),
    event("cpu_op", "aten::mm", TRAINER, 121, 5, **{"External id": 3}),
    *launched("gemm", TRAINER, 22, 30, 50, 11, **{"External id": 1}),
    *launched("add", AUTOGRAD, 61, 80, 20, 12, **{"External id": 2}),
    *launched("crop", PREFETCH, 30, 90, 30, 13),  # concurrent with the one before until 100
    *launched("gemm", TRAINER, 122, 150, 100, 14, **{"External id": 3}),
    *launched("Memcpy HtoD (Pinned -> Device)", PREFETCH, 2, 10, 5, 15, category="gpu_memcpy", bytes=4_000_000),
    event("cuda_runtime", "cudaStreamSynchronize_v3020", TRAINER, 95, 5, correlation=16),
    event("cuda_runtime", "cudaStreamSynchronize", PREFETCH, 95, 5, correlation=17),  # does not block the step
    event("cuda_runtime", "cudaDeviceSynchronize", TRAINER, 205, 45, correlation=18),  # after the last step
    event("user_annotation", "student", TRAINER, -50, 20),  # before the first
    {"ph": "M", "name": "process_name", "ts": 0, "pid": 1, "tid": 1, "args": {}},
]


@pytest.fixture
def read(tmp_path):
    def make(events):
        path = tmp_path / "trace.json"
        path.write_text(json.dumps({"traceEvents": events}))
        return Trace(path)

    return make


def test_time_of_the_gpu_goes_to_the_phase_that_launched_the_work(read):
    trace = read(GPU)
    assert trace.on_gpu
    assert trace.microseconds == 250
    assert trace.device_shares() == pytest.approx(
        {
            "data wait": 10 / 250,  # 0 to 10: idle, and the host waits for data
            "student": (50 + 100) / 250,
            "backward": 20 / 250,
            "prefetch": (5 + 20) / 250,
            "idle": (15 + 30) / 250,  # 15 to 30, 120 to 150
        }
    )


def test_time_of_the_host_is_that_of_its_ranges(read):
    assert read(GPU).host_shares() == pytest.approx(
        {
            "data wait": 10 / 200,
            "student": 40 / 200,
            "backward": 40 / 200,
            "other": 100 / 200,
            "between steps": 10 / 200,
        }
    )


def test_host_syncs_are_those_of_the_training_threads(read):
    assert [(sync.thread, sync.start) for sync in read(GPU).host_syncs()] == [(TRAINER, 95)]


def test_without_a_gpu_operators_that_would_sync_are_counted(read):
    trace = read(
        [
            event("user_annotation", "step", TRAINER, 0, 100),
            event("cpu_op", "aten::_fused_adamw_", TRAINER, 10, 20),
            event("cpu_op", "aten::_local_scalar_dense", TRAINER, 12, 1),  # the CPU's way to read the update count
            event("cpu_op", "aten::item", TRAINER, 70, 3),
            event("cpu_op", "aten::_local_scalar_dense", TRAINER, 71, 1),
        ]
    )
    assert not trace.on_gpu
    assert [sync.start for sync in trace.host_syncs()] == [71]


def test_the_summary_of_a_gpu_names_what_keeps_it_idle(read, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    stack = [
        event("python_function", "somewhere/hpc_jepa/training/loop.py(60): train_step", TRAINER, 0, 100),
        event("python_function", "lib/deepspeed/runtime/utils.py(229): is_invalid_grad_norm", TRAINER, 94, 6),
        event("python_function", "torch/_tensor.py(1): item", TRAINER, 95, 5),
    ]
    config = RunConfig.model_validate({"regime": "test", "data": {"sources": {"none": {"shards": "none"}}}})
    steps = ProfiledSteps(config, first_step=3, seconds=0.1, flops=10**9, operators="aten::mm")
    text = summary_page(steps, read(GPU), read([*GPU, *stack]), tmp_path / "trace.json")
    for number in (
        "NVIDIA H200",
        "student (60%)",
        "idle (18%)",
        "Data wait: 4%",
        "18%",
        "Host syncs per step: 0.5",
        "aten::mm",
    ):
        assert number in text
    location = (
        "`is_invalid_grad_norm` at deepspeed/runtime/utils.py:229 in `train_step` at hpc_jepa/training/loop.py:60"
    )
    assert f"1 x {location}" in text
    header, _, first, *_ = text.partition("## Phases")[2].strip().splitlines()
    assert header == "| phase | share | ms per step | host share |"
    assert first == "| data wait | 4.0% | 0.01 | 5.0% |"
