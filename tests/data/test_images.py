"""Images beside videos: repeated as clips, or in image batches."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from hpc_jepa.config.benchmark import EvaluationClipConfig
from hpc_jepa.config.data import AugmentationConfig, ClipConfig, DataConfig, SourceConfig
from hpc_jepa.data.crop import View
from hpc_jepa.data.dali_pipeline import ClipPipeline
from hpc_jepa.data.decode import CropWindow, decode_frames
from hpc_jepa.data.evaluation_clips import EvaluationClips
from hpc_jepa.data.loader import ClipLoader
from hpc_jepa.data.shards.builder import build_shards, make_recipe
from hpc_jepa.data.shards.shard_folder import ShardFolder
from hpc_jepa.data.sources.source import EncodedFile
from hpc_jepa.data.timeline import inspect_video
from hpc_jepa.errors import UndecodableError

CPU = torch.device("cpu")


def picture(seed: int, height: int = 40, width: int = 56, mode: str = "RGB", form: str = "JPEG") -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse.repeat(8, 0).repeat(8, 1)).convert(mode).save(file, form)
    return file.getvalue()


@pytest.fixture(scope="module")
def images(listed, built, tmp_path_factory):
    return built(
        listed(tuple(EncodedFile(picture(seed)) for seed in range(12))), tmp_path_factory.mktemp("i") / "images"
    )


@pytest.fixture(scope="module")
def mixed(shards, images):
    def make(how: str, **more) -> DataConfig:
        return DataConfig(
            sources={
                "videos": SourceConfig(shards=shards / "train", weight=0.6),
                "images": SourceConfig(shards=images, weight=0.4),
            },
            clip=ClipConfig(frames=4, stride=2, size=16),
            images=how,
            **more,
        )

    return make


def loader(data, rank=0, world_size=1, seed=5):
    return ClipLoader(data, seed=seed, batch_size=8, rank=rank, world_size=world_size, device=CPU)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_images_of_any_mode_decode_to_rgb(mode):
    file = picture(3, mode=mode)
    frames = decode_frames(file, [0, 0])
    assert frames.shape == (2, 40, 56, 3)
    expected = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
    np.testing.assert_array_equal(frames[1], expected)
    part = decode_frames(file, [0], CropWindow(slice(3, 20), slice(5, 40), 40, 56))
    np.testing.assert_array_equal(part[0], expected[3:20, 5:40])
    assert inspect_video(file)[:4] == (1, 0.0, 56, 40)


def test_an_image_has_one_frame_and_its_metadata_size():
    with pytest.raises(UndecodableError, match="frame 1 "):
        decode_frames(picture(1), [0, 1])
    with pytest.raises(UndecodableError, match=r"56x40.* 56x41"):
        decode_frames(picture(1), [0], CropWindow(slice(0, 8), slice(0, 8), 41, 56))


def test_an_image_is_a_static_clip(mixed):
    batch = loader(mixed("clips")).batch(3)
    assert batch.pixels.shape == (8, 3, 4, 16, 16)
    assert batch.static.any() and not batch.static.all()
    assert torch.equal(batch.static, batch.sources == 1)
    still = batch.pixels[batch.static]
    assert torch.equal(still, still[:, :, :1].expand_as(still))
    assert (batch.pixels[~batch.static].diff(dim=2) != 0).any()


def test_image_batches_hold_images_only(mixed):
    made = loader(mixed("batches"))
    frames = []
    for step in range(40):
        batch = made.batch(step)
        assert batch.static.all() or not batch.static.any()
        assert batch.pixels.shape == (8, 3, 1 if batch.static[0] else 4, 16, 16)
        frames.append(batch.pixels.shape[2])
    assert 8 <= frames.count(1) <= 24  # 40 steps, a share of 0.4

    halves = [loader(mixed("batches"), rank, 2) for rank in (0, 1)]
    for step in (frames.index(1), frames.index(4)):
        assert torch.equal(made.batch(step).pixels, torch.cat([half.batch(step).pixels for half in halves]))


def test_dali_decodes_images_like_pillow(images):
    files = [ShardFolder(images).read(index).data for index in range(4)]
    views = [View(0, 0, 40, 56, False, False), View(3, 5, 20, 31, True, False), View(8, 0, 30, 30, False, True)]
    views.append(View(1, 1, 12, 50, True, True))
    clip, augmentation = ClipConfig(frames=4, stride=1, size=24), AugmentationConfig()
    nothing = [np.zeros(1, np.int64)] * 4
    by_dali = ClipPipeline(clip, augmentation, 4, decoder="cpu", media="image").run(
        [np.frombuffer(file, np.uint8) for file in files], views, nothing
    )
    cut = [decode_frames(f, [0], CropWindow(*v.window, 40, 56)) for f, v in zip(files, views, strict=True)]
    by_pillow = ClipPipeline(clip, augmentation, 4).run(cut, views, nothing)
    assert by_dali.shape == (4, 3, 1, 24, 24)
    assert (by_dali - by_pillow).abs().mean() < 0.05


def test_evaluation_resizes_images_like_torchvision(images, listed, built, tmp_path):
    clip = EvaluationClipConfig(frames=4, size=24, mean=(0, 0, 0), std=(1, 1, 1))
    pixels = torch.cat([part for part, _, _ in EvaluationClips(images, clip, batch_size=5)])
    assert pixels.shape == (12, 3, 4, 24, 24)
    assert torch.equal(pixels[:, :, 0], pixels[:, :, 3])
    # 56 x 40 -> 33 x 24, columns 4 (half of 9, rounded to even) to 27.
    image = Image.open(io.BytesIO(ShardFolder(images).read(7).data)).resize((33, 24), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(pixels[7, :, 0].permute(1, 2, 0), np.asarray(image)[:, 4:28] / 255.0, atol=1e-6)


def saved(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


GRADIENT = np.stack(np.broadcast_arrays(*np.ogrid[0:240:90j, 0:250:160j], 128), axis=-1).astype(np.uint8)

STILLS = {
    "webp": ("jpg", {}),
    "lossless webp": ("jpg", {"lossless": True}),
    "bmp": ("png", {}),
    "gif": ("png", {}),
    "tiff": ("png", {}),
    "tiff with jpeg": ("png", {"compression": "jpeg"}),
    "jpeg2000": ("jpg", {}),
    "avif": ("jpg", {}),
    "ppm": ("png", {}),
}


@pytest.mark.parametrize("name", STILLS)
def test_still_images_of_other_kinds_stay_images_of_their_size(name, listed, built, tmp_path):
    extension, options = STILLS[name]
    image = Image.fromarray(GRADIENT)
    form = name.replace("lossless ", "").partition(" ")[0]
    file = saved(image.quantize(128) if form == "gif" else image, form.upper(), **options)
    folder = ShardFolder(built(listed((EncodedFile(file),)), tmp_path / "images"))
    data, info = folder.read(0)
    assert (info.frames, info.width, info.height, info.stored) == (1, 160, 90, "transcoded")
    assert info.is_image and info.codec == {"jpg": "jpeg", "png": "png"}[extension]
    expected = np.asarray(Image.open(io.BytesIO(file)).convert("RGB")).astype(int)
    frame = decode_frames(data, [0])[0]
    if extension == "png":
        np.testing.assert_array_equal(frame, expected)
    assert np.abs(frame - expected).mean() < 2
    assert list(folder.manifest.stored) == [f"transcoded: codec {form}"]


@pytest.mark.parametrize("mode", ["copy", "transcode"])
def test_16_bit_grey_keeps_its_range(mode, listed, tmp_path):
    ramp = np.linspace(0, 65535, 64 * 48).astype(np.uint16).reshape(48, 64)
    files = (saved(Image.fromarray(ramp), "PNG"), saved(Image.fromarray(ramp), "TIFF"))
    files += (saved(Image.fromarray(ramp.astype(">u2")), "TIFF"),)
    source = listed(tuple(map(EncodedFile, files)))
    recipe = make_recipe(source, 10).model_copy(update={"mode": mode})
    build_shards(source, tmp_path / "grey", recipe, 0, lambda samples: None)
    folder = ShardFolder(tmp_path / "grey")
    for index in range(3):
        frame = decode_frames(folder.read(index).data, [0])[0]
        assert np.abs(frame - (ramp // 257)[..., None].astype(int)).max() <= 4


@pytest.mark.parametrize("mode", ["I", "F"])
def test_grey_of_unknown_range_is_left_out_with_a_reason(mode, listed, built, tmp_path):
    files = (picture(0), saved(Image.new(mode, (32, 32), 1000), "TIFF"))
    folder = built(listed(tuple(map(EncodedFile, files))), tmp_path / "images")
    assert len(ShardFolder(folder)) == 1
    assert f"mode {mode}" in (folder / "ledger.jsonl").read_text()


def animation(form):
    frames = [Image.fromarray(np.full((32, 48, 3), 8 + 20 * number, np.uint8)) for number in range(10)]
    return saved(frames[0], form, save_all=True, append_images=frames[1:], duration=100)


@pytest.mark.parametrize("form", ["WEBP", "AVIF"])
def test_an_animation_that_ffmpeg_does_not_read_is_left_out(form, listed, built, tmp_path):
    folder = built(listed((EncodedFile(picture(0)), EncodedFile(animation(form)))), tmp_path / "images")
    assert len(ShardFolder(folder)) == 1
    assert f"animated {form}" in (folder / "ledger.jsonl").read_text()


@pytest.mark.parametrize("form", ["GIF", "PNG"])
def test_an_animation_is_a_video(form, listed, built, tmp_path):
    file = animation(form)
    data, info = ShardFolder(built(listed((EncodedFile(file),)), tmp_path / "train")).read(0)
    assert (info.frames, info.width, info.height, info.codec) == (10, 48, 32, "h264")
    means = decode_frames(data, range(10)).mean((1, 2, 3))
    np.testing.assert_allclose(means, [8 + 20 * number for number in range(10)], atol=3)


def test_a_damaged_still_image_is_left_out(listed, built, tmp_path):
    heif = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)
    files = (picture(0), saved(Image.fromarray(GRADIENT), "WEBP")[:200], saved(Image.fromarray(GRADIENT), "BMP")[:900])
    files += (saved(Image.fromarray(GRADIENT), "PNG")[:20], heif)
    folder = built(listed(tuple(map(EncodedFile, files))), tmp_path / "images")
    assert len(ShardFolder(folder)) == 1
    reasons = (folder / "ledger.jsonl").read_text()
    assert reasons.count("\n") == 4 and "HEIF" in reasons
    assert " at 0x" not in reasons
