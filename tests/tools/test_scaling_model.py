"""The prediction, against the same compute written out."""

import pytest
from scaling_model import Network, predict

from hpc_jepa.config.run import RunConfig
from hpc_jepa.study.sizes import model_size

FAST = Network("fast", gpus_per_node=8, within=400e9, between=200e9, hop=0.0)
PEAK, SHARE = 1e15, 0.5


def config(stage, groups=2):
    return RunConfig.model_validate(
        {
            "regime": "test",
            "data": {"sources": {"none": {"shards": "none"}}},
            "masking": {"groups": [{"blocks": 2, "spatial_scale": 0.2}] * groups},
            "engine": {"zero_stage": stage, "batch_size": 16},
        }
    )


@pytest.mark.parametrize(("stage", "passes"), [(0, 2), (1, 2), (2, 2)])
def test_replicated_weights_are_sent_twice_over_the_slowest_link(stage, passes):
    trained = model_size(config(stage)).trainable
    for gpus, link in ((8, 400e9), (16, 200e9)):
        predicted = predict(config(stage), gpus, FAST, PEAK, SHARE)
        assert predicted.communication == pytest.approx(passes * 4 * trained * (gpus - 1) / gpus / link)
        assert predicted.compute == pytest.approx(model_size(config(stage)).flops / 5e14)


def test_sharded_weights_are_gathered_for_forward_and_backward_and_the_target_once():
    counted = model_size(config(3))
    once = 4 * counted.trainable * 7 / 8 / 400e9
    target = 4 * counted.target * 7 / 8 / 400e9
    assert predict(config(3), 8, FAST, PEAK, SHARE).communication == pytest.approx((2 + 1) * once + target)


def test_one_gpu_communicates_nothing():
    for stage in range(4):
        alone = predict(config(stage), 1, FAST, PEAK, SHARE)
        assert (alone.communication, alone.efficiency, alone.overlapped_efficiency) == (0, 1, 1)


def test_more_gpus_are_never_more_efficient_and_overlap_never_hurts():
    slow = Network("slow", 8, 400e9, 25e9, hop=5e-6)
    found = [predict(config(1), gpus, slow, PEAK, SHARE) for gpus in (1, 8, 16, 64, 512)]
    efficiencies = [each.efficiency for each in found]
    assert efficiencies == sorted(efficiencies, reverse=True)
    assert all(each.efficiency <= each.overlapped_efficiency <= 1 for each in found)
    assert found[-1].communication - found[-1].hideable > 0  # the all-gather after the update cannot overlap


def test_latency_counts_in_a_long_ring():
    slow = Network("slow", 8, 400e9, 200e9, hop=1e-5)
    extra = (
        predict(config(1), 512, slow, PEAK, SHARE).communication
        - predict(config(1), 512, FAST, PEAK, SHARE).communication
    )
    assert extra == pytest.approx(2 * 511 * 1e-5)
