"""Fixtures of all tests."""

from __future__ import annotations

import gc

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
