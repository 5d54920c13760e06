"""Fixtures of all tests."""

from __future__ import annotations

import gc
import signal

import pytest

from gmu_lightning.console import loud


def pytest_collection_finish() -> None:
    """Exempt all that the imports made from garbage collection, which libraries call in every test."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def every_message() -> None:
    """Turn messages on again, because a sweep's job turns them off for its whole process."""
    loud()


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell; tests send Ctrl-C to themselves
    signal.signal(signal.SIGINT, signal.default_int_handler)
