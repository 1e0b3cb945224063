"""External encoders to compare a run with: timm models applied per frame, and V-JEPA 2 models of transformers."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import interpolate

from hpc_jepa.config.benchmark import EvaluationClipConfig
from hpc_jepa.errors import InputError
from hpc_jepa.evaluation.extraction import TokenEncoder, weight_bytes
from hpc_jepa.evaluation.torchvision_operators import register_torchvision_operators
from hpc_jepa.io.escape import first_line

INSTALL = "run: pip install 'hpc_jepa[encoders]'"


def is_external(name: str) -> bool:
    """Whether a weights name refers to an encoder that is not part of the run."""
    return ":" in name


def load_external_encoder(name: str, clip: EvaluationClipConfig, seed: int, device: torch.device) -> TokenEncoder:
    """The encoder named ``timm:<model>``, ``timm:<model>@<file>`` or ``vjepa2:<folder>``.

    Random weights are drawn from ``seed``. Raises InputError for an unknown model or weights that do not fit it.
    """
    kind, _, model_name = name.partition(":")
    register_torchvision_operators()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = _TimmPerFrame(model_name, clip) if kind == "timm" else _VJEPA2(Path(model_name), clip)
    module = module.float().eval().requires_grad_(False).to(device)
    return TokenEncoder(module, module.tubelets(clip.frames), _sha256(module), weight_bytes(module))


class _Renormalise(nn.Module):
    """Converts pixels normalised with the clip's mean and std to the mean and std the model was trained with."""

    scale: Tensor
    shift: Tensor

    def __init__(self, clip: EvaluationClipConfig, mean: Any, std: Any) -> None:
        super().__init__()
        clips, model = torch.tensor([clip.mean, clip.std]), torch.tensor([mean, std])
        self.register_buffer("scale", (clips[1] / model[1]).view(3, 1, 1, 1))
        self.register_buffer("shift", ((clips[0] - model[0]) / model[1]).view(3, 1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 3, F, Hp, Wp] -> the same shape."""
        return pixels * self.scale + self.shift


class _TimmPerFrame(nn.Module):
    """The last feature map of a timm model, applied to each frame at the model's input size; one tubelet per frame."""

    def __init__(self, model_name: str, clip: EvaluationClipConfig) -> None:
        super().__init__()
        try:
            import timm
        except ImportError as error:
            raise InputError(f"timm:{model_name}: the package timm is not installed; {INSTALL}") from error
        model, _, file = model_name.partition("@")
        if not timm.is_model(model):
            known = ", ".join(timm.list_models(f"*{model[:6]}*")[:5]) or "see timm.list_models()"
            raise InputError(f"timm:{model}: unknown timm model; similar names: {known}")
        if file and not Path(file).is_file():
            raise InputError(f"timm:{model_name}: weights file not found: {file}")
        self.model = timm.create_model(model, pretrained=False)
        try:
            if file:
                timm.models.load_checkpoint(self.model, file, weights_only=True)
        except Exception as error:  # whatever a foreign file makes timm raise
            raise InputError(f"timm:{model_name}: not weights of this model: {first_line(error)}") from error
        metadata = self.model.pretrained_cfg
        self.size = metadata["input_size"][1:]
        self.renormalise = _Renormalise(clip, metadata["mean"], metadata["std"])

    def tubelets(self, frames: int) -> int:
        """One tubelet per frame."""
        return frames

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 3, F, Hp, Wp] -> [B, F * N, D]."""
        frames = rearrange(self.renormalise(pixels), "b c f h w -> (b f) c h w")
        if tuple(frames.shape[2:]) != tuple(self.size):
            frames = interpolate(frames, tuple(self.size), mode="bilinear")
        tokens = self._tokens(self.model.forward_features(frames))
        return rearrange(tokens, "(b f) n d -> b (f n) d", b=len(pixels))

    def _tokens(self, features: Tensor) -> Tensor:
        """A feature map, or a sequence that may start with class and register tokens -> [B, N, D]."""
        if features.ndim == 4:
            channels_last = getattr(self.model, "output_fmt", "NCHW") == "NHWC"
            return rearrange(features, "b h w d -> b (h w) d" if channels_last else "b d h w -> b (h w) d")
        if features.ndim == 2:
            return features.unsqueeze(1)
        return features[:, getattr(self.model, "num_prefix_tokens", 0) :]


class _VJEPA2(nn.Module):
    """Encoder of a VJEPA2Model folder."""

    def __init__(self, folder: Path, clip: EvaluationClipConfig) -> None:
        super().__init__()
        try:
            from transformers import VJEPA2Model
        except ImportError as error:
            raise InputError(f"vjepa2:{folder}: the package transformers is not installed; {INSTALL}") from error
        if not (folder / "config.json").is_file():
            raise InputError(f"vjepa2:{folder}: config.json not found; use a folder written by save_pretrained")
        try:
            self.model = VJEPA2Model.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # whatever a foreign folder makes transformers raise
            raise InputError(f"vjepa2:{folder}: loading failed: {first_line(error)}") from error

    def tubelets(self, frames: int) -> int:
        """Frames divided by the tubelet size of the model."""
        return max(frames // int(self.model.config.tubelet_size), 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 3, F, Hp, Wp] -> [B, T * H * W, D]."""
        tokens: Tensor = self.model.get_vision_features(rearrange(pixels, "b c f h w -> b f c h w"))
        return tokens


def _sha256(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
