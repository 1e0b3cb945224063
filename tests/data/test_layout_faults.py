"""Data sets as people have them: other spellings, lists and paths are read, and everything that is missing is named."""

import io
import json
import os
from pathlib import Path

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from hpc_jepa.cli.shards import app
from hpc_jepa.data.sources.annotated_files import is_cut
from hpc_jepa.data.sources.layout_faults import find_faults
from hpc_jepa.data.sources.layouts import LAYOUTS
from hpc_jepa.errors import InputError, UndecodableError

VIDEO_ID = "-0abcdefgh_"


def put(root, files):
    """Write files by path; a list of paths gets one byte each."""
    for path, text in (files if isinstance(files, dict) else dict.fromkeys(files, "x")).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


@pytest.fixture
def listed(tmp_path):
    """List a data set of the given files and annotations."""

    def _listed(layout, files, annotations):
        (tmp_path / "videos").mkdir(exist_ok=True)
        put(tmp_path / "videos", files)
        put(tmp_path / "annotations", annotations)
        return LAYOUTS[layout][1](tmp_path / "videos", tmp_path / "annotations")

    return _listed


def chosen(listing):
    return [entry.file for entry in listing.entries]


def faults(listing, allowed=0.05, splits=()):
    """Text of every fault, and whether it stops the build."""
    return {str(fault): fault.exceeds(allowed) for fault in find_faults(listing, splits)}


def fault(listing, part, **options):
    """The one fault with ``part`` in its text."""
    (found,) = ((text, stops) for text, stops in faults(listing, **options).items() if part in text)
    return found


UCF = {"classInd.txt": "1 ApplyEyeMakeup\n2 HandstandPushups\n3 YoYo\n"}
UCF_TEST = {"testlist01.txt": "YoYo/v_YoYo_g01_c01.avi\n"}


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("HandstandPushups/v_HandStandPushups_g08_c01.avi", "HandstandPushups/v_HandStandPushups_g08_c01.avi 2"),
        ("HandstandPushups/v_HandstandPushups_g08_c01.avi", "HandstandPushups/v_HandStandPushups_g08_c01.avi 2"),
        ("HandStandPushups/v_HandStandPushups_g08_c01.mp4", "HandStandPushups/v_HandStandPushups_g08_c01.avi 2"),
        ("handstand pushups/v_handstand_pushups_g08_c01.avi", "HandstandPushups/v_HandStandPushups_g08_c01.avi"),
        ("v_HandStandPushups_g08_c01.avi", "v_HandStandPushups_g08_c01.avi 2"),
        ("v_HandStandPushups_g08_c01.avi", "./UCF-101/HandstandPushups/v_HandStandPushups_g08_c01.avi 2"),
        ("v_HandStandPushups_g08_c01.avi", "HandstandPushups\\v_HandStandPushups_g08_c01.avi 2"),
        ("v_HandStandPushups_g08_c01.mp4", "HandstandPushups/v_HandStandPushups_g08_c01.mp4 2"),
    ],
)
def test_ucf101_classes_and_files_are_found_in_any_spelling(listed, file, line):
    listing = listed("ucf101", [file, "YoYo/v_YoYo_g01_c01.avi"], UCF | UCF_TEST | {"trainlist01.txt": line})
    assert chosen(listing)[0] == file
    assert listing.entries[0].label == 1


def test_classes_without_a_file_are_named_and_stop_beyond_the_allowed_share(listed):
    train = "HandstandPushups/v_HandStandPushups_g08_c01.avi 2\nYoYo/v_YoYo_g08_c01.avi 3\n"
    files = ["HandstandPushups/v_Handstand_Exercise_g08_c01.avi", "YoYo/v_YoYo_g08_c01.avi", "YoYo/v_YoYo_g01_c01.avi"]
    listing = listed("ucf101", files, UCF | UCF_TEST | {"trainlist01.txt": train})
    assert fault(listing, "not a single file") == (
        "1 of 2 classes have annotations but not a single file: HandstandPushups",
        True,
    )
    assert not fault(listing, "not a single file", allowed=0.5)[1]
    assert fault(listing, "classes have no sample") == ("1 of 3 classes have no sample: ApplyEyeMakeup", False)
    assert not fault(listing, "annotated files are missing")[1]


