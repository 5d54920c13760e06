"""Moviescope from disk to leaderboard: both layouts, whole and damaged, by one command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gmu_lightning.run import runs_under

from ..data.moviescope_files import damage, marker, write
from .shell import typed

MOVIES = (24, 12, 12)
CROSSED = ("-m", "data=moviescope", "trainer.max_epochs=1", "trainer.threads=1", "fusion.dim=8", "hydra.sweep.dir=sweep")
SUBSETS = {
    "full": "modalities=text,text+video,text+video+audio+image+metadata",
    "teaching": "modalities=text,text+video,text+video+audio",
}


@pytest.mark.heavy
@pytest.mark.parametrize("layout", SUBSETS)
def test_a_sweep_over_subsets_survives_damaged_files(layout, tmp_path):
    root = write(tmp_path / "movies", layout, MOVIES)
    harmed = damage(root, 0.1, np.random.default_rng(1))
    said = typed(
        "train",
        *(*CROSSED, f"data.root={root}", SUBSETS[layout], "fusion=none,gmu_hier,mult_gmu"),
        folder=tmp_path,
        store=tmp_path / "store",
    )
    assert said.returncode == 0, said.stderr
    runs = {run.config["modalities"]: run for run in runs_under(tmp_path / "sweep") if run.status["state"] == "finished"}
    assert set(runs) == set(SUBSETS[layout].removeprefix("modalities=").split(","))
    widest = max(runs, key=len)
    audit = json.loads((runs[widest] / "audit.json").read_text())
    named = {(problem["id"], problem["kind"]) for problem in audit["problems"]}
    assert {(id, kind) for (id, modality), kind in harmed.items() if modality in widest.split("+")} <= named
    assert sum(audit["movies"].values()) == sum(MOVIES)
    assert not marker(root).exists()


def test_a_check_needs_no_size_that_train_would_tell(tmp_path):
    root = write(tmp_path / "movies", "teaching", (4, 2, 2))
    words = ("data=moviescope", f"data.root={root}", "modalities=text+video", "check=true")
    said = typed("train", *words, folder=tmp_path, store=tmp_path / "store")
    assert said.returncode == 0, said.stderr
    assert "1 of 1 jobs would run" in said.stdout
    assert not Path(tmp_path / "store").exists()


@pytest.mark.heavy
def test_an_odd_cell_costs_only_that_cell(tmp_path):
    root = write(tmp_path / "movies", movies=MOVIES)
    table = root / "metadata.csv"
    rows = [f"{3015 + n},{n * 37 % 101},{'ab'[n % 2]}" for n in range(sum(MOVIES))]
    words = ("data=moviescope", f"data.root={root}", "data.metadata=table", "modalities=metadata", "fusion=none")

    def with_cell(row: int, cell: str) -> None:
        lines = [*rows[:row], f"{3015 + row},{cell},a", *rows[row + 1 :]]
        table.write_text("\n".join(["id,budget,studio", *lines]) + "\n")

    with_cell(7, "N/A")
    said = typed("train", *words, "trainer.max_epochs=1", "hydra.run.dir=run", folder=tmp_path, store=tmp_path / "store")
    assert said.returncode == 0 and "columns read as numbers: budget" in said.stderr, said.stderr
    assert json.loads((tmp_path / "run/audit.json").read_text())["columns"]["budget"]["train"] == {
        **{"filled": 23, "missing": 1, "unfit": 0}
    }
    with_cell(40, "a lot")
    said = typed("evaluate", "run=run", folder=tmp_path, store=tmp_path / "store")
    assert said.returncode == 0 and "1 movie kept: a cell that does not fit its column (3055)" in said.stderr, said.stderr
    folder = next((tmp_path / "run/evaluate").iterdir())
    assert json.loads((folder / "audit.json").read_text())["counts"] == {"bad_cell": 1}
    assert json.loads((folder / "metrics.json").read_text())["test/movies_without_input"] == 0
