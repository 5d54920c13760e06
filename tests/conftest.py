"""Fixtures of all tests."""

from __future__ import annotations

import pytest

from gmu_lightning.console import loud


@pytest.fixture(autouse=True)
def every_message() -> None:
    """Turn messages on again, because a sweep's job turns them off for its whole process."""
    loud()
