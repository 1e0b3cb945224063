"""The check of a GPU machine: planted faults, the report, and the rehearsal of all parts."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from typer.testing import CliRunner

from hpc_jepa.cli.app import app
from hpc_jepa.cli.gpu_check import check, speed, step_time
from hpc_jepa.cli.gpu_check.check import check_gpu, chosen_parts
from hpc_jepa.cli.gpu_check.check_report import BEGIN, END, REHEARSAL
from hpc_jepa.cli.gpu_check.children import Devices
from hpc_jepa.cli.gpu_check.part import Mode, Part
from hpc_jepa.cli.gpu_check.parts import PARTS
from hpc_jepa.errors import InputError
from hpc_jepa.training import step_runner

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
TOOL = ROOT / "tools" / "gpu_check.py"
REHEARSED = Mode(rehearse=True)


def planted(*names, limit=60):
    """Parts of ``planted_parts.py``; limits are multiplied by five in a rehearsal."""
    return [Part(name, name.title(), f"planted_parts:{name}", limit) for name in names]


@pytest.fixture
def run_planted(tmp_path, monkeypatch):
    """``run_planted(parts)``: the report, the printed lines, and the JSON."""
    monkeypatch.setenv("PYTHONPATH", f"{HERE}:{ROOT}")

    def run(parts):
        lines = []
        report = check_gpu(parts, REHEARSED, tmp_path, 1.0, lines.append)
        return report, lines, json.loads((tmp_path / "gpu_check_rehearsal.json").read_text())

    return run


def by_name(content):
    return {part["name"]: part for part in content["parts"]}


def test_a_broken_part_yields_a_verdict_and_the_others_run(run_planted):
    parts = [
        *planted("crashes", "dies", "lacks_dali", "lacks_own_package", "skips"),
        *planted("hangs", limit=1),
        *planted("fine"),
    ]
    report, lines, content = run_planted(parts)
    found = by_name(content)
    assert {name: part["status"] for name, part in found.items()} == {
        "crashes": "failed", "dies": "failed", "lacks_dali": "skipped", "lacks_own_package": "failed",
        "skips": "skipped", "hangs": "failed", "fine": "ok",
    }  # fmt: skip
    for name, part in found.items():
        assert any(line.endswith(f"{name} {part['status'].upper()}: {part['line']}") for line in lines), lines
    assert "a planted error" in found["crashes"]["line"]
    assert found["crashes"]["tables"] == {"Figures": [{"name": "before", "value": 1}]}
    assert "SIGSEGV" in found["dies"]["line"]
    assert "a_package_that_does_not_exist" in found["lacks_own_package"]["line"]
    assert found["skips"]["line"] == "no such device"
    assert "5 s" in found["hangs"]["line"] and "waiting for something" in found["hangs"]["line"]
    assert content["counts"] == {"failed": 4, "skipped": 2, "ok": 1}
    assert report.exit_code == 1


def test_a_part_that_is_killed_leaves_no_process(run_planted):
    report, _, content = run_planted(planted("hangs", limit=1))
    (child,) = by_name(content)["hangs"]["tables"]["Children"]
    assert not psutil.pid_exists(child["pid"]) or psutil.Process(child["pid"]).status() == psutil.STATUS_ZOMBIE
    assert report.parts[0].seconds < 60


def test_ctrl_c_writes_what_there_is(run_planted):
    report, lines, content = run_planted(planted("fine", "interrupts_the_check", "skips"))
    assert content["interrupted"] and report.exit_code == 130
    found = by_name(content)
    assert list(found) == ["fine", "interrupts_the_check", "skips"]
    assert found["fine"]["status"] == "ok" and found["skips"]["status"] == "skipped"
    assert found["interrupts_the_check"]["status"] == "skipped"
    assert found["interrupts_the_check"]["tables"] == {"Figures": [{"name": "before", "value": 1}]}
    assert "stopped" in lines[-2]


def test_variables_of_a_launcher_do_not_reach_the_parts(run_planted, monkeypatch):
    for name in ("SLURM_NTASKS", "SLURM_JOB_ID", "SLURM_STEP_ID", "WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    _, _, content = run_planted(planted("reports_environment"))
    assert content["parts"][0]["line"] == "SLURM_JOB_ID"


def test_the_folder_of_a_part_is_removed_and_its_log_is_kept(run_planted, tmp_path):
    _, _, content = run_planted(planted("leaves_files"))
    assert not Path(content["parts"][0]["line"]).exists()
    assert (tmp_path / "gpu_check_logs" / "leaves_files.log").exists()
    assert not {path.name for path in tmp_path.iterdir()} & {"gpu_check.json", "gpu_check.md"}, (
        "a rehearsal is no check"
    )


def test_a_rehearsal_cannot_be_mistaken_for_a_check(run_planted, tmp_path):
    _, lines, content = run_planted(planted("fine"))
    assert content["rehearsal"] is True and content["measured"] is False
    page = (tmp_path / "gpu_check_rehearsal.md").read_text()
    assert lines[0] == REHEARSAL and f"**{REHEARSAL}**" in page
    assert all("rehearsal" in line for line in page.splitlines() if line.startswith("### "))


def test_the_page_has_every_verdict_row_and_warning(run_planted, tmp_path):
    run_planted(planted("fine", "crashes"))
    page = (tmp_path / "gpu_check_rehearsal.md").read_text()
    assert page.startswith(BEGIN) and page.rstrip().endswith(END)
    assert "| fine | ok |" in page and "| crashes | failed |" in page
    assert "| first | 1.5 |" in page and "| second | 3 |" in page and "- a limitation" in page
    tables = re.findall(r"(?:^\|.*\n)+", page, re.M)
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1, table


def test_without_a_gpu_the_check_is_an_input_error(tmp_path, monkeypatch):
    monkeypatch.setattr(check, "visible_devices", lambda: Devices([], [], "2.13.0", None))
    with pytest.raises(InputError, match="REHEARSE"):
        check_gpu(planted("fine"), Mode(), tmp_path / "out", 1.0, print)
    assert not (tmp_path / "out").exists()


def test_a_check_on_a_gpu_is_marked_as_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{HERE}:{ROOT}")
    monkeypatch.setattr(check, "visible_devices", lambda: Devices(["NVIDIA H200"], [150_000_000_000], "2.13.0", "13.0"))
    check_gpu(planted("fine"), Mode(), tmp_path, 1.0, lambda line: None)
    content = json.loads((tmp_path / "gpu_check.json").read_text())
    assert content["measured"] is True and "1 x NVIDIA H200" in content["machine"]
    assert "REHEARSAL" not in (tmp_path / "gpu_check.md").read_text()


def test_the_limits_keep_a_machine_with_one_gpu_below_ten_minutes():
    assert sum(part.limit for part in PARTS if part.name != "processes") < 600
    assert {part.name for part in chosen_parts(None, short=True)} == {"environment", "decoding", "zero", "speed"}


def test_an_unknown_part_is_an_input_error():
    with pytest.raises(InputError, match=r"decodin.*decoding"):
        chosen_parts(["decodin"])


def test_doctor_runs_the_short_form_and_prints_its_json(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{HERE}:{ROOT}")
    monkeypatch.setattr(check, "PARTS", (*planted("crashes"), replace(planted("fine")[0], short=True)))
    result = CliRunner().invoke(app, ["doctor", "--gpu", "--rehearse", "--json", "--folder", str(tmp_path)])
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content["short"] and content["rehearsal"] and list(by_name(content)) == ["fine"]
    assert "fine OK" in result.stderr
    assert "`hpc-jepa doctor --gpu`" in (tmp_path / "gpu_check_rehearsal.md").read_text()


def test_doctor_without_a_gpu_is_an_input_error(tmp_path, monkeypatch):
    monkeypatch.setattr(check, "visible_devices", lambda: Devices([], [], "2.13.0", None))
    result = CliRunner().invoke(app, ["doctor", "--gpu", "--folder", str(tmp_path)])
    assert result.exit_code == 2 and "REHEARSE=1" in result.stderr
    assert not list(tmp_path.iterdir())


def test_clips_that_do_not_fit_into_the_memory_are_halved_in_a_new_process(monkeypatch):
    started = []

    def process(command):
        """Up to sixteen clips fit."""
        clips = json.loads(command[-1])["clips"]
        started.append(clips)
        for count in clips:
            if count > 16:
                yield {"clips": count, "error": step_time.OUT_OF_MEMORY}
                return
            yield {"clips": count, "ms": 1.0}

    monkeypatch.setattr(speed, "json_lines", process)
    found = list(speed.timed(speed.BASE, (), rehearse=False))
    assert started == [[64, 8, 2], [32, 8, 2], [16, 8, 2]]
    assert [row["clips"] for row in found if "ms" in row] == [16, 8, 2]
    assert [row["clips"] for row in found if "error" in row] == [64, 32]


def test_a_process_ends_at_the_first_number_of_clips_that_does_not_fit(monkeypatch):
    def time_steps(runner, timing, clips):
        if clips == 8:
            raise torch.OutOfMemoryError("planted")
        return {"ms": 1.0}

    monkeypatch.setattr(step_time, "time_steps", time_steps)
    monkeypatch.setattr(step_runner, "StepRunner", lambda config: SimpleNamespace(device=torch.device("cpu")))
    timing = step_time.StepTiming(speed.LAYERS, (), (16, 8, 2), warmup=1, steps=1)
    assert list(step_time.results(timing)) == [{"clips": 16, "ms": 1.0}, {"clips": 8, "error": step_time.OUT_OF_MEMORY}]


def test_steps_on_a_gpu_are_timed_by_events_between_two_synchronisations(monkeypatch):
    calls = []

    class Event:
        """An event at the number of calls before it."""

        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.time = float(len(calls))
            calls.append("event")

        def elapsed_time(self, later):
            assert calls[-1] == "synchronize", "read before the GPU has come to it"
            return later.time - self.time

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: calls.append("synchronize"))
    found = step_time.times(lambda: calls.append("step"), 3, torch.device("cuda", 0))
    assert calls == ["synchronize", "event", "step", "event", "step", "event", "step", "event", "synchronize"]
    assert found == [2.0, 2.0, 2.0]


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    """The JSON of a rehearsal of all parts, and what it printed into a pipe."""
    out = tmp_path_factory.mktemp("rehearsal")
    command = [sys.executable, str(TOOL), "--rehearse", "--out", str(out), "--patience", "4"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    content = json.loads((out / "gpu_check_rehearsal.json").read_text())
    assert finished.returncode == 0, [(part["name"], part["line"]) for part in content["parts"]]
    return content, finished.stdout


def tables(content, part):
    return by_name(content)[part]["tables"]


def only_table(content, part):
    (rows,) = tables(content, part).values()
    return rows


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_rehearsal_runs_every_part(rehearsal):
    content, printed = rehearsal
    found = by_name(content)
    assert list(found) == [part.name for part in PARTS]
    for part in found.values():
        assert part["status"] in ("ok", "warning"), (part["name"], part["line"])
        assert part["tables"] and part["seconds"] < part["limit"]
    assert content["counts"] == {
        status: sum(part["status"] == status for part in found.values())
        for status in {part["status"] for part in found.values()}
    }
    for name in found:
        assert re.search(rf"^\[\d+:\d\d\] {name} (OK|WARNING): ", printed, re.M), name


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_verdicts_of_the_rehearsal_follow_from_its_rows(rehearsal):
    content, _ = rehearsal
    assert len(only_table(content, "decoding")) == 8
    compared = [row for row in only_table(content, "decoding") if "difference" in row]
    assert compared and all(row["difference"] <= 3 and row["flat"] <= 3 for row in compared)
    uses = {row["codec"]: row["training_uses"] for row in only_table(content, "decoding")}
    assert uses["H.264, 8 bit"] == "the GPU" and uses["H.264, 10 bit"] == uses["AV1, 8 bit"] == "PyAV"
    tests = only_table(content, "tests")
    assert sum(row["passed"] for row in tests) > 20 and not sum(row["failed"] for row in tests)
    for row in only_table(content, "zero"):
        assert row["steps"] == 20 and row["resumed_after"] == 10 and row["skipped_steps"] == "7"
        assert row["all_losses"] < 1e-3
    for row in only_table(content, "processes"):
        assert row["steps"] == 20 and row["skipped_steps"] == "7" and row["all_losses"] < 1e-3
    resumed = tables(content, "profile")["Killed and resumed"][0]
    assert resumed["state"] == "done" and resumed["steps"] == 40 and resumed["loss_difference"] == 0
    assert resumed["resumed_after"] % 12 == 0 < resumed["repeated_steps"]
    shares = [row["share"] for row in tables(content, "profile")["Shares of the phases"]]
    assert sum(shares) == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_figures_of_the_rehearsal_are_consistent(rehearsal):
    content, _ = rehearsal
    rows = [*only_table(content, "speed"), *only_table(content, "compiled")]
    assert [row["model"] for row in rows] == [f"tiny, for ViT-{size}" for size in "BBLLBB"]
    assert [row["clips"] for row in rows] == 3 * [4, 2]
    for row in rows:
        assert row["clips_per_second"] == pytest.approx(1e3 * row["clips"] / row["ms"])
    per_clip = {row["clips"]: row["tflops_per_second"] * row["ms"] / row["clips"] for row in rows}
    assert per_clip[4] == pytest.approx(per_clip[2], rel=0.2), "FLOP of a clip do not depend on their number"
    for row in only_table(content, "kernels"):
        assert row["over_bound"] == pytest.approx(row["ours"] / row["lower_bound"])
    fastest = max(row["clips_per_second"] for row in only_table(content, "rates"))
    assert f"{fastest:.0f} clips/s" in by_name(content)["rates"]["line"]
    options = tables(content, "options")
    assert all(row["ratio"] == pytest.approx(row["ms"] / row["without"]) for rows in options.values() for row in rows)
