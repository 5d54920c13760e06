"""Offer movies of a run's own test split, if its data are still there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gmu_lightning.data.audit import Audit
from gmu_lightning.data.readers.layouts import reading
from gmu_lightning.data.store import Store
from gmu_lightning.movie import UserError
from gmu_lightning.prediction.trained import TrainedRun

LONGEST = 60  # characters of a label, which Gradio cuts off there


class Example(NamedTuple):
    """A movie of test: a short label with its true genres, these genres, and its raw contents."""

    label: str
    genres: tuple[str, ...]
    content: Mapping[str, Any]


def test_movies(run: TrainedRun, number: int) -> list[Example]:
    """Return the first movies of a run's test split that have all of its modalities.

    The data set is opened and read up to the last of them. Data that have to be generated or unpacked first are an error.

    Args:
        run: whose predictions of test name the movies.
        number: of movies at most.

    Raises:
        UserError: it is an exported model, has no predictions of test, or its data are not there any more.
    """
    if run.exported is not None:
        raise UserError("an exported model holds no movies")
    predictions = run.run.predictions("test")
    truth = dict(zip(predictions.ids, predictions.labels, strict=True))
    data_set = run.config.data.make().data_set
    store = Store.of(run.config.store, read_only=True)
    pending = data_set.pending(store)
    if pending:
        raise UserError(f"the data of {run.run.folder} are not there any more ({pending})")
    layout = data_set.open(run.modalities, store)
    found: list[Example] = []
    splits = ("test", "val", "train") if data_set.split == "random" else ("test",)
    with reading(layout.root):
        for movie in (movie for split in splits for movie in layout.read(split, Audit())):
            if movie.id in truth and all(m in movie.content for m in run.modalities):
                genres = tuple(g for g, yes in zip(predictions.genres, truth[movie.id], strict=True) if yes)
                found.append(Example(_label(movie.id, movie.content.get("text"), genres), genres, movie.content))
            if len(found) == number:
                break
    return found


def _label(id: str, text: Any, genres: Sequence[str]) -> str:
    """Return the beginning of a plot, or the id, and the true genres."""
    truth = f" ({', '.join(genres) or 'no genre'})"
    words = " ".join(text.split()) if isinstance(text, str) else id
    room = max(LONGEST // 3, LONGEST - len(truth))
    return f"{words if len(words) <= room else f'{words[: room - 2].rstrip()} …'}{truth}"
