"""Student features in the form that auxiliary terms read."""

from torch import Tensor

from hpc_jepa.objectives.objective import ObjectiveContext
from hpc_jepa.types import Latents, gather_tokens


def student_features(latents: Latents, ctx: ObjectiveContext) -> tuple[Tensor, ...]:
    """Features of the context tokens, per mask group [B, K, D]: as the student returns them, or with each level
    layer-normalised without gain (``semantics.student_norm``; B6, B13).
    """
    if ctx.semantics.student_norm == "level":
        return latents.normalised_student(ctx.levels)
    return latents.student


def next_tubelet(features: Tensor, next_in_context: Tensor) -> Tensor:
    """Features [B, K, d] of the same place one tubelet later; of an arbitrary place if the pair is not valid."""
    return gather_tokens(features, next_in_context.clamp(min=0))


def student_changes(latents: Latents, ctx: ObjectiveContext) -> list[Tensor]:
    """``S[t+1] - S[t]``, per mask group [B, K, D]; arbitrary if the pair is not valid."""
    return [
        next_tubelet(features, masks.next_in_context) - features
        for features, masks in zip(student_features(latents, ctx), latents.masks, strict=True)
    ]
