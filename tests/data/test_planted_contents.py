"""Each planted modality shows its claims and confidence, and does not reveal the true modality."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from gmu_lightning.data.planted import Planted, generate
from gmu_lightning.data.planted.content import SINGLE_GENRES, SWITCH_GENRES
from gmu_lightning.data.store import Store
from gmu_lightning.encoders.metadata import TablePreparation

MODALITIES = ("video", "audio", "metadata")
MOVIES = 900


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Return {modality: (N, d)}, the truth of each movie, and the table of movies."""
    folder = generate(tmp_path_factory.mktemp("planted") / "made", MOVIES, 1, modalities=MODALITIES)
    data = Planted(str(folder), modalities="+".join(MODALITIES)).load(MODALITIES, Store(folder.parent / "store"))
    rows = data.contents("metadata")
    table = TablePreparation(min_count=1).fit(rows)
    seen = {
        "video": np.array([content.load().mean(axis=0) for content in data.contents("video")]),
        "audio": np.array([content.load().mean(axis=1) for content in data.contents("audio")]),
        "metadata": np.array([table.store(row) for row in rows]),
    }
    truth = {row["id"]: row for row in map(json.loads, (folder / "truth.jsonl").read_text().splitlines())}
    return seen, [truth[movie.id] for movie in data.movies], data


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_modality_shows_its_claims_and_confidence(planted, modality):
    seen, truth, _ = planted
    x, half = seen[modality], MOVIES // 2
    for genre in (*SWITCH_GENRES, *SINGLE_GENRES[modality]):
        claimed = np.array([genre in row["claims"][modality] for row in truth])
        probe = LogisticRegression(max_iter=2000, C=100).fit(x[:half], claimed[:half])
        assert probe.score(x[half:], claimed[half:]) > 0.97, genre
    sure = np.array([row["level"] + (row["switch"] == modality) for row in truth], dtype=float)
    probe = Ridge(1e-3).fit(x[:half], sure[:half])
    assert np.corrcoef(probe.predict(x[half:]), sure[half:])[0, 1] > 0.95


@pytest.mark.parametrize("modality", MODALITIES)
def test_no_single_modality_reveals_the_true_one(planted, modality):
    seen, truth, _ = planted
    x, half = seen[modality], MOVIES // 2
    true = np.array([row["switch"] == modality for row in truth])
    probe = LogisticRegression(max_iter=2000).fit(x[:half], true[:half])
    told = np.corrcoef(probe.predict_proba(x[half:])[:, 1], true[half:])[0, 1]
    assert told < 0.6  # the level alone reveals a part; its difference to the others reveals all


def test_labels_are_the_claims_of_the_deciding_modality(planted):
    _, truth, data = planted
    for movie, row in zip(data.movies, truth, strict=True):
        claimed = {genre for genre in row["claims"][row["switch"]] if genre in SWITCH_GENRES}
        claimed |= {genre for m in MODALITIES for genre in row["claims"][m] if genre in SINGLE_GENRES[m]}
        assert set(movie.genres) == claimed
