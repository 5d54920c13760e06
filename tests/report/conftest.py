"""What most tests of reports begin with."""

from __future__ import annotations

import pytest

from tests.report.made import Sweep


@pytest.fixture
def sweep(tmp_path) -> Sweep:
    """A folder of made runs."""
    return Sweep(tmp_path / "sweep")
