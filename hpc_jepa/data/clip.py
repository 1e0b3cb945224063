"""One training clip, from a stored video and its random draws to the input of the augmenter."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpc_jepa.config.data import AugmentationConfig, ClipConfig
from hpc_jepa.data.clip_sampler import ClipDraws
from hpc_jepa.data.crop import View, random_view
from hpc_jepa.data.dali_pipeline import Media
from hpc_jepa.data.decode import CropWindow, decode_frames
from hpc_jepa.data.frame_sampling import real_frames, training_frames
from hpc_jepa.data.images import is_image
from hpc_jepa.data.shards.shard_folder import StoredVideo


class ClipPlan(NamedTuple):
    """Which frames [F] of a video make the clip (one for an image), and how they are cropped and flipped.

    real: leading frames of the clip that are no padding; an image has none.
    """

    frames: NDArray[np.int64]
    view: View
    media: Media
    real: int


class EncodedClip(NamedTuple):
    """A compressed file that DALI decodes."""

    plan: ClipPlan
    file: bytes

    @property
    def video(self) -> NDArray[np.uint8]:
        """The file, uint8 [bytes]."""
        return np.frombuffer(self.file, np.uint8)


class DecodedClip(NamedTuple):
    """Decoded frames, cropped to the view: uint8 [F, h, w, 3]."""

    plan: ClipPlan
    video: NDArray[np.uint8]


Clip = EncodedClip | DecodedClip


def plan_clip(
    video: StoredVideo, draws: ClipDraws, row: int, clip: ClipConfig, augmentation: AugmentationConfig
) -> ClipPlan:
    """Choose frames, crop and flips from the draws of one batch row."""
    data, info = video
    frames = training_frames(info.frames, info.fps, clip, draws.starts[row], info.times)
    view = random_view(info.height, info.width, augmentation, draws.crops[row], draws.flips[row])
    media: Media = "image" if is_image(data) else "video"
    if info.frames == 1:
        return ClipPlan(frames[:1], view, media, clip.frames)
    return ClipPlan(frames, view, media, real_frames(info.frames, info.fps, clip))


def decode_clip(video: StoredVideo, plan: ClipPlan) -> DecodedClip:
    """Decode the frames with PyAV. Raises UndecodableError if the video is damaged or contradicts its metadata."""
    window = CropWindow(*plan.view.window, video.info.height, video.info.width)
    return DecodedClip(plan, decode_frames(video.data, plan.frames, window))
