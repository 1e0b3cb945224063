"""Where a new run begins: at a checkpoint of another run, or with the weights of a released file."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from hpc_jepa.config.strict import Strict

Part = Literal["encoder", "target", "predictor"]
PARTS: tuple[Part, ...] = ("encoder", "target", "predictor")


def _check_parts(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    if len(set(parts)) != len(parts):
        raise ValueError("a part is listed twice")
    if not {"encoder", "target"} & set(parts):
        raise ValueError("list encoder or target: one of them is needed to begin")
    return parts


Parts = Annotated[tuple[Part, ...], AfterValidator(_check_parts)]


class InitConfig(Strict):
    """Where the run begins, unless it has a checkpoint of its own: ``run`` or ``file``."""

    run: Path | None = Field(None, description="run folder to branch from")
    step: int | None = Field(None, ge=0, description="checkpoint of that run; null: that of its last step")
    what: Literal["all", "weights"] = Field("all", description="all: also the moments of the optimizer")
    count: Literal["own", "continue"] = Field(
        "own", description="own: steps and schedules begin at 0; continue: they go on after init.step"
    )
    file: Path | None = Field(None, description="weights in the layout of facebookresearch/vjepa2 (.pt)")
    sha256: str | None = Field(None, pattern=r"^[0-9a-fA-F]{64}$", description="of that file, checked first")
    parts: Parts = Field(PARTS, description="networks to load from that file")

    @model_validator(mode="after")
    def _one_origin(self) -> "InitConfig":
        if (self.run is None) == (self.file is None):
            raise ValueError("set run (a run folder) or file (released weights), one of them")
        if self.file is not None and self.sha256 is None:
            raise ValueError("sha256 is required beside file; 'hpc-jepa checkpoint check FILE' prints it")
        of_run = {"step": self.step is None, "what": self.what == "all", "count": self.count == "own"}
        of_file = {"sha256": self.sha256 is None, "parts": self.parts == PARTS}
        for key, is_default in (of_run if self.run is None else of_file).items():
            if not is_default:
                raise ValueError(f"{key} belongs to {'run' if self.run is None else 'file'}, which is not set")
        return self
