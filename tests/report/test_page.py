import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from hpc_jepa.config import loading
from hpc_jepa.config.run import RunConfig
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.data.shards.builder import build_shards, make_recipe
from hpc_jepa.data.sources.motion8 import Motion8
from hpc_jepa.distributed import GlooGroup
from hpc_jepa.report.write_report import write_report
from hpc_jepa.runs.origin import RunOrigin, write_origin
from hpc_jepa.runs.preview_file import read_preview, write_preview
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.study.grid import create_study_dir
from hpc_jepa.training.build import build_loader, build_masker
from hpc_jepa.training.clip_preview import clip_preview

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Outline(HTMLParser):
    """Open tags, and all addresses that the page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.addresses, self.count = [], [], {}

    def handle_starttag(self, tag, attrs):
        self.count[tag] = self.count.get(tag, 0) + 1
        loads = ("src", "xlink:href", "action") if tag == "a" else ("src", "href", "xlink:href", "action")
        self.addresses += [value for name, value in attrs if name in loads]  # a link of <a> loads nothing
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def outline(page: str) -> Outline:
    parser = Outline()
    parser.feed(page)
    return parser


@pytest.fixture
def page(study) -> str:
    return (write_report([study]).folder / "index.html").read_text()


def test_the_page_says_where_a_run_began(study):
    (folder, *_) = sorted(study.rglob("config.yaml"))
    before = ("weights of /elsewhere/old after step 70",)
    origin = RunOrigin(kind="run", path="runs/first", step=3900, what="all", sha256="a" * 64, before=before)
    write_origin(RunDir(folder.parent).origin_file, origin)
    page = (write_report([study]).folder / "index.html").read_text()
    outline(page)
    assert "weights and optimizer of runs/first after step 3,900; that run with weights of /elsewhere/old" in page


def test_the_page_is_well_formed_and_self_contained(page):
    found = outline(page)
    assert found.open == []
    assert all(address.startswith(("#", "data:")) for address in found.addresses)
    assert "@import" not in page and not re.search(r"url\((?!#)", page)


def test_the_page_has_all_headlines_and_fingerprints(page, study):
    report = write_report([study])
    for sentence in report.data.headlines:
        assert sentence.replace("<", "&lt;") in page
    for run in study.rglob("config.yaml"):
        assert loading.read_config(RunConfig, [run]).fingerprint() in page
    assert "mask_truncation: tubes" in page


def test_the_page_has_plots_of_accuracy_loss_terms_and_target_health(page):
    plots = re.findall(r'<figure class="plot">\s*<figcaption>(.*?)</figcaption>', page)
    assert len(plots) == 9
    assert {"Total loss", "context", "ld", "prediction", "Target standard deviation", "Effective rank"} < set(plots)
    assert sum("Linear probe" in title for title in plots) == sum("Attentive probe" in title for title in plots) == 1


def test_the_page_says_how_often_each_source_was_read(page, study):
    assert page.count("gone 12.35") == len(list(study.rglob("state.json")))


def test_plots_use_the_colours_of_the_page(page):
    assert "var(--series-0)" in page and "var(--ink)" in page
    assert not re.search(r"#0a0b0\d|#010203|#040506", page)


def test_the_same_records_give_the_same_page(study):
    folder = write_report([study]).folder
    first = (folder / "index.html").read_bytes()
    write_report([study])
    assert (folder / "index.html").read_bytes() == first


def test_a_run_without_a_preview_has_no_frames(page):
    assert "preview.json" in page
    assert outline(page).count.get("img") is None


def test_a_report_opens_no_data(study, monkeypatch):
    """The shards of a received run could be anywhere: no folder, and no URL, is opened."""

    def opened(*arguments):
        raise AssertionError(f"opened {arguments}")

    monkeypatch.setattr("hpc_jepa.data.storage.parse_location", opened)
    monkeypatch.setattr("hpc_jepa.data.shards.shard_folder.parse_location", opened)
    write_report([study])


@pytest.mark.parametrize("image", ["http://127.0.0.1/x.png", "data:text/html;base64,AAAA", 'data:image/png;base64,A"'])
def test_a_preview_that_is_no_picture_is_damaged(study, image):
    path = study / "quickstart/baseline/seed-0/preview.json"
    path.write_text(json.dumps({"strips": [{"caption": "<b>", "image": image}]}))
    report = write_report([study])
    assert any(str(path) in line for line in report.data.gaps)
    assert image not in (report.folder / "index.html").read_text(encoding="utf-8")


def test_the_preview_shows_the_clip_and_all_tokens_of_each_mask_group(tmp_path):
    source = Motion8("unlabelled", 0, 8, size=32, frames=8)
    build_shards(source, tmp_path / "shards", make_recipe(source, 8), 0, lambda done: None)
    config = RunConfig.model_validate(
        {
            "regime": "tiny",
            "model": {"encoder": {"width": 32, "depth": 1, "heads": 1, "patch": 8, "levels": (1,)}},
            "data": {
                "sources": {"motion8": {"shards": tmp_path / "shards"}},
                "clip": {"frames": 8, "stride": 1, "size": 32},
            },
            "masking": {"groups": [{"blocks": 1, "spatial_scale": 0.25}, {"blocks": 2, "spatial_scale": 0.5}]},
            "engine": {"batch_size": 4},
        }
    )
    clips = build_loader(config, torch.device("cpu")).batch(0)
    masks = build_masker(config, GlooGroup())(0, clips)
    path = tmp_path / "preview.json"
    write_preview(path, clip_preview(config, clips, masks))
    plain, *groups = read_preview(path).strips
    assert len(groups) == 2
    clip, masked = picture(plain.image), picture(groups[0].image)
    assert clip.shape == masked.shape == (160, 4 * 160 + 3 * 8, 4)
    context, target = (
        int(n) for n in re.search(r"(\d+) context and (\d+) target tokens of 64", groups[0].caption).groups()
    )
    cells = [
        masked[y : y + 40, t * 168 + x : t * 168 + x + 40, :3].astype(int)
        - clip[y : y + 40, t * 168 + x : t * 168 + x + 40, :3]
        for t in range(4)
        for y in range(0, 160, 40)
        for x in range(0, 160, 40)
    ]
    assert sum(not cell.any() for cell in cells) == context
    assert sum((cell[..., 0] > 0).all() for cell in cells) == target


def picture(address: str) -> np.ndarray:
    content = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(content)))


def test_the_description_of_the_study_comes_first(study):
    config = StudyConfig(study="demo", about="Does it help & why?", regimes=("quickstart",), variants=("baseline",))
    create_study_dir(config, study.parent)
    page = (write_report([study]).folder / "index.html").read_text(encoding="utf-8")
    assert page.index("Does it help &amp; why?") < page.index("<h2>Results</h2>")