@pytest.mark.parametrize("annotated", [True, False])
def test_splits_without_samples_are_named_and_can_be_left_out(listed, annotated):
    test = UCF_TEST if annotated else {"testlist01.txt": "\n"}
    lists = UCF | test | {"trainlist01.txt": "YoYo/v_YoYo_g08_c01.avi 3\n"}
    listing = listed("ucf101", ["YoYo/v_YoYo_g08_c01.avi"], lists)
    text, stops = fault(listing, "splits have not a single sample")
    assert text.startswith("1 of 2") and text.endswith("test") and stops
    assert not any(faults(listing, splits=["train"]).values())


def test_unknown_classes_of_a_list_name_the_line(listed):
    with pytest.raises(InputError, match=r"trainlist01\.txt:1: class 'Juggling'"):
        listed("ucf101", [], UCF | UCF_TEST | {"trainlist01.txt": "Juggling/v_Juggling_g08_c01.avi 4\n"})


KINETICS = "label,youtube_id,time_start,time_end,split\n"
CUT = f"{VIDEO_ID}_000040_000050"


@pytest.mark.parametrize(
    "name",
    [
        f"train/air drumming/{CUT}.mp4",
        f"train/air_drumming/{CUT}.mkv",
        f"{VIDEO_ID}_40_50.mp4",
        f"{VIDEO_ID}_40.0_50.0.mp4",
        f"{VIDEO_ID}-40-50.webm",
        f"{VIDEO_ID}.mp4",
    ],
)
@pytest.mark.parametrize("kind", ["csv", "no split column", "spaces", "semicolons", "json"])
def test_kinetics_files_and_lists_of_every_kind(listed, name, kind):
    table = KINETICS + f'"air drumming",{VIDEO_ID},40,50,train\n'
    record = {"annotations": {"label": "air drumming", "segment": [40.0, 50.0]}, "subset": "train", "url": ""}
    lists = {
        "csv": {"train.csv": table},
        "no split column": {
            "kinetics_train.csv": f"label,youtube_id,time_start,time_end\nair drumming,{VIDEO_ID},40,50\n"
        },
        "spaces": {
            "train.csv": f"Label, YouTube_ID, time_start, time_end, split\nair drumming, {VIDEO_ID}, 40, 50, train\n"
        },
        "semicolons": {"train.csv": table.replace(",", ";")},
        "json": {"train.json": json.dumps({VIDEO_ID: record})},
    }[kind]
    listing = listed("kinetics400", [name], lists)
    (entry,) = listing.entries
    assert (entry.file, entry.key, entry.split, entry.label) == (name, CUT, "train", 0)
    assert (entry.start, entry.end) == ((40, 50) if "_0" not in name and "40" not in name else (None, None))
    assert listing.classes == ("air drumming",)


def test_empty_files_give_way_to_others_of_the_same_name(listed):
    files = {
        f"train/air drumming/{CUT}.mp4": "",
        f"train/air drumming/{CUT}.jpg": "thumbnail",
        f"replacement_for_corrupted_k400/{CUT}.mp4": "x",
    }
    listing = listed("kinetics400", files, {"train.csv": KINETICS + f"air drumming,{VIDEO_ID},40,50,train\n"})
    assert chosen(listing) == [f"replacement_for_corrupted_k400/{CUT}.mp4"]
    text, stops = fault(listing, "are empty and replaced")
    assert text.startswith("1 of 3") and "train/air drumming" in text and not stops
    assert listing.unannotated == [f"train/air drumming/{CUT}.jpg"]


def test_videos_come_before_images_and_folders_match_in_any_spelling(listed):
    names = [f"b/{CUT}.jpg", f"b/{CUT}.mp4", f"shaking_hands/{CUT}.mp4"]
    listing = listed("kinetics400", names, {"train.csv": KINETICS + f"shaking hands,{VIDEO_ID},40,50,train\n"})
    assert chosen(listing) == [names[2]]
    assert not any("empty" in text for text in faults(listing))


