"""Clusters: each source names the video or recording that a sample was cut from, and shards keep the names."""

import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import webdataset
from typer.testing import CliRunner

from hpc_jepa.cli.shards import app
from hpc_jepa.data.shards.builder import build_shards, make_recipe
from hpc_jepa.data.shards.manifest import MANIFEST_NAME, SampleInfo, ShardManifest, read_manifest
from hpc_jepa.data.shards.shard_folder import ShardFolder
from hpc_jepa.data.shards.verify import find_decode_errors
from hpc_jepa.data.sources.csv_table import list_csv_table
from hpc_jepa.data.sources.hacs import list_hacs
from hpc_jepa.errors import InputError
from tests.data.test_sources import LAYOUT_MAKERS, avi, mp4, put

CLUSTERS = {
    "ucf101": {
        "v_Archery_g01_c01": "v_Archery_g01",
        "v_Archery_g01_c02": "v_Archery_g01",
        "v_ApplyEyeMakeup_g01_c01": "v_ApplyEyeMakeup_g01",
    },
    "diving48": {f"_8Vy3dlHg2w_0000{number}": "_8Vy3dlHg2w" for number in (3, 4)},
    "kinetics400": {"-0abcdefghi_000010_000020": "-0abcdefghi", "0bcdefghij__000001_000002": "0bcdefghij_"},
    "hacs": {"v_aaaaaaaaaaa_1_3": "aaaaaaaaaaa", "v_aaaaaaaaaaa_2_4": "aaaaaaaaaaa"},
    "something-something-v2": dict.fromkeys("123"),
    "imagenet100": dict.fromkeys(("n01440764_0", "n01440764_1", "n01440764_9", "n02085620_0", "n02085620_1")),
}
"""By layout, the samples of one split and their clusters."""
KNOWN = {"something-something-v2": "unknown", "imagenet100": "independent"}


def build(root: Path, name: str, *options) -> dict[str, ShardFolder]:
    out = root / "out"
    places = ["--videos", root / "videos", *(["--annotations", root / "annotations"] if name != "folder" else [])]
    words = ["build", name, *places, "--out", out, "--workers", "1", *options]
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return {path.parent.name: ShardFolder(path.parent) for path in sorted(out.glob("*/manifest.json"))}


def clusters(folder: ShardFolder) -> dict[str, str | None]:
    return {folder.key(index): folder.info(index).cluster for index in range(len(folder))}


@pytest.mark.parametrize("name", CLUSTERS)
def test_samples_name_their_source_video(name, tmp_path):
    LAYOUT_MAKERS[name](tmp_path)
    if name == "ucf101":
        second = "Archery/v_Archery_g01_c02.avi"
        put(tmp_path / "videos" / second, avi(seed=99))
        listed = tmp_path / "annotations" / "ucfTrainTestlist" / "testlist01.txt"
        listed.write_text(listed.read_text() + f"{second}\n")
    splits = build(tmp_path, name)
    assert CLUSTERS[name] in [clusters(folder) for folder in splits.values()]
    assert {folder.manifest.clusters for folder in splits.values()} == {KNOWN.get(name, "known")}


def test_every_reader_of_tars_finds_the_cluster(tmp_path):
    LAYOUT_MAKERS["hacs"](tmp_path)
    folder = build(tmp_path, "hacs")["train"]
    (tar,) = folder.path.glob("*.tar")
    expected = CLUSTERS["hacs"]
    read = {
        sample["__key__"]: json.loads(sample["json"]) for sample in webdataset.WebDataset(str(tar), shardshuffle=False)
    }
    assert {key: info["cluster"] for key, info in read.items()} == expected
    with tarfile.open(tar) as archive:
        names = [name for name in archive.getnames() if name.endswith(".json")]
        assert [json.load(archive.extractfile(name))["cluster"] for name in sorted(names)] == [*expected.values()]


