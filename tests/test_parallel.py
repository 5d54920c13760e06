from __future__ import annotations

import pytest

from gmu_lightning import parallel
from gmu_lightning.console import quiet


@pytest.fixture
def clock(monkeypatch):
    """Return a clock that a test can advance."""

    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(parallel, "time", clock)
    return clock


def test_progress_without_a_terminal_prints_remaining_time(clock, capsys):
    with parallel.track("preparing video", 100) as advance:
        for _ in range(100):
            clock.now += 10
            advance(1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "preparing video: 3 of 100 movies, about 16 min left"
    assert lines[-2] == "preparing video: 99 of 100 movies, about 10 s left"
    assert lines[-1] == "preparing video: 100 movies in 1000.0 s"
    assert len(lines) == 34


def test_quick_work_prints_one_line(clock, capsys):
    with parallel.track("preparing text", 3) as advance:
        advance(3)
    assert capsys.readouterr().err == "preparing text: 3 movies in 0.0 s\n"


def test_a_quiet_process_shows_no_progress(capsys):
    quiet()
    with parallel.track("preparing text", 3) as advance:
        advance(3)
    assert capsys.readouterr().err == ""