def test_classes_that_differ_in_spelling_or_lack_training_samples_are_named(listed):
    ids = [f"{number:011d}" for number in range(3)]
    rows = zip(["air drumming", "air_drumming", "zumba"], ids, ["train", "val", "val"], strict=True)
    table = KINETICS + "".join(f"{name},{video},1,2,{split}\n" for name, video, split in rows)
    listing = listed("kinetics400", [f"{video}.mp4" for video in ids], {"all.csv": table})
    assert fault(listing, "differ")[0].endswith("air drumming / air_drumming")
    assert fault(listing, "none for training")[0].endswith("air_drumming, zumba")


HACS = "classname,youtube_id,subset,start,end,label\n"


@pytest.mark.parametrize(
    ("name", "cut"),
    [
        (f"Hand_washing/v_{VIDEO_ID}_1.0_3.0.mp4", True),
        (f"v_{VIDEO_ID}_1_3.mp4", True),
        (f"{VIDEO_ID}_1.00_3.00.mp4", True),
        (f"v_{VIDEO_ID}.mp4", False),
        (f"Hand_washing/{VIDEO_ID}.mp4", False),
    ],
)
def test_hacs_files_of_every_kind(listed, name, cut):
    table = HACS + f"Hand washing,{VIDEO_ID},training,1.0,3.0,1\n"
    (entry,) = listed("hacs", [name], {"HACS_clips_v1.1.csv": table}).entries
    assert (entry.file, entry.start) == (name, None if cut else 1)


WNIDS = [f"n{number:08d}" for number in (1440764, 1749939, 2869837)]


@pytest.mark.parametrize(
    ("name", "text", "classes"),
    [
        ("imagenet100.txt", "\n".join(WNIDS), WNIDS),
        ("imagenet100.csv", "".join(f"{wnid},{number}\n" for number, wnid in enumerate(WNIDS)), WNIDS),
        ("classes.csv", "wnid,index\n" + "".join(f"{wnid},{number}\n" for number, wnid in enumerate(WNIDS)), WNIDS),
        ("classes.txt", "".join(f"{number}: '{wnid}',\n" for number, wnid in enumerate(WNIDS)), WNIDS),
        ("classes.txt", f"# three\n{WNIDS[0]} tench, Tinca tinca\n{WNIDS[1]}\t1\tgreen mamba\n{WNIDS[2]} 2\n",
         ["tench, Tinca tinca", "green mamba", WNIDS[2]]),
        ("classes.txt", f"{WNIDS[0]} 7-up\n{WNIDS[1]}, mamba\n{WNIDS[2]}: sax\n", ["7-up", "mamba", "sax"]),
        ("Labels.json", json.dumps(dict(zip(WNIDS, "abc", strict=True))), ["a", "b", "c"]),
        ("imagenet100.json", json.dumps(WNIDS), WNIDS),
        ("imagenet_class_index.json", json.dumps({str(i): [x, "abc"[i]] for i, x in enumerate(WNIDS)}), list("abc")),
    ],
)  # fmt: skip
def test_imagenet_class_lists_of_every_kind(listed, name, text, classes):
    files = [f"{split}/{wnid}/{wnid}_{number}.JPEG" for split in ("train", "val") for number, wnid in enumerate(WNIDS)]
    listing = listed("imagenet100", files, {name: text})
    assert list(listing.classes) == classes
    assert sorted(entry.label for entry in listing.entries) == [0, 0, 1, 1, 2, 2]
    assert not faults(listing)


def test_a_class_that_is_listed_twice_is_reported(listed):
    listing = listed(
        "imagenet100", [f"train/{WNIDS[0]}/a.JPEG"], {"classes.txt": f"{WNIDS[0]}\n{WNIDS[1]}\n{WNIDS[0]}\n"}
    )
    text, stops = fault(listing, "classes.txt")
    assert text.startswith("1 of 2 ") and WNIDS[0] in text and WNIDS[1] not in text and not stops


