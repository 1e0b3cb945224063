"""Data sources: encoded files in each layout with the original annotation formats."""

import csv
import ctypes
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from hpc_jepa.cli.shards import app
from hpc_jepa.data.decode import decode_frames
from hpc_jepa.data.shards.manifest import read_manifest
from hpc_jepa.data.shards.shard_folder import ShardFolder
from hpc_jepa.data.sources.layouts import LAYOUTS
from hpc_jepa.errors import DataError, InputError

WIDTH, HEIGHT, RATE = 48, 32, 25
PR_CAPBSET_DROP = 24
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2


def video(codec, container, frames=12, seed=0, **options):
    """Frames of one grey each: 10, 20, 30, ... so that a frame can be told by its brightness."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(frames):
            pixels = np.full((HEIGHT, WIDTH, 3), 10 + 10 * (number % 24), np.uint8)
            pixels[:4, :4] = seed
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        output.mux(stream.encode())
    return file.getvalue()


def avi(**what):
    return video("mpeg4", "avi", **what)


def webm(**what):
    return video("libvpx-vp9", "webm", deadline="realtime", **{"cpu-used": "8"}, **what)


def mp4(**what):
    return video("libx264", "mp4", preset="ultrafast", **what)


def jpeg(mode="RGB", seed=0):
    file = io.BytesIO()
    Image.fromarray(np.full((40, 60, 3), seed, np.uint8)).convert(mode).save(file, "JPEG")
    return file.getvalue()


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def ucf101(root):
    for number, name in enumerate(("ApplyEyeMakeup", "Archery")):
        for group in (1, 8, 9):
            put(root / "videos" / name / f"v_{name}_g{group:02d}_c01.avi", avi(seed=10 * number + group))
    lists = root / "annotations" / "ucfTrainTestlist"
    put(lists / "classInd.txt", "1 ApplyEyeMakeup\r\n2 Archery\r\n")
    names = ("ApplyEyeMakeup", "Archery")
    train = [f"{name}/v_{name}_g{group:02d}_c01.avi {names.index(name) + 1}" for name in names for group in (8, 9)]
    put(lists / "trainlist01.txt", "\r\n".join(train) + "\r\n")
    put(lists / "testlist01.txt", "".join(f"{name}/v_{name}_g01_c01.avi\n" for name in names))


def something(root):
    for number in range(1, 7):
        put(root / "videos" / f"{number}.webm", webm(seed=number))
    labels = {"Holding something next to something": "0", "Pushing something": "1"}
    holding = "Holding [something] next to [something]"

    def record(number):
        if number % 2:
            return {
                "id": str(number),
                "label": "pushing cup",
                "template": "Pushing [something]",
                "placeholders": ["cup"],
            }
        sentence = "holding potato next to vicks bottle"
        return {"id": str(number), "label": sentence, "template": holding, "placeholders": ["potato", "vicks bottle"]}

    put(root / "annotations" / "labels.json", json.dumps(labels))
    put(root / "annotations" / "train.json", json.dumps([record(number) for number in (1, 2, 3)]))
    put(root / "annotations" / "validation.json", json.dumps([record(number) for number in (4, 5)]))
    put(root / "annotations" / "test.json", json.dumps([{"id": "6"}]))


def imagenet100(root):
    for number, wnid in enumerate(("n01440764", "n02085620", "n99999999")):
        for image in range(2):
            put(root / "videos" / "train" / wnid / f"{wnid}_{image}.JPEG", jpeg(seed=50 * number + image))
        put(root / "videos" / "val" / wnid / f"ILSVRC2012_val_0000000{number}.JPEG", jpeg(seed=200 + number))
    put(root / "videos" / "train" / "n01440764" / "n01440764_9.JPEG", jpeg("CMYK"))
    put(root / "annotations" / "imagenet100.txt", "n02085620 Chihuahua\nn01440764 tench\n")


def diving48(root):
    for number in range(5):
        put(root / "videos" / f"_8Vy3dlHg2w_0000{number}.mp4", mp4(seed=number))

    def records(numbers):
        return [
            {"vid_name": f"_8Vy3dlHg2w_0000{number}", "label": number % 2, "start_frame": 0, "end_frame": 12}
            for number in numbers
        ]

    put(root / "annotations" / "Diving48_V2_train.json", json.dumps(records((0, 1, 2))))
    put(root / "annotations" / "Diving48_V2_test.json", json.dumps(records((3, 4))))
    put(
        root / "annotations" / "Diving48_vocab.json",
        json.dumps([["Back", "15som", "05Twis", "FREE"], ["Back", "Dive"]]),
    )


def kinetics400(root):
    put(root / "videos" / "train" / "air drumming" / "-0abcdefghi_000010_000020.mp4", mp4(seed=1))
    put(root / "videos" / "train" / "zumba" / "0bcdefghij_.mp4", mp4(frames=75, seed=2))
    put(root / "videos" / "val" / "zumba" / "cccccccccc-_000003_000013.mp4", mp4(seed=3))
    rows = [("air drumming", "-0abcdefghi", 10, 20, "train"), ("zumba", "0bcdefghij_", 1, 2, "train")]
    header = "label,youtube_id,time_start,time_end,split\n"
    put(root / "annotations" / "train.csv", header + "".join(f"{','.join(map(str, row))}\n" for row in rows))
    put(root / "annotations" / "val.csv", header + "zumba,cccccccccc-,3,13,val\n")


def hacs(root):
    put(root / "videos" / "Archery" / "v_aaaaaaaaaaa.mp4", mp4(frames=100, seed=1))
    put(root / "videos" / "v_bbbbb_bbbb-_1.0_3.0.mp4", mp4(seed=2))
    put(root / "videos" / "v_ccccccccccc.mp4", mp4(frames=60, seed=3))
    rows = [
        ("Archery", "aaaaaaaaaaa", "training", "1.0", "3.0", "1"),
        ("Archery", "aaaaaaaaaaa", "training", "2.0", "4.0", "1"),
        ("Archery", "aaaaaaaaaaa", "training", "0.0", "2.0", "-1"),
        ("Zumba", "bbbbb_bbbb-", "validation", "1.0", "3.0", "1"),
        ("Zumba", "ccccccccccc", "validation", "0.4", "2.4", "1"),
    ]
    header = "classname,youtube_id,subset,start,end,label\n"
    put(root / "annotations" / "HACS_clips_v1.1.1.csv", header + "".join(f"{','.join(row)}\n" for row in rows))


LAYOUT_MAKERS = {
    "ucf101": ucf101,
    "something-something-v2": something,
    "imagenet100": imagenet100,
    "diving48": diving48,
    "kinetics400": kinetics400,
    "hacs": hacs,
}


@pytest.fixture
def build(tmp_path):
    """Build a layout by the command; returns its splits."""

    def _build(name, *options, root=tmp_path):
        out = root / "out"
        places = ["--videos", root / "videos", "--annotations", root / "annotations", "--out", out]
        words = ["build", name, *places, "--workers", "1", *options]
        result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return {path.parent.name: ShardFolder(path.parent) for path in sorted(out.glob("*/manifest.json"))}

    return _build


def infos(folder):
    return {folder.key(index): folder.info(index) for index in range(len(folder))}


def files(folder):
    return {folder.key(index): folder.read(index).data for index in range(len(folder))}


def brightness(data, frames):
    return decode_frames(data, list(frames))[:, 16, 24].mean(axis=-1).round(-1).tolist()


def test_all_layouts_have_a_test():
    assert set(LAYOUTS) == {*LAYOUT_MAKERS, "folder", "csv"}


def test_ucf101(build, tmp_path):
    ucf101(tmp_path)
    splits = build("ucf101")
    assert {name: len(folder) for name, folder in splits.items()} == {"test": 2, "train": 4}
    assert splits["train"].manifest.classes == ("ApplyEyeMakeup", "Archery")
    info = infos(splits["train"])["v_Archery_g09_c01"]
    assert (info.label, info.class_name, info.text) == (1, "Archery", "Archery")
    assert (info.frames, info.fps, info.width, info.height, info.codec) == (12, 25, 48, 32, "mpeg4")
    assert (info.file, info.stored) == ("Archery/v_Archery_g09_c01.avi", "copied")
    original = (tmp_path / "videos" / info.file).read_bytes()
    assert files(splits["train"])["v_Archery_g09_c01"] == original


def test_something_something_v2(build, tmp_path):
    something(tmp_path)
    splits = build("something-something-v2")
    assert {name: len(folder) for name, folder in splits.items()} == {"test": 1, "train": 3, "validation": 2}
    info = infos(splits["validation"])["4"]
    assert (info.label, info.class_name) == (0, "Holding something next to something")
    assert info.text == "holding potato next to vicks bottle"
    assert info.template == "Holding [something] next to [something]"
    assert info.placeholders == ("potato", "vicks bottle")
    assert infos(splits["train"])["3"].label == 1
    test = infos(splits["test"])["6"]
    assert (test.label, test.text, test.codec, test.fps) == (None, None, "vp9", 25)


def test_imagenet100(build, tmp_path):
    imagenet100(tmp_path)
    splits = build("imagenet100")
    assert {name: len(folder) for name, folder in splits.items()} == {"train": 5, "validation": 2}
    assert splits["train"].manifest.classes == ("tench", "Chihuahua")
    info = infos(splits["train"])["n02085620_1"]
    assert (info.label, info.frames, info.fps, info.width, info.height) == (1, 1, 0, 60, 40)
    assert info.is_image and info.stored == "copied"
    assert files(splits["train"])["n02085620_1"] == jpeg(seed=51)
    assert infos(splits["train"])["n01440764_9"].stored == "transcoded"  # CMYK
    assert splits["train"].manifest.stored == {"copied": 4, "transcoded: pixels CMYK": 1}
    assert infos(splits["validation"])["n01440764_ILSVRC2012_val_00000000"].label == 0
    assert len((tmp_path / "out" / "unannotated.txt").read_text().splitlines()) == 3


def test_diving48(build, tmp_path):
    diving48(tmp_path)
    splits = build("diving48")
    assert {name: len(folder) for name, folder in splits.items()} == {"test": 2, "train": 3}
    info = infos(splits["test"])["_8Vy3dlHg2w_00004"]
    assert (info.label, info.class_name, info.codec) == (0, "Back 15som 05Twis FREE", "h264")


def test_kinetics400_is_cut_to_the_annotated_interval(build, tmp_path):
    kinetics400(tmp_path)
    splits = build("kinetics400")
    train = infos(splits["train"])
    assert (train["-0abcdefghi_000010_000020"].frames, train["-0abcdefghi_000010_000020"].stored) == (12, "copied")
    cut = train["0bcdefghij__000001_000002"]
    assert (cut.frames, cut.start, cut.end, cut.label, cut.stored) == (25, 1, 2, 1, "transcoded")
    assert brightness(files(splits["train"])["0bcdefghij__000001_000002"], (0, 22, 24)) == [20, 240, 20]
    assert list(infos(splits["validation"])) == ["cccccccccc-_000003_000013"]


def test_hacs_keeps_clips_with_the_action(build, tmp_path):
    hacs(tmp_path)
    splits = build("hacs")
    assert {name: len(folder) for name, folder in splits.items()} == {"train": 2, "validation": 2}
    assert splits["train"].manifest.classes == ("Archery", "Zumba")
    train, validation = infos(splits["train"]), infos(splits["validation"])
    assert [(train[f"v_aaaaaaaaaaa_{key}"].start, train[f"v_aaaaaaaaaaa_{key}"].frames) for key in ("1_3", "2_4")] == [
        (1, 50),
        (2, 50),
    ]
    assert validation["v_bbbbb_bbbb-_1_3"].stored == "copied"
    assert brightness(files(splits["validation"])["v_ccccccccccc_0_4_2_4"], (0, 13)) == [110, 240]


def test_class_folders(build, tmp_path):
    put(tmp_path / "videos" / "train" / "cats" / "a.b.mp4", mp4(seed=1))
    put(tmp_path / "videos" / "train" / "dogs" / "a b.webm", webm(seed=2))
    put(tmp_path / "videos" / "val" / "dogs" / "x.jpg", jpeg(seed=3))
    put(tmp_path / "videos" / "val" / ".hidden" / "x.jpg", jpeg(seed=3))
    splits = build("folder")
    assert {name: infos(folder)[folder.key(0)].class_name for name, folder in splits.items()}["validation"] == "dogs"
    assert {key: info.label for key, info in infos(splits["train"]).items()} == {"cats-a_b": 0, "dogs-a_b": 1}


def test_csv_table(build, tmp_path):
    for number in range(4):
        put(tmp_path / "videos" / "deep" / f"{number}.mp4", mp4(frames=50, seed=number))
    rows = [
        {"file": "deep/0.mp4", "label": "jump", "text": "somebody jumps", "start": "", "end": "", "split": "train"},
        {"file": "deep/1.mp4", "label": "run", "text": "", "start": "0.4", "end": "1.4", "split": "train"},
        {"file": "deep/2.mp4", "label": "", "text": "", "start": "", "end": "", "split": "extra"},
    ]
    with (tmp_path / "annotations").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    splits = build("csv")
    train = infos(splits["train"])
    assert (train["deep_0"].label, train["deep_0"].text) == (0, "somebody jumps")
    assert (train["deep_1_0_4_1_4"].label, train["deep_1_0_4_1_4"].text) == (1, "run")
    assert train["deep_1_0_4_1_4"].frames == 25
    assert infos(splits["extra"])["deep_2"].label is None
    assert (tmp_path / "out" / "unannotated.txt").read_text() == "deep/3.mp4\n"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file,label\n,x\na.mp4,y\n", r"annotations: file ''"),
        ("file,split\na.mp4,../../elsewhere\n", r"annotations: split '\.\./\.\./elsewhere'"),
        ("file,split\na.mp4,.\n", r"annotations: split '\.'"),
        ("file,label\na.mp4,99999999999\n", "annotations: label 99999999999 "),
        ("file,start\na.mp4,nan\n", "annotations: start 'nan'"),
        ("file,end\na.mp4,1e300\n", "annotations: end '1e300'"),
        ("file,start\na.mp4,-5\n", r"annotations: start -5 of a\.mp4"),
        (f"file,text\na.mp4,{'x' * 200_000}\n", r"annotations:2: "),
    ],
)
def test_invalid_csv_values_are_errors_before_anything_is_written(build, tmp_path, table, message):
    put(tmp_path / "videos" / "a.mp4", mp4())
    put(tmp_path / "annotations", table)
    with pytest.raises(InputError, match=message):
        build("csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["annotations", "videos"]


def test_multiline_captions_and_non_ascii_digits(build, tmp_path):
    put(tmp_path / "videos" / "a.mp4", mp4())
    put(tmp_path / "annotations", 'file,label,text\na.mp4,²,"one\ntwo"\n')
    info = build("csv")["train"].info(0)
    assert (info.class_name, info.text) == ("²", "one\ntwo")


def test_link_loops_are_not_followed(build, tmp_path):
    put(tmp_path / "videos" / "cats" / "a.mp4", mp4(seed=1))
    put(tmp_path / "elsewhere" / "b.mp4", mp4(seed=2))
    (tmp_path / "videos" / "dogs").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "videos" / "cats" / "loop").symlink_to("..")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "videos")
    assert sorted(infos(build("folder")["train"])) == ["cats-a", "dogs-b"]


def test_names_that_are_not_utf8_are_errors(build, tmp_path):
    put(tmp_path / "videos" / os.fsdecode(b"cl\xff") / "a.mp4", mp4())
    with pytest.raises(InputError, match=r"videos: .*'cl\\xff/a\.mp4'"):
        build("folder")


def test_empty_annotations_are_errors(build, tmp_path):
    ucf101(tmp_path)
    for name in ("trainlist01.txt", "testlist01.txt"):
        put(tmp_path / "annotations" / "ucfTrainTestlist" / name, "")
    with pytest.raises(InputError, match=r"ucf101 .*--annotations"):
        build("ucf101")


def test_missing_files_are_counted_listed_and_limited(build, tmp_path):
    ucf101(tmp_path)
    (tmp_path / "videos" / "Archery" / "v_Archery_g09_c01.avi").unlink()
    splits = build("ucf101", "--allowed-drops", "0.05")
    assert (len(splits["train"]), splits["train"].manifest.dropped) == (3, 1)
    print((splits["train"].path / "ledger.jsonl").read_text())
    ledger = json.loads((splits["train"].path / "ledger.jsonl").read_text())
    assert ledger["key"] == "v_Archery_g09_c01"
    with pytest.raises(InputError, match=r"1 of 6 .*g09_c01; .*--allowed-drops 0;"):
        build("ucf101", "--allowed-drops", "0", "--out", tmp_path / "other")


@pytest.mark.parametrize(
    ("layout", "asked", "message"),
    [
        ("ucf101", "diving48", r"Diving48_vocab\.json.* ucfTrainTestlist.*--annotations"),
        ("something-something-v2", "ucf101", r"classInd\.txt.* labels\.json, test\.json"),
        ("hacs", "kinetics400", r"HACS_clips.*csv:1: .*'time_start'.* classname"),
        ("diving48", "imagenet100", r"Labels\.json or .*txt.* Diving48_V2_test\.json"),
        ("kinetics400", "hacs", r"HACS_clips_v1\.1\.1\.csv or HACS_clips\*\.csv.* train\.csv"),
    ],
)
def test_annotations_of_another_data_set_are_errors(build, tmp_path, layout, asked, message):
    LAYOUT_MAKERS[layout](tmp_path)
    with pytest.raises(InputError, match=message):
        build(asked)
    assert not (tmp_path / "out").exists()


def test_videos_of_another_data_set_are_errors(build, tmp_path):
    ucf101(tmp_path)
    something(tmp_path / "other")
    with pytest.raises(InputError, match=r"none of 6 .*ucf101 .*Class/.* 6 \.webm"):
        build("ucf101", "--videos", tmp_path / "other" / "videos")
    with pytest.raises(InputError, match=r"nowhere: .*No such file or directory.*--videos"):
        build("ucf101", "--videos", tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("classInd.txt", "0 A\n", r"classInd\.txt: "),
        ("trainlist01.txt", "Nope/v_Nope_g01_c01.avi 1\n", r"trainlist01\.txt:1: .*'Nope'"),
        ("classInd.txt", b"\xff\xfe\x00", r"classInd\.txt: "),
    ],
)
def test_damaged_annotations_name_file_and_line(build, tmp_path, file, text, message):
    ucf101(tmp_path)
    put(tmp_path / "annotations" / "ucfTrainTestlist" / file, text)
    with pytest.raises(InputError, match=message):
        build("ucf101")


def test_a_broken_json_annotation_names_the_line(build, tmp_path):
    something(tmp_path)
    put(tmp_path / "annotations" / "train.json", '[{"id": "1",\n "label" oops}]')
    with pytest.raises(InputError, match=r"train\.json:2: "):
        build("something-something-v2")
    put(tmp_path / "annotations" / "train.json", '[{"id": "1", "label": "x", "placeholders": []}]')
    with pytest.raises(InputError, match=r"train\.json: record 0 .*'template'"):
        build("something-something-v2")


def count_file_modes():
    """For root too: the program that this process starts never gets the capabilities that override them."""
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        assert os.geteuid() or ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0


def test_unreadable_files_are_listed_in_the_ledger(tmp_path):
    ucf101(tmp_path)
    (tmp_path / "videos" / "Archery" / "v_Archery_g09_c01.avi").chmod(0)
    command = [sys.executable, "-m", "hpc_jepa", "shards", "build", "ucf101", "--workers", "1", "--out", "out"]
    places = ["--videos", "videos", "--annotations", "annotations"]
    subprocess.run([*command, *places], cwd=tmp_path, preexec_fn=count_file_modes, check=True, capture_output=True)
    ledger = json.loads((tmp_path / "out" / "train" / "ledger.jsonl").read_text())
    assert "Permission denied" in ledger["reason"]


def test_equal_videos_in_train_and_test_are_reported(build, tmp_path):
    ucf101(tmp_path)
    videos = tmp_path / "videos" / "Archery"
    put(videos / "v_Archery_g01_c01.avi", (videos / "v_Archery_g08_c01.avi").read_bytes())
    build("ucf101")
    found = [json.loads(line) for line in (tmp_path / "out" / "duplicates.jsonl").read_text().splitlines()]
    assert [sorted((place["split"], place["key"]) for place in line["samples"]) for line in found] == [
        [("test", "v_Archery_g01_c01"), ("train", "v_Archery_g08_c01")]
    ]


def info_command(*words):
    return CliRunner().invoke(app, ["info", *map(str, words)], catch_exceptions=False)


def test_published_counts_are_checked(build, tmp_path):
    diving48(tmp_path)
    build("diving48")
    test = tmp_path / "out" / "test"
    with pytest.raises(DataError, match=r"test: 2 .*1970"):
        info_command(test, "--expect", "published")
    manifest = json.loads((test / "manifest.json").read_text()) | {"samples": 1970}
    (test / "manifest.json").write_text(json.dumps(manifest))
    assert "1,970 samples, as published" in info_command(test, "--expect", "published").output
    assert read_manifest(test).samples == 1970


def test_info_shows_all_splits_of_a_data_set(build, tmp_path):
    ucf101(tmp_path)
    build("ucf101")
    shown = info_command(tmp_path / "out").output
    for words in ("ucf101, train", "ucf101, test", "4 mpeg4", "4 copied", "2: ApplyEyeMakeup, Archery"):
        assert words in shown
    listed = json.loads(info_command(tmp_path / "out", "--json").output)
    assert [manifest["recipe"]["split"] for manifest in listed] == ["test", "train"]
    assert listed[1]["seconds"] == pytest.approx(4 * 12 / 25)
    assert Path(tmp_path / "out" / "train" / "contents.jsonl").read_text().count("\n") == 4
