"""Everything that runs on a GPU, on CUDA tensors without data: devices, host syncs, and the attention backend."""

from dataclasses import fields

import pytest
import torch
import torch.nn.functional as F
from device_only import OnlyOnDevice
from step_counts import FakeStep, count_step, real_masks
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily

from hpc_jepa.config.loading import CONFIGS, read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.training import LossScaleConfig
from hpc_jepa.evaluation.frozen_features import Standardiser, pool
from hpc_jepa.evaluation.probes.probe_registry import ProbeShape, probe_kinds
from hpc_jepa.evaluation.probes.trainer import ProbeHyperparameters, _StackedAdamW
from hpc_jepa.kernels.triton.masked_error import TritonMaskedError
from hpc_jepa.masking import mask_sampler
from hpc_jepa.masking.mask_sampler import MaskSampler
from hpc_jepa.models.encoder import Encoder
from hpc_jepa.models.feature_extractor import FeatureExtractor
from hpc_jepa.objectives.sigreg import _weights
from hpc_jepa.profiling.fake_cuda import fake_cuda, move_to_cuda
from hpc_jepa.profiling.operation_counts import OperationCounter
from hpc_jepa.training.divergence import sample_target, target_health
from hpc_jepa.training.ema import TargetEMA
from hpc_jepa.training.engine import parameter_groups
from hpc_jepa.training.loss_scale import LossScaler
from hpc_jepa.training.nonfinite import NonFiniteGuard
from hpc_jepa.types import ClipBatch

VARIANTS = sorted(path.stem for path in (CONFIGS / "objective").glob("*.yaml"))
SEMANTICS = ["published", "corrected"]
SHALLOW = (
    "model.encoder={width: 768, depth: 4, heads: 12, levels: [1, 2, 3, 4]}",
    "model.predictor={width: 256, depth: 1, heads: 8}",
)
"""ViT-B with every block but the first of each level left out: all shapes of the study, a quarter of the operators."""
SMALL = (
    "model.encoder={width: 32, depth: 2, heads: 2, patch: 8, levels: [1, 2]}",
    "model.predictor={width: 16, depth: 1, heads: 2}",
    "data.clip={frames: 8, stride: 1, size: 48}",
    "engine={batch_size: 4, precision: fp32}",
)
STEP = 60


def configure(variant, semantics, *settings):
    files = [CONFIGS / "regime" / "ucf101.yaml", CONFIGS / "objective" / f"{variant}.yaml"]
    return read_config(RunConfig, files, [f"semantics={semantics}", "engine.batch_size=8", *settings])


def run_step(config):
    """Forward and backward pass of one step, checked."""
    masks = real_masks(config, STEP)
    with fake_cuda():
        step = FakeStep(config, masks, STEP)
        with OnlyOnDevice():
            step.loss().backward()
        trained = [p for p in step.module.model.parameters() if p.requires_grad]
        assert all(p.grad is not None and p.grad.is_cuda for p in trained)


