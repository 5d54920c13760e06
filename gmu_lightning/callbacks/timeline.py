"""One clock for a run's loop: what is being done now, and for how long it was."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch

from gmu_lightning.lightning import pl


class Timeline:
    """Stretches of time, each of them of the innermost thing that was begun and has not ended: they overlap nowhere.

    On a GPU, which runs behind the host, marks are CUDA events on the current stream, and nobody waits for them before `take`:
    a stretch is then what lies between two marks on the GPU, so that `data` is what it stood still for, not what the host did.

    Args:
        base: what is being done where nothing else has begun.
        device: whose time it is.
    """

    def __init__(self, base: str, device: torch.device):
        self._cuda = device.type == "cuda"
        self._stack = [base]
        self._marks: list[tuple[str, Any]] = []
        self._spare: list[Any] = []  # events that may be recorded again
        self._mark()

    @property
    def now(self) -> str:
        """What is being done."""
        return self._stack[-1]

    def enter(self, label: str) -> None:
        """Something begins."""
        self._stack.append(label)
        self._mark()

    def leave(self) -> None:
        """What began last ends."""
        self._stack.pop()
        self._mark()

    def rebase(self, base: str) -> None:
        """From here on this is what is done where nothing else has begun."""
        changed, self._stack[0] = self._stack[0] != base, base
        if changed and len(self._stack) == 1:
            self._mark()

    def under(self, label: str) -> bool:
        """Whether this has begun and not ended."""
        return label in self._stack

    def take(self) -> list[tuple[str, float]]:
        """(label, seconds) of every stretch since the last call, in order; on a GPU it waits for the last of them."""
        self._mark()
        marks, self._marks = self._marks, self._marks[-1:]
        if self._cuda:
            marks[-1][1].synchronize()
        pairs = list(pairwise(marks))
        if self._cuda:
            self._spare += [event for _, event in marks[:-1]]
            return [(label, start.elapsed_time(end) / 1000) for (label, start), (_, end) in pairs]
        return [(label, end - start) for (label, start), (_, end) in pairs]

    def _mark(self) -> None:
        if not self._cuda:
            self._marks.append((self._stack[-1], time.perf_counter()))
            return
        event = self._spare.pop() if self._spare else torch.cuda.Event(enable_timing=True)
        event.record()
        self._marks.append((self._stack[-1], event))


class LoopTimes(pl.profilers.Profiler):
    """Lightning's own account of what its loop is doing, told to a timeline, and to the profiler that was there before.

    Args:
        timeline: where it is told.
        labels: {what Lightning calls an action, without the class it belongs to: the timeline's label}; what is not here is
            left to whatever it happens within.
        whole: a label within which nothing is told apart, but for `always`.
        before: the trainer's profiler.
    """

    def __init__(self, timeline: Timeline, labels: Mapping[str, str], whole: str, always: str, before: pl.profilers.Profiler):
        super().__init__()
        self.before = before
        self._timeline, self._labels, self._whole, self._always = timeline, labels, whole, always
        self._known: dict[str, str | None] = {}

    def start(self, action_name: str) -> None:
        """An action of the loop begins."""
        self.before.start(action_name)
        label = self._label(action_name)
        if label is not None:
            self._timeline.enter(label)

    def stop(self, action_name: str) -> None:
        """It has ended."""
        if self._label(action_name) is not None:
            self._timeline.leave()
        self.before.stop(action_name)

    def _label(self, action: str) -> str | None:
        if action not in self._known:
            name = action.rsplit(".", 1)[-1]
            self._known[action] = None if action.startswith("[Callback]") else self._labels.get(name)
        label = self._known[action]
        if label is None or (label != self._always and self._timeline.under(self._whole)):
            return None
        return label
