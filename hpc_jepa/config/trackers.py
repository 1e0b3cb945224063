"""Where Weights & Biases, MLflow and Trackio write what they are given."""

from typing import Literal

from pydantic import Field

from hpc_jepa.config.strict import Strict

TrackerName = Literal["wandb", "mlflow", "trackio"]


class WandbConfig(Strict):
    """A run in Weights & Biases."""

    project: str | None = Field(None, min_length=1, description="null: the name of the study")
    entity: str | None = Field(None, min_length=1, description="team or user; null: the default of the account")
    mode: Literal["online", "offline"] = Field("online", description="offline: files for 'wandb sync', no network")


class MlflowConfig(Strict):
    """A run in MLflow."""

    experiment: str | None = Field(None, min_length=1, description="null: the name of the study")
    uri: str | None = Field(
        None,
        min_length=1,
        description="server or database; null: MLFLOW_TRACKING_URI, or else sqlite in RUNS/mlflow.db",
    )


class TrackioConfig(Strict):
    """A run in Trackio."""

    project: str | None = Field(None, min_length=1, description="null: the name of the study")
    space: str | None = Field(None, min_length=1, description="Hugging Face Space; null: files in TRACKIO_DIR")
