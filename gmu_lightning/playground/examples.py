"""Offer movies of a run's own test split, if its data are still there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from gmu_lightning.data.audit import Audit
from gmu_lightning.data.readers.layouts import reading
from gmu_lightning.data.store import Store
from gmu_lightning.movie import UserError
from gmu_lightning.prediction.trained import TrainedRun

EXCERPT = 52  # characters of a plot in a label


class Example(NamedTuple):
    """A movie of test: a short label, its true genres, and its raw contents."""

    label: str
    genres: tuple[str, ...]
    content: Mapping[str, Any]


def test_movies(run: TrainedRun, number: int) -> list[Example]:
    """Return the first movies of a run's test split that have all of its modalities.

    The data set is opened and read up to the last of them. Nothing is generated, unpacked or prepared.

    Args:
        run: whose predictions of test name the movies.
        number: of movies at most.

    Raises:
        UserError: the run has no predictions of test, or its data are not there any more.
    """
    predictions = run.run.predictions("test")
    truth = dict(zip(predictions.ids, predictions.labels, strict=True))
    data_set = run.config.data.make().data_set
    store = Store.of(run.config.store, read_only=True)
    pending = data_set.pending(store)
    if pending:
        raise UserError(f"the data of {run.run.folder} are not there any more ({pending})")
    layout = data_set.open(run.modalities, store)
    found: list[Example] = []
    with reading(layout.root):
        for movie in layout.read("test", Audit()):
            if movie.id in truth and all(m in movie.content for m in run.modalities):
                genres = tuple(g for g, yes in zip(predictions.genres, truth[movie.id], strict=True) if yes)
                found.append(Example(_label(movie.id, movie.content), genres, movie.content))
            if len(found) == number:
                break
    return found


def _label(id: str, content: Mapping[str, Any]) -> str:
    text = " ".join(str(content["text"]).split()) if isinstance(content.get("text"), str) else id
    return text if len(text) <= EXCERPT else f"{text[: EXCERPT - 2].rstrip()} …"
