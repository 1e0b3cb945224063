"""The DALI graph: crop, flip, resize, normalise. It holds no state; every sample brings its own window and flips."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from nvidia.dali import fn, pipeline_def, types
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from hpc_jepa.config.data import AugmentationConfig, ClipConfig
from hpc_jepa.data.crop import View

Decoder = Literal["cpu", "mixed"]
Media = Literal["video", "image"]

WINDOW = {"starts": slice(0, 2), "shapes": slice(2, 4)}
FLIPS = {"flips": slice(4, 6)}
"""Inputs of the graph, and the fields of a view that they are."""


class ClipPipeline:
    """Videos and views of one batch -> [B, C, F, size, size] float32, normalised; F is the same for all of a batch.

    Without ``decoder`` a video is the chosen frames, cut to the window of its view: uint8 [F, h, w, 3]. With one it is
    a compressed file, uint8 [bytes], and DALI decodes the chosen frames and cuts them: ``mixed`` on the GPU, ``cpu``
    (VP8, VP9 and MJPEG only) on the host. With ``media`` "image" it decodes the one frame of JPEG and PNG files.
    """

    def __init__(
        self,
        clip: ClipConfig,
        augmentation: AugmentationConfig,
        batch_size: int,
        threads: int = 1,
        device: int | None = None,
        decoder: Decoder | None = None,
        media: Media = "video",
    ) -> None:
        self._decoder = decoder
        self._chooses_frames = decoder is not None and media == "video"
        self._graph = _clip_graph(
            clip,
            augmentation,
            decoder,
            media,
            batch_size=batch_size,
            num_threads=threads,
            device_id=device,
            prefetch_queue_depth=1,
            exec_async=False,
            exec_pipelined=False,
        )
        self._graph.build()

    def run(
        self, videos: Sequence[NDArray[np.uint8]], views: Sequence[View], frames: Sequence[NDArray[np.int64]]
    ) -> Tensor:
        """One batch, or less; ``frames`` [F] per sample are the indices to decode.

        The pixels lie in memory that the next run writes to. Raises RuntimeError if DALI cannot decode.
        """
        numbers = np.array(views, dtype=np.int32)
        self._graph.feed_input("videos", list(videos))
        for name, part in (WINDOW | FLIPS if self._decoder else FLIPS).items():
            self._graph.feed_input(name, np.ascontiguousarray(numbers[:, part]))
        if self._chooses_frames:
            self._graph.feed_input("frames", np.stack(frames).astype(np.int32))
        (pixels,) = self._graph.run()
        return from_dlpack(pixels.as_tensor())


@pipeline_def  # type: ignore[untyped-decorator]
def _clip_graph(clip: ClipConfig, augmentation: AugmentationConfig, decoder: Decoder | None, media: Media) -> Any:
    flips = _numbers("flips")
    pixels = _source(decoder, media)
    if decoder:
        pixels = fn.slice(pixels, start=_numbers("starts"), shape=_numbers("shapes"), axis_names="HW")
    # Flipping bytes is cheaper than flipping floats, and bilinear interpolation is symmetric.
    pixels = fn.flip(pixels, horizontal=flips[0], vertical=flips[1])
    pixels = fn.resize(
        pixels, size=[clip.size, clip.size], interp_type=types.INTERP_LINEAR, antialias=False, dtype=types.FLOAT
    )
    return fn.crop_mirror_normalize(
        pixels,
        mean=[255 * value for value in augmentation.mean],
        std=[255 * value for value in augmentation.std],
        dtype=types.FLOAT,
        output_layout="CFHW",
    )


def _numbers(name: str) -> Any:
    return fn.external_source(name=name, dtype=types.INT32, ndim=1)


def _source(decoder: Decoder | None, media: Media) -> Any:
    """Frames FHWC."""
    if decoder is None:
        return fn.external_source(name="videos", dtype=types.UINT8, ndim=4, layout="FHWC", no_copy=True)
    encoded = fn.external_source(name="videos", dtype=types.UINT8, ndim=1)
    if media == "image":
        image = fn.decoders.image(encoded, device=decoder, output_type=types.RGB, adjust_orientation=False)
        return fn.expand_dims(image, axes=0, new_axis_names="F")
    return fn.decoders.video(encoded, device=decoder, frames=_numbers("frames"))
