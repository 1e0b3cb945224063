"""One training step of a tiny model, for the tests that hold for every variant and the processes that they start."""

import torch

from hpc_jepa.config.loading import CONFIGS, read_config
from hpc_jepa.config.run import RunConfig
from hpc_jepa.masking.mask_sampler import MaskSampler
from hpc_jepa.masking.modality import MasksByModality
from hpc_jepa.objectives.composition import weighted_sum
from hpc_jepa.training.train_module import build_train_module
from hpc_jepa.types import ClipBatch

VARIANTS = sorted(path.stem for path in (CONFIGS / "objective").glob("*.yaml"))
TEMPORAL_TERMS = {"ld", "delta", "ltc", "ac", "spectral", "velgate", "hamiltonian", "kinematic", "fwm_static"}
SILENT_TERMS = {("hw_ld", "published"): {"ld"}, ("fwm_hw_ld", "published"): {"ld"}}
"""Terms without gradient by design: the published code computes them so (B2)."""

STEP = 60
TINY = (
    "model.encoder={width: 32, depth: 4, heads: 2, patch: 8, levels: [1, 2, 3, 4]}",
    "model.predictor={width: 16, depth: 1, heads: 2}",
    "engine={batch_size: 4, precision: fp32}",
    "data.clip={frames: 8, stride: 1, size: 48}",
    "schedule.steps=100",
)


def configure(variant, semantics="corrected", *overrides):
    files = [CONFIGS / "regime" / "ucf101.yaml", CONFIGS / "objective" / f"{variant}.yaml"]
    return read_config(RunConfig, files, [f"semantics={semantics}", *TINY, *overrides])


def make_clips(config, frames=None, pixels=None):
    """A batch of the given pixels, or of random images with noise in every frame: consecutive tubelets are similar."""
    clip, count = config.data.clip, config.engine.batch_size
    if pixels is None:
        generator = torch.Generator().manual_seed(1)
        image = torch.randn(count, 3, 1, clip.size, clip.size, generator=generator)
        noise = torch.randn(count, 3, frames or clip.frames, clip.size, clip.size, generator=generator)
        pixels = image + 0.3 * noise
    zeros = torch.zeros(len(pixels), dtype=torch.int64, device=pixels.device)
    return ClipBatch(pixels, zeros, zeros, zeros.bool())


def make_masker(config, **placement):
    return MasksByModality(
        *(
            MaskSampler(
                config.masking, config.semantics, grid, seed=0, batch_size=config.engine.batch_size, **placement
            )
            for grid in (config.grid, config.image_grid)
        )
    )


def one_step(config, clips=None, **placement):
    """(module, terms, loss) of one step of a fresh model, with the context loss on and without backward pass."""
    clips = make_clips(config) if clips is None else clips
    train_module = build_train_module(config)
    terms, _ = train_module(clips.pixels, make_masker(config, **placement)(STEP, clips), STEP)
    weights = train_module.objectives.weights(STEP)
    assert weights.keys() == terms.keys()
    return train_module, terms, weighted_sum(terms, weights)


def term_gradient(train_module, term):
    """Gradient of one term for all trained parameters, flat; 0 where there is none."""
    parameters = [p for p in train_module.parameters() if p.requires_grad]
    if not term.requires_grad:
        return torch.zeros(sum(p.numel() for p in parameters))
    gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
    pairs = zip(gradients, parameters, strict=True)
    return torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten() for g, p in pairs])


def check_term_acts(name, value, gradient, has_gradient=True):
    """Fail if a term is 0 on the test input, or if its gradient is."""
    hint = "choose options with which it acts, or add it to SILENT_TERMS if that is by design"
    assert value != 0, f"{name} is 0 on the test input, so no test can see an error in it; {hint}"
    assert (gradient.abs().max() > 0) == has_gradient, f"the gradient of {name} is 0 on the test input; {hint}"
