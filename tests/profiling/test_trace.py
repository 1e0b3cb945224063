"""What is read from a trace, on traces small enough to reckon by hand: one of a GPU, with a host ahead of it."""

import json

import pytest
import torch

from hpc_jepa.config.run import RunConfig
from hpc_jepa.profiling.summary import ProfiledSteps, summary_page
from hpc_jepa.profiling.trace import Trace

TRAINER, FEED, AUTOGRAD, STREAM = 1, 2, 3, 7


def event(category, name, thread, start, duration, **facts):
    return {"ph": "X", "cat": category, "name": name, "tid": thread, "ts": start, "dur": duration, "args": facts}


def launched(name, thread, asked, start, duration, link, category="kernel", **facts):
    """A call of the host and what the GPU made of it."""
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
    *launched("crop", FEED, 30, 90, 30, 13),  # beside the one before: from 100 to 120 it is alone
    *launched("gemm", TRAINER, 122, 150, 100, 14, **{"External id": 3}),
    *launched("Memcpy HtoD (Pinned -> Device)", FEED, 2, 10, 5, 15, category="gpu_memcpy", bytes=4_000_000),
    event("cuda_runtime", "cudaStreamSynchronize_v3020", TRAINER, 95, 5, correlation=16),
    event("cuda_runtime", "cudaStreamSynchronize", FEED, 95, 5, correlation=17),  # keeps no step waiting
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
            "the next batch": (5 + 20) / 250,
            "idle": (15 + 30) / 250,  # 15 to 30, 120 to 150
        }
    )


def test_time_of_the_host_is_that_of_its_ranges(read):
    assert read(GPU).host_shares() == pytest.approx(
        {
            "data wait": 10 / 200,
            "student": 40 / 200,
            "backward": 40 / 200,
            "everything else": 100 / 200,
            "between steps": 10 / 200,
        }
    )


def test_kernels_cost_the_operator_that_launched_them(read):
    costs = {operator.name: operator for operator in read(GPU).costs}
    assert list(costs) == ["aten::mm", "crop", "aten::add", "Memcpy HtoD (Pinned -> Device)"]
    assert (costs["aten::mm"].calls, costs["aten::mm"].milliseconds) == (1, pytest.approx(0.075))
    assert (costs["aten::mm"].phase, costs["aten::add"].phase) == ("student", "backward")
    assert costs["crop"].phase == "the next batch"


def test_bytes_and_waits_are_counted_where_training_is_kept_up(read):
    trace = read(GPU)
    assert trace.bytes_moved() == {"copied HtoD": 2_000_000}
    assert [(wait.thread, wait.start) for wait in trace.host_syncs()] == [(TRAINER, 95)]


def test_an_operator_is_not_charged_for_those_inside_it(read):
    inside = [
        event("user_annotation", "step", TRAINER, 0, 100),
        event("cpu_op", "aten::linear", TRAINER, 10, 50),
        event("cpu_op", "aten::t", TRAINER, 12, 8),
        event("cpu_op", "aten::addmm", TRAINER, 20, 40),
        event("cpu_op", "aten::copy_", TRAINER, 30, 10),
        event("cpu_op", "aten::addmm", TRAINER, 60, 5),
        event("cpu_op", "aten::item", TRAINER, 70, 3),
        event("cpu_op", "aten::_local_scalar_dense", TRAINER, 71, 1),
    ]
    trace = read(inside)
    spent = {operator.name: 1000 * operator.milliseconds for operator in trace.costs}
    assert spent == pytest.approx(
        {
            "aten::addmm": 35,
            "aten::copy_": 10,
            "aten::t": 8,
            "aten::linear": 2,
            "aten::item": 2,
            "aten::_local_scalar_dense": 1,
        }
    )
    assert not trace.on_gpu
    assert len(trace.host_syncs()) == 1


def test_the_page_of_a_gpu_says_what_keeps_it_from_working(read, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    stack = [
        event("python_function", "somewhere/hpc_jepa/training/loop.py(60): train_step", TRAINER, 0, 100),
        event("python_function", "lib/deepspeed/runtime/utils.py(229): is_invalid_grad_norm", TRAINER, 94, 6),
        event("python_function", "torch/_tensor.py(1): item", TRAINER, 95, 5),
    ]
    config = RunConfig.model_validate({"regime": "test", "data": {"sources": {"none": {"shards": "none"}}}})
    trace = read(GPU)
    text = summary_page(ProfiledSteps(config, 3, 0.1, 1e9), trace, read([*GPU, *stack]), tmp_path / "trace.json")
    assert "NVIDIA H200" in text and "steps 3 to 4" in text
    assert "Most of the time goes to student (60%), then idle (18%)." in text
    assert "4% is waiting for data" in text
    assert "The GPU is idle 18% of the time, though data are there" in text
    assert "The host waits for the GPU 0.5 times in a step" in text
    seen = "`is_invalid_grad_norm` at deepspeed/runtime/utils.py:229 for `train_step` at hpc_jepa/training/loop.py:60"
    assert seen in text
    assert "| kernels launched | " in " ".join(text.split())
    assert "share of the GPU's time" in text