def test_several_tables_are_not_one(listed):
    tables = {"train.csv": "file,label\na.mp4,0\n", "val.csv": "file,label\nb.mp4,0\n"}
    with pytest.raises(InputError, match=r"train\.csv.*val\.csv.*--annotations"):
        listed("csv", ["a.mp4", "b.mp4"], tables)


def test_lines_without_a_wnid_are_named(listed):
    with pytest.raises(InputError, match=r"classes\.txt:2: no wnid in 'tench'"):
        listed("imagenet100", [], {"classes.txt": f"{WNIDS[0]}\ntench\n"})


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("ILSVRC/Data/CLS-LOC/train/{}/{}_1.JPEG", "train"),
        ("train.X3/{}/{}_1.JPEG", "train"),
        ("Train/{}_tench/images/1.JPEG", "train"),
        ("train/{}_1.JPEG", "train"),
        ("val.X/{}/ILSVRC2012_val_00000001.JPEG", "validation"),
        ("val/ILSVRC2012_val_00000001_{}.JPEG", "validation"),
        ("Validation/ILSVRC2012_val_00000293.JPEG", "validation"),
    ],
)
@pytest.mark.parametrize(
    "listing_of_validation",
    [
        {"LOC_val_solution.csv": f"ImageId,PredictionString\nILSVRC2012_val_00000293,{WNIDS[0]} 1 2 3 4\n"},
        {"valprep.sh": f"mkdir -p {WNIDS[1]}\nmv ILSVRC2012_val_00000293.JPEG {WNIDS[0]}/\n"},
        {"val_annotations.txt": f"ILSVRC2012_val_00000293.JPEG\t{WNIDS[0]}\t0\t0\t62\t62\n"},
    ],
)
def test_imagenet_folders_of_every_kind(listed, path, split, listing_of_validation):
    file = path.format(WNIDS[0], WNIDS[0])
    listing = listed("imagenet100", [file], {"classes.txt": WNIDS[0]} | listing_of_validation)
    assert [(entry.file, entry.split, entry.label) for entry in listing.entries] == [(file, split, 0)]


def test_validation_images_without_a_class_stop_the_build(listed):
    files = [f"train/{WNIDS[0]}/a.JPEG", "val/ILSVRC2012_val_00000001.JPEG", "test/ILSVRC2012_test_00000001.JPEG"]
    listing = listed("imagenet100", files, {"classes.txt": WNIDS[0]})
    assert fault(listing, "in no folder of a class")[1]
    assert fault(listing, "splits have not a single sample")[1]
    assert not any(faults(listing, splits=["train"]).values())
    assert "LOC_val_solution.csv" in fault(listing, "in no folder of a class")[0]


def test_a_large_data_set_without_some_classes_stops(listed):
    files = [f"{split}/{WNIDS[0]}/{number}.JPEG" for split in ("train", "val") for number in range(500)]
    listing = listed("imagenet100", files, {"classes.txt": "\n".join(WNIDS)})
    assert fault(listing, "classes have no sample") == (f"2 of 3 classes have no sample: {', '.join(WNIDS[1:])}", True)


@pytest.mark.parametrize("template", ["Holding [something]", "holding [Something]", "Holding something."])
@pytest.mark.parametrize("prefix", ["", "something-something-v2-"])
def test_something_something_templates_in_any_spelling(listed, template, prefix):
    record = {"id": 7, "label": "holding a cup", "template": template, "placeholders": None}
    lists = {f"{prefix}labels.json": '{"Holding something": "0"}', f"{prefix}train.json": json.dumps([record])}
    listing = listed("something-something-v2", ["20bn-something-something-v2/7.webm"], lists)
    assert [(entry.key, entry.label) for entry in listing.entries] == [("7", 0)]
    assert not faults(listing)


@pytest.mark.parametrize("labels", ['{"Holding something": "zero"}', '{"Holding something": null}', "[]"])
def test_labels_that_are_no_numbers_are_errors(listed, labels):
    with pytest.raises(InputError, match=r"labels\.json"):
        listed("something-something-v2", [], {"labels.json": labels, "train.json": "[]"})


