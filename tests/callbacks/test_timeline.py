"""The clock of a run's loop: every moment belongs to one thing."""

from __future__ import annotations

import pytest
import torch

from gmu_lightning.callbacks import timeline
from gmu_lightning.callbacks.timeline import LoopTimes, Timeline
from gmu_lightning.lightning import pl

CPU = torch.device("cpu")


@pytest.fixture
def tick(monkeypatch):
    """A clock that shows one second more each time it is read."""
    seconds = iter(range(1000))
    monkeypatch.setattr(timeline.time, "perf_counter", lambda: float(next(seconds)))


def test_a_moment_belongs_to_the_innermost_thing(tick):
    line = Timeline("rest", CPU)  # 0
    line.enter("optimizer")  # 1
    line.enter("forward")  # 2
    line.leave()  # 3
    line.leave()  # 4
    assert line.take() == [("rest", 1), ("optimizer", 1), ("forward", 1), ("optimizer", 1), ("rest", 1)]


def test_what_was_going_on_at_a_reading_goes_on_after_it(tick):
    line = Timeline("rest", CPU)
    line.enter("forward")
    assert line.take() == [("rest", 1), ("forward", 1)]
    line.leave()
    assert line.take() == [("forward", 1), ("rest", 1)]


def test_another_base_waits_until_what_it_stands_under_has_ended(tick):
    line = Timeline("between", CPU)
    line.enter("data")
    line.rebase("rest")
    line.leave()
    line.rebase("rest")  # already
    line.rebase("between")
    assert line.take() == [("between", 1), ("data", 1), ("rest", 1), ("between", 1)]


class Heard(pl.profilers.Profiler):
    def __init__(self):
        super().__init__()
        self.said: list[tuple[str, str]] = []

    def start(self, action_name: str) -> None:
        self.said.append(("start", action_name))

    def stop(self, action_name: str) -> None:
        self.said.append(("stop", action_name))


def test_the_loops_actions_are_told_by_their_names_and_nothing_apart_within_the_whole(tick):
    line, heard = Timeline("rest", CPU), Heard()
    times = LoopTimes(line, {"backward": "backward", "save": "save"}, whole="validation", always="save", before=heard)
    actions = ["[Strategy]Single.backward", "[Callback]Other.backward", "unknown"]
    for action in actions:
        with times.profile(action):
            pass
    line.enter("validation")
    for action in ("[Strategy]Single.backward", "save"):
        with times.profile(action):
            pass
    line.leave()
    found = [label for label, _ in line.take()]
    assert found == ["rest", "backward", "rest", "validation", "save", "validation", "rest"]
    assert [action for how, action in heard.said if how == "start"] == [*actions, "[Strategy]Single.backward", "save"]
    assert len(heard.said) == 2 * 5  # whoever profiled before still hears all of it
