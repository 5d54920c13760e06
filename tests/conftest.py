"""What every test starts from."""

from __future__ import annotations

import pytest

from gmu_lightning.data.progress import QUIET


@pytest.fixture(autouse=True)
def loud(monkeypatch) -> None:
    """A sweep's job quiets its process for good, and a test may have been such a process."""
    monkeypatch.delenv(QUIET, raising=False)
