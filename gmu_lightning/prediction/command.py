"""The work of `python -m gmu_lightning.predict`: one movie that is typed, or the rows of a file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol

from gmu_lightning.data.files.inputs import InputRow
from gmu_lightning.movie import UserError
from gmu_lightning.parallel import track
from gmu_lightning.prediction.classifier import Classifier, Explain
from gmu_lightning.prediction.output import Companion, Count, Parts
from gmu_lightning.prediction.results import FAULTY, Form, Results
from gmu_lightning.prediction.rows import typed_row
from gmu_lightning.prediction.show import shown

logger = logging.getLogger(__name__)


class Why(Protocol):
    """The reasons of a prediction."""

    @property
    def costly(self) -> bool:
        """Whether the reasons of a row take seconds."""
        ...

    def explain(self, total: int) -> Explain:
        """Return the function that explains chunks of a prediction of `total` rows. Raises UserError."""
        ...

    def companion(self, output: Path) -> Companion:
        """Return the writer of the files beside an output."""
        ...


def predict_typed(
    classifier: Classifier, typed: Mapping[str, str], output: Path | None, form: Form, strict: bool, why: Why | None = None
) -> None:
    """Predict the movie that was typed, print the result, and write it if there is an output.

    Args:
        classifier: of the runs.
        typed: {key behind `movie.`: value}, as in `typed_row`.
        output: file of the prediction, as `check_output` accepts it, or None.
        form: of the prediction.
        strict: whether a problem of the movie is an error.
        why: the reasons to compute, or None. They are printed, and written beside an output.

    Raises:
        UserError: an argument is wrong, or the movie cannot be predicted.
    """
    row = typed_row(typed, classifier.modalities, classifier.metadata)
    (results,) = classifier.results([[row]], 1, form, why.explain(1) if why else None)
    if not results.predicted[0]:
        raise UserError(f"the movie cannot be predicted: {results.problems[0]}")
    print("\n".join([shown(results), *(line for reasons in results.reasons for line in reasons.sentences())]))
    if output is not None:
        beside = why.companion(output) if why else None
        parts = Parts(output, [], beside)
        with parts.held():
            parts.begin([row])
            parts.write(0, results)
            parts.join(form.about())
        print("\n".join([str(output), *_named(beside)]))
    if strict and results.problems[0]:
        raise UserError(f"strict=true, and the movie has a problem: {results.problems[0]}")


def predict_file(
    classifier: Classifier,
    source: str,
    output: Path,
    columns: Mapping[str, object],
    form: Form,
    strict: bool,
    why: Why | None = None,
) -> None:
    """Predict every row of a file or folder, and write the predictions.

    An interrupted prediction continues from its finished parts, if runs, options and the rows in them are unchanged.

    Args:
        classifier: of the runs.
        source: the file or folder.
        output: file of the predictions, as `check_output` accepts it.
        columns: {role: column} that was typed.
        form: of the predictions.
        strict: whether a problem of a row is an error. The output is written all the same.
        why: the reasons to compute and write beside the output, or None.

    Raises:
        UserError: an argument is wrong, the input cannot be read, or no row can be predicted.
    """
    rows, total = classifier.rows(source, columns)
    if output.exists() and output.samefile(Path(source).expanduser()):
        raise UserError(f"output={output} is the input: give another file")
    state = [*(part for run in classifier.runs for part in run.state()), form.about(), form.several]
    if why is not None:
        state.append(repr(why))
    explain = why.explain(total) if why else None
    beside = why.companion(output) if why else None
    parts = Parts(output, state, beside)
    chunks = classifier.chunks(rows, costly=why is not None and why.costly)
    with parts.held():
        _predict_missing(lambda missing: classifier.results(missing, total, form, explain), chunks, total, parts)
        count = parts.join(form.about())
    print("\n".join([f"{count.predicted} of {count.rows} rows are predicted, in {output}", *_named(beside)]))
    _check(count, strict)


def _named(beside: Companion | None) -> list[str]:
    return [] if beside is None else [str(path) for path in beside.paths]


def _predict_missing(
    results_of: Callable[[Iterator[Sequence[InputRow]]], Generator[Results, None, None]],
    chunks: Iterable[Sequence[InputRow]],
    total: int,
    parts: Parts,
) -> None:
    """Predict the chunks whose part is not finished, and write their parts."""
    waiting: list[int] = []
    with track("predicting", total) as advance:

        def missing() -> Iterator[Sequence[InputRow]]:
            for number, chunk in enumerate(chunks):
                if parts.begin(chunk):
                    advance(len(chunk))
                else:
                    waiting.append(number)
                    yield chunk

        with closing(results_of(missing())) as predicted:
            for results in predicted:
                parts.write(waiting.pop(0), results)
                advance(len(results))


def _check(count: Count, strict: bool) -> None:
    """Raise UserError if no row was predicted or, with `strict`, if a row has a problem."""
    if count.first is None or (count.predicted and not strict):
        if count.faulty:
            logger.warning(FAULTY, count.faulty, count.rows)
        return
    id, problem = count.first
    first = f"the first is {id}, and {problem}"
    if not count.predicted:
        raise UserError(f"no row of {count.rows} could be predicted: {first}")
    raise UserError(f"strict=true, and {count.faulty} of {count.rows} rows have a problem: {first}")
