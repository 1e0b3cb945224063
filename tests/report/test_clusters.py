"""Clusters of test clips: read from the predictions of records, equal for all records of a protocol."""

import json

import numpy as np
import pytest

from hpc_jepa.errors import InputError
from hpc_jepa.report.predictions import check_predictions
from hpc_jepa.report.results import collect_results
from hpc_jepa.report.run_report import find_runs

CLUSTERS = np.arange(1000) // 5
ACCURACY = {"target": {"linear": 0.5}}


def checked(write):
    return check_predictions(collect_results(find_runs([write.root / "demo"]).runs))


def test_clusters_are_unknown_without_them(write):
    path = write.evaluated(write.run("baseline"), ACCURACY)
    assert "clusters" not in json.loads(path.read_text())
    assert list(checked(write).clusters.values()) == [None]


def test_clusters_are_read_and_hold_for_older_records_of_the_same_clips(write):
    new = write.evaluated(write.run("baseline"), ACCURACY, clusters=CLUSTERS)
    write.evaluated(write.run("ld"), ACCURACY)
    write.evaluated(write.run("hw"), ACCURACY, benchmark="ucf101")
    assert json.loads(new.read_text())["clusters"] == 200
    found = {row.variant: clusters for row, clusters in checked(write).clusters.items()}
    np.testing.assert_array_equal(found["baseline"], CLUSTERS)
    np.testing.assert_array_equal(found["ld"], CLUSTERS)
    assert found["hw"] is None


def test_different_clusters_are_not_comparable(write):
    write.evaluated(write.run("baseline"), ACCURACY, clusters=CLUSTERS)
    write.evaluated(write.run("ld"), ACCURACY, clusters=CLUSTERS[::-1].copy())
    with pytest.raises(InputError, match="different clusters"):
        checked(write)


@pytest.mark.parametrize("count", [None, 7])
def test_a_record_that_contradicts_its_clusters_is_damaged(write, count):
    write.evaluated(write.run("ld"), ACCURACY)
    path = write.evaluated(write.run("baseline"), ACCURACY, clusters=CLUSTERS)
    record = json.loads(path.read_text())
    del record["clusters"]
    path.write_text(json.dumps(record | ({"clusters": count} if count else {})))
    result = checked(write)
    assert [row.variant for row in result.answers] == ["ld"]
    assert len(result.damaged) == 1 and str(path) in result.damaged[0]