@pytest.mark.parametrize("semantics", SEMANTICS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_of_every_variant_stays_on_the_device(variant, semantics):
    run_step(configure(variant, semantics, *SHALLOW))


@pytest.mark.parametrize(
    "settings",
    [
        (),
        SMALL,
        (*SHALLOW, "model.activation_checkpointing=true"),
        (*SHALLOW, "data.images=batches"),
        (*SHALLOW, "engine.precision=fp16"),
    ],
)
def test_a_step_of_every_kind_of_model_stays_on_the_device(settings):
    run_step(configure("fwm_hw_ld", "corrected", *settings))


@pytest.mark.parametrize(("precision", "backend"), [("bf16", "flash"), ("fp16", "flash"), ("fp32", "efficient")])
def test_no_attention_needs_a_plan_for_each_length(precision, backend):
    passes = count_step(configure("baseline", "corrected", *SMALL, f"engine.precision={precision}"))
    used = {name for counter in passes.values() for name in counter.by_operator if "attention" in name}
    assert used == {f"aten._scaled_dot_product_{backend}_attention{suffix}" for suffix in ("", "_backward")}


def test_pytorch_alone_would_choose_cudnn():
    torch.backends.cuda.enable_cudnn_sdp(True)
    with fake_cuda(), OperationCounter() as counter:
        F.scaled_dot_product_attention(*torch.empty(3, 1, 2, 16, 64, dtype=torch.bfloat16, device="cuda"))
    assert counter.by_operator.keys() == {"aten._scaled_dot_product_cudnn_attention"}


def test_the_update_and_its_checks_stay_on_the_device():
    config = configure("baseline", "corrected", *SHALLOW)
    masks = real_masks(config, STEP)
    with fake_cuda():
        step = FakeStep(config, masks, STEP)
        model = step.module.model
        guard = NonFiniteGuard(model.student.modality.video, torch.device("cuda"))
        optimizer = torch.optim.AdamW(parameter_groups(step.module), fused=True)
        ema, scaler = TargetEMA(model.student, model.target), LossScaler(LossScaleConfig(), torch.device("cuda"))
        for _ in range(2):  # the first update makes the optimizer's state
            loss = step.loss()
            scaler.scaled(loss).backward()
            with OnlyOnDevice():
                skipped = guard.nonfinite(loss, scaler.can_fall)
                scaler.unscale([p.grad for p in step.module.parameters() if p.grad is not None])
                guard.count_step(skipped, scaler.update(loss.detach(), skipped))
                scaler.metrics()
                optimizer.step()
                ema.update(0.99)
                target_health(sample_target(torch.empty(8, 1568, 3072, device="cuda"), levels=4, tokens=2048))
                guard.pop_counts()


def with_data(function):
    """Run a function on the CPU with its data."""

    def run(*arguments):
        with unset_fake_temporarily():
            return function(*arguments)

    return run


@pytest.mark.parametrize("semantics", SEMANTICS)
@pytest.mark.parametrize(
    ("variant", "order"),
    [(variant, "raster") for variant in ("baseline", "motion_guided", "future_predictive", "motion_future")]
    + [("baseline", "tubes"), ("baseline", "tokens")],
)
def test_masks_are_sampled_on_the_device_with_one_read_by_the_host(variant, semantics, order, monkeypatch):
    config = configure(variant, semantics)
    chosen = config.semantics.model_copy(update={"mask_truncation": order})
    sampler = MaskSampler(config.masking, chosen, config.grid, seed=0, batch_size=8)
    monkeypatch.setattr(mask_sampler, "block_size", with_data(mask_sampler.block_size))
    expected = sampler(STEP, ClipBatch(torch.randn(8, 3, 16, 224, 224), *torch.zeros(2, 8).long(), torch.zeros(8) > 0))
    lengths = [[[group.context.shape[1], group.target.shape[1]]] for group in expected]
    reads = []
    monkeypatch.setattr(FakeTensor, "tolist", lambda tensor: reads.append(tensor.is_cuda) or lengths[len(reads) - 1])
    with fake_cuda():
        clips = ClipBatch(
            torch.empty(8, 3, 16, 224, 224, device="cuda"),
            *torch.empty(2, 8, dtype=torch.int64, device="cuda"),
            torch.empty(8, dtype=torch.bool, device="cuda"),
        )
        masks = sampler(STEP, clips)
    assert reads == [True] * len(masks)
    for group, wanted in zip(masks, expected, strict=True):
        assert group.padding is None
        for field in (field for field in fields(group) if field.name != "padding"):
            tensor, like = getattr(group, field.name), getattr(wanted, field.name)
            assert (tensor.is_cuda, tensor.shape, tensor.dtype) == (True, like.shape, like.dtype)


@pytest.mark.parametrize("pooling", ["tokens", "tubelets", "mean"])
def test_features_for_evaluation_stay_on_the_device(pooling):
    with torch.device("meta"):
        extractor = FeatureExtractor(Encoder(configure("baseline", "corrected").model.encoder), (0.5,) * 3, (0.2,) * 3)
    with fake_cuda(), torch.inference_mode():
        move_to_cuda(extractor)
        clips = torch.empty(2, 3, 16, 224, 224, device="cuda")
        with OnlyOnDevice():
            features = pool(extractor(clips, normalise=False), pooling, tubelets=8)
    assert features.is_cuda and features.shape[-1] == 768


@pytest.mark.parametrize("kind", sorted(probe_kinds()))
def test_the_updates_of_every_probe_stay_on_the_device(kind):
    shape = ProbeShape(width=64, classes=5, tokens=8 * 4 if "tokens" in probe_kinds()[kind].poolings else 8,
                       tubelets=8, heads=4)  # fmt: skip
    seeds = [0, 1]
    with torch.device("meta"):
        probes = probe_kinds()[kind].build(shape, seeds)
    with fake_cuda():
        move_to_cuda(probes)
        standardiser = Standardiser.identity(shape.width).to(torch.device("cuda"))
        optimizer = _StackedAdamW(list(probes.parameters()), [ProbeHyperparameters(1e-3, 0.1, seed) for seed in seeds])
        tokens = torch.empty(6, shape.tokens, shape.width, device="cuda")
        targets = torch.empty(12, dtype=torch.int64, device="cuda")
        for _ in range(2):
            with OnlyOnDevice():
                logits = probes(standardiser(tokens.clone()))
                F.cross_entropy(logits.flatten(0, 1), targets).backward()
                optimizer.step()
            assert logits.shape == (2, 6, 5)


ON_HOST = torch.ones(5)
FAULTS = {
    "item": lambda x: x.sum().item(),
    "if": lambda x: x if x.sum() > 0 else -x,
    "boolean index": lambda x: x[x > 0],
    "nonzero": lambda x: x.nonzero(),
    "cpu": lambda x: x.cpu(),
    "to cpu": lambda x: x.to("cpu", non_blocking=True),
    "numpy": lambda x: x.detach().numpy(),
    "tolist": lambda x: x.tolist(),
    "tensor on the CPU": lambda x: x + torch.ones(5),
    "captured tensor on the CPU": lambda x: x + ON_HOST,
    "scalar on the CPU": lambda x: x * torch.full((), 0.5),
    "work on the CPU": lambda x: x * torch.rand(5).to("cuda"),
    "tensor of numbers": lambda x: x * torch.tensor(0.5, device="cuda"),
    "number assigned to an element": lambda x: x.clone().__setitem__(0, 1.0),
}


@pytest.mark.parametrize("fault", sorted(FAULTS))
@pytest.mark.parametrize("backward", [False, True])
def test_a_fault_is_found(fault, backward):
    with fake_cuda():
        x = torch.empty(5, device="cuda", requires_grad=True)
        y = x * 2
        if backward:
            y.register_hook(lambda gradient: FAULTS[fault](gradient) and None)
        with pytest.raises((AssertionError, RuntimeError)), OnlyOnDevice():
            y.sum().backward() if backward else FAULTS[fault](y)


def test_a_kernel_with_a_tensor_on_the_host_is_found():
    with fake_cuda(), pytest.raises(RuntimeError, match="_forward"):
        prediction, features = torch.empty(2, 3, 8, device="cuda"), torch.empty(2, 9, 8, device="cuda")
        TritonMaskedError.apply(prediction, features, torch.zeros(2, 3, dtype=torch.int64), 0)


def test_nothing_stays_replaced():
    attention, matrix = F.scaled_dot_product_attention, nn.Linear(3, 3)
    with fake_cuda():
        assert F.scaled_dot_product_attention is not attention
    assert F.scaled_dot_product_attention is attention
    assert torch.accelerator.current_accelerator() is None or torch.cuda.is_available()
    matrix(torch.ones(2, 3)).sum().backward()
    assert matrix.weight.grad is not None


def test_the_quadrature_of_sigreg_is_that_of_its_formula():
    weights, phi = _weights(torch.linspace(0, 3, 4))
    torch.testing.assert_close(phi, torch.exp(-torch.tensor([0.0, 1.0, 4.0, 9.0]) / 2))
    torch.testing.assert_close(weights / phi, torch.tensor([1.0, 2.0, 2.0, 1.0]))
