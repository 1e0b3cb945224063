import pytest
import torch

from hpc_jepa.checkpoint.format_2 import upgrade_name
from hpc_jepa.config.model import EncoderConfig, PredictorConfig
from hpc_jepa.models.encoder import Encoder
from hpc_jepa.models.predictor import Predictor

TOLERANCE = 1e-5
ENCODER = EncoderConfig(width=64, depth=12, heads=2, patch=16, tubelet=2, levels=(3, 6, 9, 12))
PREDICTOR = PredictorConfig(width=32, depth=4, heads=2, mask_tokens=2)


def load(network, name, recorded):
    weights = {upgrade_name(key).removeprefix(name): value for key, value in recorded.items() if key.startswith(name)}
    network.load_state_dict(weights, strict=True)
    return network.eval()


@pytest.fixture
def encoder(recorded):
    return load(Encoder(ENCODER), "encoder.", recorded)


@pytest.fixture
def predictor(recorded):
    return load(Predictor(PREDICTOR, ENCODER), "predictor.", recorded)


@torch.no_grad()
@pytest.mark.parametrize(
    ("clip", "tokens", "output"),
    [
        ("clip", None, "full"),
        ("clip", "context_indices.group1", "group1"),
        ("clip", "context_indices.group2", "group2"),
        ("wide_clip", None, "wide_full"),
        ("wide_clip", "wide_context_indices", "wide_masked"),
    ],
)
def test_training_latent_equals_the_recorded_one(encoder, recorded, clip, tokens, output):
    indexes = None if tokens is None else recorded[f"input.{tokens}"]
    latent = encoder(recorded[f"input.{clip}"], indexes)
    torch.testing.assert_close(latent, recorded[f"output.encoder.training.{output}"], rtol=0, atol=TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize(("clip", "output"), [("clip", "evaluation"), ("wide_clip", "evaluation.wide")])
def test_evaluation_feature_equals_the_recorded_one(encoder, recorded, clip, output):
    feature = encoder.forward_features(recorded[f"input.{clip}"])
    torch.testing.assert_close(feature, recorded[f"output.encoder.{output}"], rtol=0, atol=TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("group", ["group1", "group2"])
def test_predictions_equal_the_recorded_ones(encoder, predictor, recorded, make_masks, group):
    masks = make_masks(recorded[f"input.context_indices.{group}"], recorded[f"input.target_indices.{group}"])
    grid = encoder.grid(recorded["input.clip"])
    ((target, context),) = predictor([recorded[f"output.encoder.training.{group}"]], [masks], grid)
    torch.testing.assert_close(target, recorded[f"output.predictor.target.{group}"], rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(context, recorded[f"output.predictor.context.{group}"], rtol=0, atol=TOLERANCE)
