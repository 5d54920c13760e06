from __future__ import annotations

import pytest

from gmu_lightning.data import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves on."""

    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_without_a_terminal_a_line_now_and_then_says_what_is_left(clock, capsys):
    with progress.track("preparing video", 100) as advance:
        for _ in range(100):
            clock.now += 10
            advance(1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "preparing video: 3 of 100 movies, about 16 min left"
    assert lines[-2] == "preparing video: 99 of 100 movies, about 10 s left"
    assert lines[-1] == "preparing video: 100 movies in 1000.0 s"
    assert len(lines) == 34


def test_what_is_quick_is_one_line(clock, capsys):
    with progress.track("preparing text", 3) as advance:
        advance(3)
    assert capsys.readouterr().err == "preparing text: 3 movies in 0.0 s\n"


def test_a_job_of_a_sweep_is_quiet(monkeypatch, capsys):
    monkeypatch.setenv(progress.QUIET, "1")
    with progress.track("preparing text", 3) as advance:
        advance(3)
    assert capsys.readouterr().err == ""
