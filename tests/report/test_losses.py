"""The page's table of what scores lose without a modality."""

from __future__ import annotations

import shlex

import numpy as np
import pytest

from gmu_lightning.report.comparison import compare
from gmu_lightning.report.page.shown import Shown
from gmu_lightning.report.page.write import page
from gmu_lightning.run import Run, runs_under

from .made import GENRES, Sweep, study
from .reading import Tables

COLUMN = "micro F1 lost without text"


@pytest.fixture
def sweep(tmp_path) -> Sweep:
    made = Sweep(tmp_path / "sweep")
    made.rivals()
    made.three_seeds("none", modalities="text")
    return made


def shown(sweep: Sweep) -> Tables:
    runs = runs_under(sweep.folder)
    return Tables(page(compare(runs), runs, Shown()))


def asking(found: Tables) -> list[list[str]]:
    """The words of every command that asks for losses."""
    copied = [attributes.get("data-copy") or "" for _, attributes in found.tags]
    return [shlex.split(command) for command in copied if "robustness=true" in command]


def test_every_setting_of_several_modalities_can_be_asked(sweep):
    found = shown(sweep)
    rows = {row["setting"][0]: row for row in found.rows(COLUMN)}
    assert set(rows) == {"gmu_original text+image", "concat text+image"}
    assert {row["seeds asked"][0] for row in rows.values()} == {"0 of 3 copy"}
    runs = sorted(str(run) for run in sweep.folder.glob("*") if "none" not in run.name)
    assert sorted(word[4:] for words in asking(found) for word in words if word.startswith("run=")) == runs


def test_a_mean_s_losses_stand_beside_a_gate_s(sweep):
    for n, run in enumerate(sorted(sweep.folder.glob("concat*"))):
        study(Run(run), {"text": 0.1 * (n + 1), "image": 0.05})
    rows = {row["setting"][0]: row for row in shown(sweep).rows(COLUMN)}
    assert float(rows["concat text+image"][COLUMN][1]) == pytest.approx(0.2)
    assert float(rows["concat text+image"]["micro AP lost without image"][1]) == pytest.approx(0.05)
    assert rows["concat text+image"]["seeds asked"][0] == "3 of 3"
    assert np.isnan(float(rows["gmu_original text+image"][COLUMN][1] or "nan"))


def test_seeds_that_were_not_asked_still_can_be(sweep):
    first, *others = sorted(sweep.folder.glob("gmu_original*"))
    study(Run(first), {"text": 0.3, "image": 0.1}, by_genre=GENRES)
    found = shown(sweep)
    rows = {row["setting"][0]: row for row in found.rows(COLUMN)}
    assert rows["gmu_original text+image"]["seeds asked"][0] == "1 of 3 copy"
    (of_gmu,) = (words for words in asking(found) if any("gmu_original" in word for word in words))
    assert [word[4:] for word in of_gmu if word.startswith("run=")] == [str(run) for run in others]
