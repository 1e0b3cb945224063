"""One pass over the features trains many independent probes."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from hpc_jepa.config.benchmark import TrainedProbeConfig
from hpc_jepa.evaluation.frozen_features import Standardiser
from hpc_jepa.evaluation.probes.probe_registry import build_probes, probe_kinds
from hpc_jepa.evaluation.probes.stack import select_probes
from hpc_jepa.evaluation.probes.trainer import ProbeHyperparameters, count_updates, predict_probabilities, train_probes

ONE = (ProbeHyperparameters(1e-3, 0.01, 7),)


def config(kind="attentive", pooling="tokens", **settings):
    length = {} if "epochs" in settings else {"updates": 12}
    values = {"kind": kind, "pooling": pooling, "heads": 4, "batch_size": 16, "standardise": False}
    return TrainedProbeConfig.model_validate(values | length | settings)


def silent():
    return None


def trained_by_hand(module, features, epochs, lr, weight_decay, cosine=False):
    """Plain AdamW over the batches of 16 that training draws."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=lr, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    tokens, labels = torch.from_numpy(features.tokens), torch.from_numpy(features.labels)
    for epoch in range(epochs):
        order = torch.from_numpy(np.random.default_rng(epoch).permutation(len(features)))
        for rows in order.split(16):
            optimizer.zero_grad()
            functional.cross_entropy(module(tokens[rows]), labels[rows]).backward()
            optimizer.step()
        if cosine:
            schedule.step()
    return module


def test_training_equals_the_definition_trained_by_plain_adamw(make_features, full_probe):
    features = make_features(seed=0, clips=64)
    trained = train_probes(features, Standardiser.identity(32), config(), 4, ONE, silent)
    start = build_probes(config(), features, 4, [7])
    reference = trained_by_hand(full_probe(start, 0, 32, 4), features, 3, 1e-3, 0.01)
    tokens = torch.from_numpy(features.tokens)
    with torch.no_grad():
        torch.testing.assert_close(trained(tokens)[0], reference(tokens), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("cosine", [False, True])
def test_each_linear_probe_has_its_own_learning_rate_and_decay(make_features, pooled, cosine):
    features = pooled(make_features(seed=0, clips=64), "mean")
    settings = [
        ProbeHyperparameters(1e-3, 0.01, 0),
        ProbeHyperparameters(1e-2, 0.01, 0),
        ProbeHyperparameters(1e-2, 0.5, 0),
        ProbeHyperparameters(1e-3, 0.01, 5),
    ]
    kind = config("linear", "mean", epochs=5, schedule="cosine" if cosine else "constant")
    trained = train_probes(features, Standardiser.identity(32), kind, 4, settings, silent)
    tokens = torch.from_numpy(features.tokens)
    for row, setting in enumerate(settings):
        torch.manual_seed(setting.seed)
        start = nn.Sequential(nn.Flatten(), nn.Linear(32, 4))
        alone = trained_by_hand(start, features, 5, setting.lr, setting.weight_decay, cosine)
        with torch.no_grad():
            torch.testing.assert_close(trained(tokens)[row], alone(tokens), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "pooling"),
    [("attentive", "tokens"), ("attentive", "mean"), ("linear", "tubelets"), ("temporal_convolution", "tubelets")],
)
def test_probes_trained_side_by_side_equal_probes_trained_alone(make_features, pooled, kind, pooling):
    features = pooled(make_features(seed=0, clips=64), pooling)
    settings = [
        ProbeHyperparameters(1e-3, 0.01, 0),
        ProbeHyperparameters(3e-3, 0.0, 0),
        ProbeHyperparameters(1e-3, 0.1, 2),
    ]
    standardiser = Standardiser.of(features)
    together = train_probes(features, standardiser, config(kind, pooling), 4, settings, silent)
    for row, setting in enumerate(settings):
        alone = train_probes(features, standardiser, config(kind, pooling), 4, [setting], silent)
        both = (
            predict_probabilities(together, standardiser, features)[row],
            predict_probabilities(alone, standardiser, features)[0],
        )
        torch.testing.assert_close(*both, rtol=1e-4, atol=1e-5)


def test_selected_probes_predict_as_in_the_stack(make_features):
    features = make_features(seed=0, clips=32)
    settings = [ProbeHyperparameters(1e-3, 0.01, seed) for seed in range(4)]
    standardiser = Standardiser.identity(32)
    probes = train_probes(features, standardiser, config(), 4, settings, silent)
    picked = predict_probabilities(select_probes(probes, [1, 3]), standardiser, features)
    torch.testing.assert_close(picked, predict_probabilities(probes, standardiser, features)[[1, 3]])


@pytest.mark.parametrize(
    ("kind", "pooling"),
    [(name, pooling) for name, kind in probe_kinds().items() for pooling in kind.poolings if pooling != "mean"],
)
def test_every_kind_learns_and_is_deterministic(make_features, pooled, kind, pooling):
    train = pooled(make_features(seed=0, clips=400, signal=4.0), pooling)
    test = pooled(make_features(seed=1, clips=100, signal=4.0), pooling)
    standardiser = Standardiser.of(train)
    settings = [ProbeHyperparameters(2e-3, 0.01, seed) for seed in (0, 1)]
    wanted = config(kind, pooling, updates=200, batch_size=32)
    first, again = (
        predict_probabilities(train_probes(train, standardiser, wanted, 4, settings, silent), standardiser, test)
        for _ in range(2)
    )
    assert torch.equal(first, again)
    assert ((first.argmax(-1).numpy() == test.labels).mean(axis=1) > 0.5).all()


def test_several_clips_of_a_sample_are_averaged(make_features):
    features = make_features(seed=0, clips=32)
    probes = train_probes(features, Standardiser.identity(32), config(), 4, ONE, silent)
    single = predict_probabilities(probes, Standardiser.identity(32), features)
    twice = type(features)(features.tokens, features.labels, features.samples, features.tubelets, clips=2)
    both = predict_probabilities(probes, Standardiser.identity(32), twice)
    torch.testing.assert_close(both, (single[:, :16] + single[:, 16:]) / 2)


@pytest.mark.parametrize(("length", "expected"), [({"updates": 7}, 7), ({"epochs": 3}, 9)])
def test_updates_count_batches_including_the_last_small_one(make_features, length, expected):
    wanted = config(batch_size=8, **length)
    done = []
    features = make_features(seed=0, clips=20)
    train_probes(features, Standardiser.identity(32), wanted, 4, ONE, lambda: done.append(1))
    assert len(done) == count_updates(wanted, 20) == expected


def test_a_length_is_required_and_depends_on_the_variant():
    for length in ({"updates": None, "epochs": None}, {"updates": 10, "epochs": 1}):
        with pytest.raises(ValueError, match=r"updates.*epochs"):
            config(**length)
    assert config(epochs=100, epochs_of={"fwm_ld": 50}).for_variant("fwm_ld").epochs == 50
    assert config(epochs=100, epochs_of={"fwm_ld": 50}).for_variant("baseline").epochs == 100
