"""Reasons are told in sentences: genres by probability, the strongest pieces, and at least one piece of each modality."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gmu_lightning.explanation.page import card, page
from gmu_lightning.explanation.reasons import Effect, Reasons

TEXT = "A ship sails. A storm comes. All drown."
CELLS = (3.0, -2.5, 2.0, 0.0)


@pytest.fixture
def reasons():
    """A movie whose cells speak louder than its sentences. The fourth cell changes no logit."""
    cells = [Effect("image", {"row": 1, "column": n + 1}, np.array([effect, effect / 2])) for n, effect in enumerate(CELLS)]
    places = ((0, 14), (14, 28), (28, 39))
    sentences = [
        Effect("text", {"start": start, "end": end}, np.array([effect, 0.0]))
        for (start, end), effect in zip(places, (0.4, 0.7, -0.9), strict=True)
    ]
    one = {m: np.array([1.0, 0.5]) for m in ("text", "image")}
    return Reasons(
        id="a",
        genres=("Drama", "War"),
        predicted=("Drama", "War"),
        logits=np.array([0.5, 2.0]),
        probabilities=np.array([0.62, 0.88]),
        bias=np.zeros(2),
        contributions=one,
        without=one,
        shapley=one,
        pieces=[*sentences, *cells],
        words=None,
        problem=None,
        content={"text": TEXT, "image": Path("absent.jpg")},
    )


def test_the_most_probable_genre_comes_first(reasons):
    heads = [line.partition(":")[0] for line in reasons.sentences() if "probability" in line]
    assert heads == ["War", "Drama"]


def test_each_modality_has_the_piece_that_speaks_most_for_the_genre(reasons):
    told = reasons.sentences()
    of_drama = [line.strip() for line in told[told.index("Drama: logit +0.50, probability 0.620") :]]
    assert [line for line in of_drama if " Drama by " in line] == [
        "covering row 1, column 1 of the image lowers Drama by 3.00 logits",
        "covering row 1, column 2 of the image raises Drama by 2.50 logits",
        "covering row 1, column 3 of the image lowers Drama by 2.00 logits",
        'removing this sentence lowers Drama by 0.70 logits: "A storm comes."',
    ]


def test_pieces_without_an_effect_are_not_told(reasons):
    assert not any("sentence" in line and " War by " in line for line in reasons.sentences())


def test_the_page_counts_cells_that_change_nothing(reasons):
    text = page([card(reasons, "a", None)], 1, ["run"])
    assert "1 of 4 cells change no genre&#39;s logit" in text or "1 of 4 cells change no genre's logit" in text
