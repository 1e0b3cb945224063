"""Action-conditioned decoding: predict the coming colour change of a patch from its context token."""

from einops import reduce
from pydantic import Field
from torch import Tensor

from hpc_jepa.config.run import RunConfig
from hpc_jepa.objectives.fwm import DynamicsHead
from hpc_jepa.objectives.objective import Objective, ObjectiveContext, TermOptions
from hpc_jepa.objectives.pairs import PairKind, check_forecast, temporal_pairs
from hpc_jepa.objectives.pooling import mean_over_pairs
from hpc_jepa.objectives.student_features import student_features
from hpc_jepa.types import Latents, TokenGrid, gather_tokens


class ActionOptions(TermOptions):
    """Coefficient of the term, colour channels it predicts, hidden width of its head, kind of its pairs."""

    weight: float = Field(1.0, ge=0)
    channels: int = Field(3, ge=1, le=3)
    hidden: int = Field(256, gt=0)
    pairs: PairKind = "context"


class Action(Objective[ActionOptions]):
    r"""``L_ac = mean over valid pairs of |a(S[t]) - (x[t+1] - x[t])|``, x the mean colour of a tubelet-patch of the
    normalised clip, a = Linear-GELU-Linear. If the run also has ``fwm``, the head reads the dynamics part only.
    ``pairs: forecast`` predicts the change from the last tubelet of the context to the one after it.
    """

    name = "ac"
    title = "Action-conditioned decoding"
    families = "A"
    min_tubelets = 2
    options_type = ActionOptions
    handles_padding = True

    def __init__(self, options: ActionOptions, ctx: ObjectiveContext) -> None:
        super().__init__(options, ctx)
        self.head = DynamicsHead(ctx, options.hidden, options.channels)

    @classmethod
    def validate_run(cls, options: ActionOptions, config: RunConfig) -> None:
        """Forecast pairs need masks that leave tubelets to forecast."""
        check_forecast(options.pairs, config)
        super().validate_run(options, config)

    def forward(self, latents: Latents) -> dict[str, Tensor]:
        """Term ``ac``."""
        colour = mean_colour(latents.pixels, latents.grid)[..., : self.options.channels]
        errors = []
        pairs = temporal_pairs(self.options.pairs, latents, self.ctx)
        features = student_features(latents, self.ctx)
        for group, masks, student in zip(pairs, latents.masks, features, strict=True):
            decoded = self.head(student)
            change = gather_tokens(colour, group.later) - gather_tokens(colour, masks.context)
            errors.append((decoded - change.to(decoded.dtype)).abs().mean(-1))
        return {"ac": mean_over_pairs(errors, pairs)}


def mean_colour(pixels: Tensor, grid: TokenGrid) -> Tensor:
    """Mean of each tubelet-patch: clips [B, C, F, Hp, Wp] -> [B, N, C], tokens in raster order."""
    return reduce(pixels, "b c (t f) (y h) (x w) -> b (t y x) c", "mean", t=grid.time, y=grid.height, x=grid.width)
