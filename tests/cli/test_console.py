"""Progress where there is no terminal."""

import pytest

from hpc_jepa.cli import console


@pytest.fixture
def clock(monkeypatch, capsys):
    """``clock(seconds)`` lets time pass; returns the lines printed since the last call."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    def advance(seconds):
        now[0] += seconds
        return capsys.readouterr().err.splitlines()

    return advance


def test_a_long_command_prints_a_line_a_minute_into_a_pipe(clock):
    with console.progress_bar("verify", 10) as advance:
        lines = []
        for _ in range(6):
            lines += clock(25)
            advance()
        lines += clock(0)
    assert [line.split()[:2] for line in lines] == [["verify", "3/10"], ["verify", "6/10"]]


def test_only_runs_that_moved_are_printed(clock):
    with console.progress_bars(["a", "b"], [5, 5]) as show:
        clock(61)
        show(1, 2, "loss 0.5")
        lines = clock(61)
        show(1, 2, "loss 0.5")
        assert clock(0) == []
    assert len(lines) == 1 and lines[0].split()[:2] == ["b", "2/5"] and "loss 0.5" in lines[0]