def videos(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        put(root / "videos" / name, mp4(seed=number))


def test_a_table_names_the_recording(tmp_path):
    videos(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    put(tmp_path / "annotations", "file,label,cluster\na.mp4,x,patient 1\nb.mp4,y,patient 1\nc.mp4,y,patient 2\n")
    folder = build(tmp_path, "csv")["train"]
    assert clusters(folder) == {"a": "patient 1", "b": "patient 1", "c": "patient 2"}
    assert folder.manifest.clusters == "known"


def test_a_table_without_clusters_has_the_recipe_it_had(tmp_path):
    """An empty column is like none; other clusters are other shards."""
    videos(tmp_path, "a.mp4", "b.mp4")
    recipes = []
    tables = ["file,label\na.mp4,x\nb.mp4,y\n", "file,label,cluster\na.mp4,x,\nb.mp4,y,\n"]
    tables += [f"file,label,cluster\na.mp4,x,1\nb.mp4,y,{last}\n" for last in (1, 2)]
    for number, table in enumerate(tables):
        put(tmp_path / "annotations", table)
        if not number:
            build(tmp_path, "csv")
        (source,) = list_csv_table(tmp_path / "videos", tmp_path / "annotations").sources()
        recipes.append(dict(source.settings))
    manifest = (tmp_path / "out" / "train" / MANIFEST_NAME).read_text()
    assert "clusters" not in manifest and read_manifest(tmp_path / "out" / "train").known_clusters == "unknown"
    assert recipes[0] == recipes[1] and list(recipes[0]) == ["annotations"]
    assert recipes[2]["annotations"] == recipes[0]["annotations"] and recipes[2] != recipes[3]


def test_a_table_with_clusters_for_some_files_is_refused(tmp_path):
    videos(tmp_path, "a.mp4", "b.mp4")
    put(tmp_path / "annotations", "file,cluster\na.mp4,patient 1\nb.mp4,\n")
    with pytest.raises(InputError, match=r"annotations: b\.mp4 has no cluster"):
        build(tmp_path, "csv")


@pytest.mark.parametrize("pattern", [r"p\d+(?=_)", r"/(p\d+)_[^/]*$"])
def test_folders_name_the_recording_by_a_pattern(pattern, tmp_path):
    videos(tmp_path, "train/jump/p1_0.mp4", "train/jump/p1_1.mp4", "train/run/p2_0.mp4")
    folder = build(tmp_path, "folder", "--cluster", pattern)["train"]
    assert clusters(folder) == {"jump-p1_0": "p1", "jump-p1_1": "p1", "run-p2_0": "p2"}


@pytest.mark.parametrize(
    ("name", "pattern"), [("folder", "(p\\d"), ("folder", "patient"), ("folder", "(x)?p"), ("csv", "p")]
)
def test_a_pattern_that_is_invalid_or_does_not_match_is_refused(name, pattern, tmp_path):
    videos(tmp_path, "train/jump/p1.mp4")
    put(tmp_path / "annotations", "file\ntrain/jump/p1.mp4\n")
    with pytest.raises(InputError, match="--cluster"):
        build(tmp_path, name, "--cluster", pattern)
    assert not (tmp_path / "out").exists()


def test_shards_without_clusters_have_the_bytes_they_had(tmp_path):
    """The keys of the release before, in their order."""
    videos(tmp_path, "jump/a.mp4")
    folder = build(tmp_path, "folder")["train"]
    (tar,) = folder.path.glob("*.tar")
    with tarfile.open(tar) as archive:
        info = json.load(archive.extractfile("jump-a.json"))
    keys = ["frames", "fps", "width", "height", "codec", "label", "class_name", "text", "file", "stored"]
    assert list(info) == keys
    manifest = json.loads((folder.path / MANIFEST_NAME).read_text())
    assert list(manifest)[-3:] == ["seconds", "codecs", "stored"]
    assert (
        SampleInfo.model_validate(info).cluster is None and ShardManifest.model_validate(manifest).clusters == "unknown"
    )


def test_older_complete_shards_are_kept_and_resharded_as_they_are(tmp_path):
    """Shards of UCF-101 without clusters, as an older release built them, are not built again or mixed."""
    LAYOUT_MAKERS["diving48"](tmp_path)
    folder = build(tmp_path, "diving48")["train"].path
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    del manifest["clusters"]
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    build(tmp_path, "diving48")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert read_manifest(folder).known_clusters == "unknown"


def test_a_build_that_an_older_release_began_does_not_promise_clusters(tmp_path):
    """Its first samples have none; they are kept when the build is resumed."""
    LAYOUT_MAKERS["hacs"](tmp_path)
    source = list_hacs(tmp_path / "videos", tmp_path / "annotations").sources(["train"])[0]
    recipe, folder = make_recipe(source, 1), tmp_path / "out" / "train"
    old = replace(source, entries=tuple(entry._replace(cluster=None) for entry in source.entries))

    def stop_at_the_second(samples):
        started.append(samples)
        if len(started) == 2:
            raise KeyboardInterrupt

    started = []
    with pytest.raises(KeyboardInterrupt):
        build_shards(old, folder, recipe, 0, stop_at_the_second)
    journal = tmp_path / "out" / ".train.partial" / "journal.jsonl"
    journal.write_text(journal.read_text().replace(',"with_cluster":0', ""))
    manifest = build_shards(source, folder, recipe, 0, lambda samples: None)
    assert list(clusters(ShardFolder(folder)).values()) == [None, "aaaaaaaaaaa"]
    assert manifest.clusters == "unknown"


def test_resharding_keeps_clusters_and_independence(tmp_path, shards):
    LAYOUT_MAKERS["hacs"](tmp_path)
    build(tmp_path, "hacs")
    for source, known in ((tmp_path / "out" / "train", "known"), (shards / "test", "independent")):
        out = tmp_path / known
        result = CliRunner().invoke(app, ["reshard", str(source), "--out", str(out)], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        assert read_manifest(out / source.name).clusters == known
        assert clusters(ShardFolder(out / source.name)) == clusters(ShardFolder(source))


def test_verify_finds_a_sample_without_the_promised_cluster(tmp_path):
    videos(tmp_path, "jump/a.mp4")
    folder = build(tmp_path, "folder")["train"].path
    assert find_decode_errors(folder, [0], 1, lambda: None) == []
    manifest = json.loads((folder / MANIFEST_NAME).read_text()) | {"clusters": "known"}
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))
    (error,) = find_decode_errors(folder, [0], 1, lambda: None)
    assert "jump-a has no cluster" in error


def test_info_says_what_is_known(tmp_path, shards):
    LAYOUT_MAKERS["hacs"](tmp_path)
    build(tmp_path, "hacs")
    for folder, known in ((tmp_path / "out" / "train", "known"), (shards / "train", "independent")):
        shown = CliRunner(env={"COLUMNS": "150"}).invoke(app, ["info", str(folder)]).stdout
        assert any("clusters" in line and known in line for line in shown.splitlines())


def shared_table(root: Path) -> None:
    videos(root, "a.mp4", "b.mp4", "c.mp4", "d.mp4")
    rows = ["a.mp4,x,train,patient 1", "b.mp4,y,train,patient 2", "c.mp4,x,test,patient 2", "d.mp4,y,test,patient 3"]
    put(root / "annotations", "\n".join(["file,label,split,cluster", *rows]))


def test_a_cluster_in_two_splits_is_refused_before_anything_is_built(tmp_path):
    shared_table(tmp_path)
    for options in ((), ("--split", "train")):
        with pytest.raises(InputError) as refused:
            build(tmp_path, "csv", *options)
        for part in ("patient 2", "train (b.mp4)", "test (c.mp4)", "--allow-shared-clusters"):
            assert part in str(refused.value)
        assert "patient 1" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_cluster_in_two_splits_of_folders_is_refused(tmp_path):
    videos(tmp_path, "train/jump/p1_0.mp4", "train/run/p2_0.mp4", "test/jump/p1_1.mp4", "test/run/p3_0.mp4")
    with pytest.raises(InputError, match=r"p1 is in .*test \(test/jump/p1_1\.mp4\)"):
        build(tmp_path, "folder", "--cluster", r"p\d")
    assert build(tmp_path, "folder").keys() == {"train", "test"}


def test_shared_clusters_that_are_allowed_are_in_the_manifest(tmp_path):
    shared_table(tmp_path)
    splits = build(tmp_path, "csv", "--allow-shared-clusters")
    assert {name: folder.manifest.shared_clusters for name, folder in splits.items()} == {"train": 1, "test": 1}
    out = tmp_path / "resharded"
    result = CliRunner().invoke(app, ["reshard", str(splits["test"].path), "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0 and read_manifest(out / "test").shared_clusters == 1
    shown = CliRunner(env={"COLUMNS": "150"}).invoke(app, ["info", str(splits["train"].path)]).stdout
    assert "1 of them in other splits too" in shown


def test_official_splits_that_share_source_videos_are_built(tmp_path):
    """Clusters of official names are not the user's: whoever made the splits decided."""
    LAYOUT_MAKERS["diving48"](tmp_path)
    listed = tmp_path / "annotations"
    places = {path: json.loads(path.read_text()) for path in listed.rglob("*.json")}
    lists = {path: content for path, content in places.items() if content and isinstance(content[0], dict)}
    train, test = (next(path for path in lists if word in path.name) for word in ("train", "test"))
    moved = lists[train][0]
    same_video = {**moved, "vid_name": f"{moved['vid_name'].rsplit('_', 1)[0]}_00009"}
    test.write_text(json.dumps([*lists[test], same_video]))
    put(tmp_path / "videos" / f"{same_video['vid_name']}.mp4", mp4(seed=9))
    splits = build(tmp_path, "diving48")
    shared = set(clusters(splits["train"]).values()) & set(clusters(splits["test"]).values())
    assert shared and {folder.manifest.shared_clusters for folder in splits.values()} == {0}
