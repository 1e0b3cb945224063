"""From a stored video and the numbers drawn for it to a clip, ready to be augmented."""

import numpy as np

from hpc_jepa.config.data import AugmentationConfig, ClipConfig
from hpc_jepa.data.augment import Clip
from hpc_jepa.data.clip_sampler import ClipDraws
from hpc_jepa.data.crop import random_view
from hpc_jepa.data.decode import CropWindow, decode_frames
from hpc_jepa.data.frame_sampling import training_frames
from hpc_jepa.data.images import is_image
from hpc_jepa.data.shards.shard_folder import StoredVideo


def compressed_clip(
    video: StoredVideo, draws: ClipDraws, row: int, clip: ClipConfig, augmentation: AugmentationConfig
) -> Clip:
    """Which frames of a video are wanted and how they are cut, beside its compressed bytes."""
    data, info = video
    frames = training_frames(info.frames, info.fps, clip, draws.starts[row])
    view = random_view(info.height, info.width, augmentation, draws.crops[row], draws.flips[row])
    return Clip(
        video=np.frombuffer(data, np.uint8),
        view=view,
        frames=frames[:1] if info.frames == 1 else frames,
        media="image" if is_image(data) else "video",
    )


def decoded_clip(clip: Clip, video: StoredVideo) -> Clip:
    """The same clip with the window of its frames instead of bytes.

    Raises UndecodableError where the video is damaged or not what its description says.
    """
    window = CropWindow(*clip.view.window, video.info.height, video.info.width)
    return clip._replace(video=decode_frames(video.data, clip.frames, window))