@pytest.mark.parametrize(
    ("vocabulary", "label"), [('["Back"]', 0), ("{}", 0), ('[["Back"]]', '"0"'), ('[["Back"]]', 1)]
)
def test_diving48_of_another_form_is_an_error(listed, vocabulary, label):
    record = f'[{{"vid_name": "a", "label": {label}, "start_frame": 0, "end_frame": 9}}]'
    files = dict.fromkeys(("Diving48_V2_train.json", "Diving48_V2_test.json"), record)
    with pytest.raises(InputError, match=r"Diving48_"):
        listed("diving48", ["a.mp4"], files | {"Diving48_vocab.json": vocabulary})


@pytest.mark.parametrize(
    ("path", "file"),
    [
        ("deep/a.mp4", "deep/a.mp4"),
        ("./deep/a.mp4", "deep/a.mp4"),
        ("deep//../deep/a.mp4", "deep/a.mp4"),
        ("deep\\a.mp4", "deep/a.mp4"),
        ("{root}/deep/a.mp4", "deep/a.mp4"),
        ("Deep/A.MP4", "deep/a.mp4"),
        ("caf\u00e9.mp4", "cafe\u0301.mp4"),
        ("../other/a.mp4", None),
        ("/elsewhere/a.mp4", None),
        ("a.mp4", None),
    ],
)
@pytest.mark.parametrize("table", ["file,label\n{path},cat\n", "{path} 3\n", "{path},3\n"])
def test_paths_of_a_table_in_any_form(listed, tmp_path, path, file, table):
    text = table.format(path=path.format(root=tmp_path / "videos"))
    listing = listed("csv", ["deep/a.mp4", "cafe\u0301.mp4"], {"table.csv": text})
    assert chosen(listing) == [file]
    assert listing.entries[0].label == (0 if "cat" in text else 3)
    if file == "deep/a.mp4":
        assert listing.entries[0].key == "deep_a"


@pytest.mark.parametrize("kind", ["gif", "m2ts", "heic", "npy"])
def test_files_of_types_that_are_not_read_are_named(listed, kind):
    table = f"file,label\na.mp4,cat\nb.{kind},dog\nc.mp4,dog\n"
    listing = listed("csv", ["a.mp4", f"b.{kind}", "c.mp4", "notes.txt"], {"table.csv": table})
    assert f"b (b.{kind} is of a type that is not read" in fault(listing, "annotated files are missing")[0]
    assert fault(listing, "types that are not read (1")[0].startswith("1 of 3")
    (source,) = listing.sources()
    with pytest.raises(Exception, match=rf"b\.{kind} is of a type"):
        source.load(1)


def test_folders_without_files_and_unknown_splits_are_named(listed, tmp_path):
    for name in ("train/dogs", "val/cats", "notes"):
        (tmp_path / "videos" / name).mkdir(parents=True)
    files = ["train/cats/a.mp4", "train/dogs/b.gif", "val/dogs/c.mp4", "dev/cats/d.mp4", "notes/readme.txt"]
    listing = listed("folder", files, {})
    assert fault(listing, "folders have no video or image") == (
        "2 of 5 folders have no video or image: train/dogs, val/cats",
        True,
    )
    text, stops = fault(listing, "beside those of splits")
    assert text.startswith("1 of 3") and text.endswith("dev") and not stops


