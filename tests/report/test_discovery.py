"""Runs are found in folders, and unreadable runs are listed with a reason."""

from __future__ import annotations

import pytest

from gmu_lightning.movie import UserError
from gmu_lightning.report.comparison import compare
from gmu_lightning.report.discovery import left_in, runs_in
from gmu_lightning.report.page.movies import ExampleMovies
from gmu_lightning.report.page.write import page
from gmu_lightning.report.sentences import as_json, markdown

from .made_runs import Sweep


def test_unreadable_runs_are_listed_with_a_reason(sweep):
    runs = sweep.rivals()
    (runs[0] / "config.yaml").unlink()
    (runs[1] / "status.json").unlink()
    runs[3].end("running")
    left = left_in([sweep.folder])
    assert dict(left) == {
        str(runs[0].folder): "it lacks config.yaml",
        str(runs[1].folder): "it lacks status.json",
        str(runs[3].folder): "it did not end",
    }
    found = compare(runs_in([sweep.folder]), left=left)
    assert as_json(found)["left_out"][0] == dict(zip(("folder", "why"), left[0], strict=True))
    for text in (markdown(found), page(found, runs_in([sweep.folder]), ExampleMovies())):
        assert all(f"{folder}: {why}" in text for folder, why in left)


def test_runs_are_found_in_sweeps_and_single_folders(sweep, tmp_path):
    alone = sweep.run("mean", 1)
    Sweep(tmp_path / "other").run("mean", 2)
    assert [run.folder for run in runs_in([alone.folder, tmp_path / "other"])] == [alone.folder, *(tmp_path / "other").iterdir()]


@pytest.mark.parametrize(("folder", "sentence"), [("away", "does not exist"), ("empty", "holds no run")])
def test_folder_without_runs_is_refused(tmp_path, folder, sentence):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=sentence):
        runs_in([tmp_path / folder])
