"""A sample of the generated corpus (tools/corpus.py): what is stored equals the output of the ``ffmpeg`` command."""

import shutil

import pytest
from corpus import check, sample
from corpus_cases import cases
from corpus_readers import READERS

MENDED = (
    "odd/mpeg4_avi",
    "order/h264_open_b3_mp4",
    "remuxed/h264_open_mkv",
    "edit_list/h264_open_mkv",
    "edit_list/hevc_open_mkv",
    "odd/cropped_h264",
    "odd/cropped_hevc",
    "size_change/mpeg2_mpg_32",
)
"""Cases that have failed."""

FAMILIES = list(dict.fromkeys(case.family for case in cases()))

pytestmark = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the ffmpeg command is not installed")


@pytest.mark.parametrize(
    "case",
    [case for family in FAMILIES for case in sample(family, 3)] + [case for case in cases() if case.title in MENDED],
    ids=lambda case: case.title,
)
def test_stored_frames_are_those_of_ffmpeg(case):
    outcome = check(case, [READERS["pyav"], READERS["dali"]])
    if outcome.not_written:
        pytest.skip(f"ffmpeg does not write it: {outcome.not_written}")
    assert not outcome.faults, outcome.stored


def test_the_corpus_has_300_files_with_titles_of_their_own():
    titles = {case.title for case in cases()}
    assert len(titles) == len(cases()) >= 300
