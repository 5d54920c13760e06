"""Fixtures of the report's tests."""

from __future__ import annotations

import pytest

from gmu_lightning.run import Run, runs_under
from tests.report.made_runs import Sweep


@pytest.fixture
def sweep(tmp_path) -> Sweep:
    """Return an empty folder to which a test writes finished runs."""
    return Sweep(tmp_path / "sweep")


@pytest.fixture
def compared(sweep) -> Sweep:
    """Return a folder with the runs of three settings."""
    sweep.three_settings()
    return sweep


@pytest.fixture
def runs(compared) -> list[Run]:
    """Return the runs of three settings."""
    return runs_under(compared.folder)