def video(seconds, rate=10):
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("mpeg4", rate=rate)
        stream.width = stream.height = 32
        for number in range(round(seconds * rate)):
            pixels = np.full((32, 32, 3), 8 * number % 256, np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        output.mux(stream.encode())
    return file.getvalue()


@pytest.mark.parametrize(
    ("seconds", "start", "end", "cut"),
    [
        (2.0, 40, 42, True),  # cut exactly
        (2.5, 40, 42, True),  # cut at key frames
        (1.5, 40, 42, True),  # cut near the end of the video
        (2.0, 1, 3, True),
        (5.0, 1, 3, False),
        (3.0, 1, 3, False),
        (8.0, 40, 42, False),  # neither: an error when it is cut
        (2.0, 0, 2, False),
        (2.0, None, None, False),
    ],
)
def test_short_videos_count_as_cut(seconds, start, end, cut):
    assert is_cut(video(seconds), start, end) == cut


def test_a_video_that_is_cut_already_is_stored_whole(tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / f"{VIDEO_ID}.mp4").write_bytes(video(2))
    (tmp_path / "videos" / "bbbbbbbbbbb.mp4").write_bytes(b"")
    rows = f"zumba,{VIDEO_ID},40,42,train\nzumba,bbbbbbbbbbb,1,2,train\n"
    put(tmp_path, {"train.csv": KINETICS + rows})
    out = tmp_path / "out"
    words = ["build", "kinetics400", "--videos", tmp_path / "videos", "--annotations", tmp_path, "--out", out]
    result = CliRunner().invoke(app, [*map(str, words), "--workers", "1"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "1 skipped, for example bbbbbbbbbbb_000001_000002: the file is empty" in result.output
    assert json.loads((out / "train" / "manifest.json").read_text())["longest"] == 20
    ledger = Path(out / "train" / "ledger.jsonl").read_text().splitlines()
    assert [json.loads(line)["file"] for line in ledger] == ["bbbbbbbbbbb.mp4"]


def test_a_build_stops_before_it_writes(tmp_path):
    put(tmp_path / "videos", ["a.mp4", "b.gif"])
    put(tmp_path, {"table.csv": "file,label\na.mp4,cat\nb.gif,dog\n"})
    words = ["build", "csv", "--videos", tmp_path / "videos", "--annotations", tmp_path / "table.csv"]
    with pytest.raises(InputError, match=r"dog \(b\.gif is of a type that is not read.*--allowed-drops"):
        CliRunner().invoke(app, [*map(str, words), "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert not (tmp_path / "out").exists()


def shown(listing):
    """Counts, texts and examples of the faults."""
    return [(fault.faulty, fault.total, fault.what, fault.examples) for fault in find_faults(listing)]


def test_annotations_in_other_encodings_of_lines_and_beside_copies_of_macos_are_read(listed):
    lists = UCF | {"trainlist01.txt": "YoYo/v_YoYo_g08_c01.avi 3\n"} | UCF_TEST
    windows = {name: "\ufeff" + text.replace("\n", "\r\n") for name, text in lists.items()}
    hidden = dict.fromkeys((f"{folder}._{name}" for name in lists for folder in ("", "__MACOSX/")), "\x00\x05\x16")
    files = ["UCF-101/UCF-101/YoYo/v_YoYo_g08_c01.AVI", "YoYo/v_YoYo_g01_c01.avi", "__MACOSX/YoYo/._v_YoYo_g01_c01.avi"]
    listing = listed("ucf101", files, windows | hidden)
    assert chosen(listing) == files[:2]
    assert listing.unannotated == []


@pytest.mark.parametrize("name", ["._train.csv", "__MACOSX/._train.csv", "__MACOSX/train.csv"])
def test_tables_of_kinetics_leave_out_what_macos_adds(listed, name):
    rows = f"{KINETICS}a,{VIDEO_ID},40,50,train\n"
    listing = listed("kinetics400", [f"{CUT}.mp4"], {"train.csv": rows, name: "no table"})
    assert chosen(listing) == [f"{CUT}.mp4"]


def test_folders_and_files_of_systems_are_no_classes(listed):
    system = ["__MACOSX/cats/._a.mp4", "cats/@eaDir/a.mp4/thumb.jpg", "$RECYCLE.BIN/q.mp4", "lost+found/q.mp4"]
    listing = listed("folder", ["cats/a.mp4", "birds/b.mp4", "dogs/Thumbs.db", *system], {})
    assert listing.classes == ("birds", "cats")
    assert fault(listing, "no video or image") == ("1 of 3 folders have no video or image: dogs", True)


def test_links_to_nothing_are_named(listed, tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "dogs").symlink_to(tmp_path / "nowhere")
    listing = listed("folder", ["cats/a.mp4", "birds/b.mp4"], {})
    assert [examples for *_, examples in shown(listing)] == [("dogs",)]


@pytest.mark.parametrize(
    ("files", "examples", "stops"),
    [
        (["d/train/a/1.mp4", "d/train/b/2.mp4", "d/val/a/3.mp4"], ("d/train", "d/val"), True),
        (["train/train/a/1.mp4", "val/val/a/3.mp4"], ("train", "val"), True),
        (["data/a/1.mp4", "data/b/2.mp4"], ("data",), False),
        (["vehicles/train/1.mp4", "vehicles/bus/2.mp4", "animals/cat/3.mp4"], None, False),
    ],
)
def test_folders_of_splits_or_classes_inside_another_are_named(listed, files, examples, stops):
    found = [fault for fault in find_faults(listed("folder", files, {})) if "--videos" in fault.what]
    assert [(fault.examples, fault.exceeds(0.05)) for fault in found] == ([(examples, stops)] if examples else [])


def test_samples_without_label_and_thumbnails_are_named(listed):
    listing = listed("folder", ["cats/a.mp4", "cats/a.jpg", "birds/b.mp4", "c.mp4"], {})
    assert [examples for *_, examples in shown(listing)] == [("cats/a.jpg",), ("c.mp4",)]


def test_images_in_place_of_videos_are_named(listed):
    lists = UCF | {"trainlist01.txt": "YoYo/v_YoYo_g08_c01.avi 3\n"} | UCF_TEST
    listing = listed("ucf101", ["v_YoYo_g08_c01.jpg", "v_YoYo_g01_c01.avi"], lists)
    assert fault(listing, "images of the same name")[0].startswith("1 of 2 ")


@pytest.mark.parametrize("suffix", [".f137.mp4", ".avi.mp4", ".avi.aria2", ".avi.part"])
def test_unfinished_downloads_are_named(listed, suffix):
    lists = UCF | {"trainlist01.txt": "YoYo/v_YoYo_g08_c01.avi 3\n"} | UCF_TEST
    listing = listed("ucf101", [f"v_YoYo_g08_c01{suffix}", "v_YoYo_g01_c01.avi"], lists)
    assert f"v_YoYo_g08_c01{suffix}" in fault(listing, "are missing")[0]


def test_repeated_annotations_and_those_in_several_splits_are_counted(listed):
    rows = ["a.mp4,x,train", "a.mp4,x,train", "b.mp4,x,train", "b.mp4,y,train", "c.mp4,y,train", "c.mp4,y,test"]
    listing = listed("csv", ["a.mp4", "b.mp4", "c.mp4"], {"t.csv": "\n".join(["file,label,split", *rows])})
    assert [(*counts, examples) for *counts, _, examples in shown(listing)] == [
        (1, 4, ("a.mp4",)),
        (1, 4, ("b.mp4",)),
        (1, 3, ("c.mp4",)),
    ]


def test_numbers_of_classes_that_differ_from_the_list_of_classes_are_named(listed):
    lists = UCF | {"trainlist01.txt": "YoYo/v_YoYo_g08_c01.avi 2\n"} | UCF_TEST
    listing = listed("ucf101", ["v_YoYo_g08_c01.avi", "v_YoYo_g01_c01.avi"], lists)
    assert listing.entries[0].label == 2
    assert fault(listing, "classInd.txt")[0].endswith("trainlist01.txt:1: 2, not 3")


@pytest.mark.parametrize(
    ("table", "example"),
    [
        ("file,label\na.mp4,-1\nb.mp4,0", "-1"),
        ("file,label\na.mp4,1.0\nb.mp4,x", "1.0"),
        ("file,label\na.mp4,nan\nb.mp4,x", "nan"),
        ("file,split\na.mp4,Train\nb.mp4,training", "Train / training"),
    ],
)
def test_odd_labels_and_splits_of_a_table_are_named(listed, table, example):
    assert (example,) in [examples for *_, examples in shown(listed("csv", ["a.mp4", "b.mp4"], {"t.csv": table}))]


def test_spaces_around_cells_are_left_out(listed):
    listing = listed("csv", ["a b.mp4", "b.mp4"], {"t.csv": "file , label\n a b.mp4 , x \nb.mp4,x\n"})
    assert (chosen(listing), listing.classes) == (["a b.mp4", "b.mp4"], ("x",))


def test_names_are_found_in_either_unicode_form(listed):
    lists = {"t.csv": f"{KINETICS}a,{VIDEO_ID},40,50,train\n"}
    assert chosen(listed("kinetics400", [f"{CUT}.mp4"], lists)) == [f"{CUT}.mp4"]
    tree = listed("folder", ["cats/caf\u00e9.mp4", "cats/nin\u0303o.mp4"], {}).files
    assert (tree.find("cafe\u0301"), tree.find("ni\u00f1o")) == ("cats/caf\u00e9.mp4", "cats/nin\u0303o.mp4")


def something(record):
    return {"labels.json": '{"Holding something": "0"}', "train.json": json.dumps([record])}


DIVING = {"Diving48_vocab.json": '[["Back"], ["Forward"]]', "Diving48_V2_test.json": "[]"}
HOLDING = {"id": "1.webm", "label": "holding it", "template": "Holding [something]", "placeholders": ["it"], "more": 1}
HACS = "classname,youtube_id,subset,start,end,label\n"


@pytest.mark.parametrize(
    ("layout", "annotations", "named"),
    [
        ("something-something-v2", something(HOLDING | {"placeholders": 3}), "id 1.webm"),
        ("something-something-v2", something(HOLDING | {"label": 3}), "id 1.webm"),
        (
            "diving48",
            DIVING | {"Diving48_V2_train.json": '[{"vid_name": "a", "label": true, "start_frame": 0, "end_frame": 9}]'},
            "a has label True",
        ),
        ("imagenet100", {"Labels.json": "5"}, "Labels.json"),
        ("hacs", {"HACS_clips_v1.1.1.csv": f"{HACS}A,{VIDEO_ID},training,1,3,yes\n"}, VIDEO_ID),
        ("kinetics400", {"t.csv": f"{KINETICS}a,{VIDEO_ID},40,50,train\n{KINETICS}"}, "t.csv:3"),
        ("kinetics400", {"t.csv": f"{KINETICS}a,{VIDEO_ID},,50,train\n"}, VIDEO_ID),
        ("kinetics400", {"t.json": json.dumps({VIDEO_ID: {"annotations": {}, "subset": "val"}})}, VIDEO_ID),
        ("csv", {"t.csv": "file,start,end\na.mp4,5,3\n"}, "end 3 of a.mp4"),
    ],
)
def test_a_corrupted_annotation_is_named(listed, layout, annotations, named):
    with pytest.raises(InputError) as raised:
        listed(layout, ["1.webm", "a.mp4"], annotations)
    assert named in str(raised.value)


def test_ids_with_an_extension_are_found(listed):
    assert chosen(listed("something-something-v2", ["1.webm"], something(HOLDING))) == ["1.webm"]


def test_classes_may_be_numbers_in_json(listed):
    numbered = {VIDEO_ID: {"annotations": {"label": 5, "segment": [40, 50]}, "subset": "val"}}
    assert listed("kinetics400", [f"{CUT}.mp4"], {"t.json": json.dumps(numbered)}).classes == ("5",)


def test_a_named_pipe_is_left_out_and_does_not_block(listed, tmp_path):
    (tmp_path / "videos").mkdir()
    os.mkfifo(tmp_path / "videos" / "a.mp4")
    (source,) = listed("folder", {"b.mp4": "\0"}, {}).sources()
    with pytest.raises(UndecodableError, match="regular"):
        source.load(0)
    source.load(1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("\ufeff\n<!DOCTYPE html><html><title>404</title></html>", "HTML"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:12\n", "LFS"),
        ('{"error": "quota exceeded"}', "text"),
        ("#EXTM3U\r\nhttp://somewhere/1.ts\r\n", "text"),
    ],
)
def test_text_in_place_of_a_video_is_named(listed, text, reason):
    (source,) = listed("folder", {"a.mp4": text}, {}).sources()
    with pytest.raises(UndecodableError, match=reason):
        source.load(0)
