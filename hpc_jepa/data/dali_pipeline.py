"""The DALI pipeline: crop, flip, resize, normalise. It is stateless: each sample comes with its crop and flips.

DALI is an optional package: it is imported when the first pipeline is built.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from hpc_jepa.config.data import AugmentationConfig, ClipConfig
from hpc_jepa.data.crop import View
from hpc_jepa.errors import InputError

Decoder = Literal["cpu", "mixed"]
Media = Literal["video", "image"]

WINDOW = {"starts": slice(0, 2), "shapes": slice(2, 4)}
FLIPS = {"flips": slice(4, 6)}
"""Inputs of the pipeline, and the fields of a view they hold."""


class ClipPipeline:
    """Videos and views of one batch -> normalised pixels [B, C, F, size, size] float32; F is the same in a batch.

    Without ``decoder`` a video is its chosen frames, cropped to its view: uint8 [F, h, w, 3]. With one it is a
    compressed file, uint8 [bytes]; DALI decodes the chosen frames and crops them, ``mixed`` on the GPU, ``cpu`` (VP8,
    VP9 and MJPEG only) on the host. With ``media`` "image" it decodes JPEG and PNG files. DALI converts all colours by
    BT.601: videos of another matrix come out wrong. ``threads``: on the GPU each thread decodes one video at a time
    with a decoder of its own.

    Raises InputError if DALI is not installed.
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
        self._selects_frames = decoder is not None and media == "video"
        dali = import_dali()
        self._pipeline = dali.Pipeline(
            batch_size=batch_size,
            num_threads=threads,
            device_id=device,
            prefetch_queue_depth=1,
            exec_async=False,
            exec_pipelined=False,
        )
        with self._pipeline:
            self._pipeline.set_outputs(_pixels(dali, clip, augmentation, decoder, media))
        self._pipeline.build()

    def run(
        self, videos: Sequence[NDArray[np.uint8]], views: Sequence[View], frames: Sequence[NDArray[np.int64]]
    ) -> Tensor:
        """Pixels of at most ``batch_size`` samples; ``frames`` [F] are the frame indices each sample decodes.

        The next run overwrites the memory of the pixels. Raises RuntimeError if DALI cannot decode.
        """
        values = np.array(views, dtype=np.int32)
        self._pipeline.feed_input("videos", list(videos))
        for name, part in (WINDOW | FLIPS if self._decoder else FLIPS).items():
            self._pipeline.feed_input(name, np.ascontiguousarray(values[:, part]))
        if self._selects_frames:
            self._pipeline.feed_input("frames", np.stack(frames).astype(np.int32))
        (pixels,) = self._pipeline.run()
        return from_dlpack(pixels.as_tensor())


def import_dali() -> Any:
    """The package of DALI, which an extra of this one installs. Raises InputError if it cannot be imported."""
    try:
        import nvidia.dali
        import nvidia.dali.fn
        import nvidia.dali.types
    except (ImportError, OSError) as error:
        raise InputError(
            f"NVIDIA DALI, which makes the clips, cannot be imported ({error}); "
            "run: pip install 'hpc_jepa[cuda13]' (or cuda12, for drivers before 580; cpu without a GPU)"
        ) from error
    return nvidia.dali


def _pixels(
    dali: Any,
    clip: ClipConfig,
    augmentation: AugmentationConfig,
    decoder: Decoder | None,
    media: Media,
) -> Any:
    """The graph: normalised pixels, CFHW."""
    fn, types = dali.fn, dali.types
    flips = _int_input(dali, "flips")
    pixels = _frames(dali, decoder, media)
    if decoder:
        starts, shapes = _int_input(dali, "starts"), _int_input(dali, "shapes")
        pixels = fn.slice(pixels, start=starts, shape=shapes, axis_names="HW")
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


def _int_input(dali: Any, name: str) -> Any:
    return dali.fn.external_source(name=name, dtype=dali.types.INT32, ndim=1)


def _frames(dali: Any, decoder: Decoder | None, media: Media) -> Any:
    """Decoded frames, FHWC."""
    fn, types = dali.fn, dali.types
    if decoder is None:
        return fn.external_source(name="videos", dtype=types.UINT8, ndim=4, layout="FHWC", no_copy=True)
    encoded = fn.external_source(name="videos", dtype=types.UINT8, ndim=1)
    if media == "image":
        image = fn.decoders.image(encoded, device=decoder, output_type=types.RGB, adjust_orientation=False)
        return fn.expand_dims(image, axes=0, new_axis_names="F")
    # Pinning threads to cores, DALI's default, would put those of all processes of a node on the same cores.
    return fn.decoders.video(encoded, device=decoder, frames=_int_input(dali, "frames"), affine=False)
