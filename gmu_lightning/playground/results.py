"""The answers of the page: genres as bars, the share of each modality, and on demand the effects of pieces, as HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from gmu_lightning.data.files.inputs import InputRow
from gmu_lightning.explanation import page
from gmu_lightning.explanation.explain import Level, explained_row
from gmu_lightning.explanation.pieces import GRID
from gmu_lightning.explanation.reasons import Reasons
from gmu_lightning.movie import MODALITIES, UserError
from gmu_lightning.playground.examples import Example, test_movies
from gmu_lightning.playground.movie import FILES, WORDS, Field, content_of, fields_of
from gmu_lightning.prediction.classifier import Classifier
from gmu_lightning.prediction.results import Form
from gmu_lightning.prediction.rows import ONE
from gmu_lightning.prediction.trained import TrainedRun
from gmu_lightning.visible import visible

OWN = Path(__file__).parent / "template"
ALL_OFF = "Everything that is entered is switched off: switch an input on."
FIRST = 6  # genres that are shown at once, also if fewer are predicted


@dataclass(frozen=True)
class Player:
    """One run of the page.

    Attributes:
        classifier: of the run.
        form: of its predictions.
        title: its fusion in words; different for each run.
        facts: its encoders, data, seed and score.
    """

    classifier: Classifier
    form: Form
    title: str
    facts: tuple[str, ...]


class Playground:
    """Answer the page's requests, without a browser or a server.

    Args:
        classifiers: one for each run.
        threshold: as in `Classifier.form`.
        uploads: folder of uploaded files.
        examples: number of test movies to offer.

    Attributes:
        fields: of the page.
        modalities: that can be switched on and off.

    Raises:
        UserError: the threshold is no rule of a run, or nothing can be entered.
    """

    def __init__(self, classifiers: Sequence[Classifier], threshold: str, uploads: Path, examples: int):
        self.players = _players(classifiers, threshold)
        self.fields: list[Field] = fields_of(classifiers)
        self.uploads, self.number = uploads, examples
        self.modalities = [m for m in MODALITIES if any(field.modality == m for field in self.fields)]

    def head(self) -> str:
        """Return the title of the page as HTML."""
        unread = {m for player in self.players for m in player.classifier.modalities} - set(self.modalities)
        return self._rendered("head", players=self.players, inputs=self.modalities, unread=[m for m in MODALITIES if m in unread])

    def examples(self) -> tuple[list[Example], str]:
        """Return movies of the first run's test split, and the reason as a sentence if there are none."""
        run = self.players[0].classifier.runs[0]
        if not self.number:
            return [], ""
        try:
            return test_movies(run, self.number), ""
        except (UserError, OSError) as error:
            return [], f"There are no examples: {error}"

    def answer(self, values: Sequence[Any], used: Sequence[str], why: Level = "modalities") -> str:
        """Return the predictions of all runs as HTML, or one sentence if the movie cannot be predicted.

        Args:
            values: of the fields.
            used: modalities that are switched on.
            why: the level of detail.
        """
        try:
            content = content_of(self.fields, values, used, self.uploads)
        except UserError as error:
            return self._rendered("problem", sentence=_sentence(error), kind="")
        if not content:
            entered = content_of(self.fields, values, self.modalities, self.uploads)
            return self._rendered("problem", sentence=ALL_OFF if entered else self._nothing(), kind="hint")
        columns = [self._column(player, content, values, why) for player in self.players]
        return self._rendered("answer", columns=columns, why=why)

    def _nothing(self) -> str:
        ways = {"text": "write a plot", "metadata": "fill in the table", **{m: f"choose a {WORDS[m]}" for m in FILES}}
        return f"Nothing is entered yet: {' or '.join(ways[m] for m in self.modalities)}, then press Predict."

    def _column(self, player: Player, content: Mapping[str, Any], values: Sequence[Any], why: Level) -> dict[str, Any]:
        """Return the plain values from which the page draws the answer of one run."""
        about = {"title": player.title, "facts": player.facts, "rule": rule_in_words(player.form)}
        own = {m: content[m] for m in player.classifier.modalities if m in content}
        empty: dict[str, Any] = {"problem": None, "genres": [], "predicted": [], "card": None}
        if not own:
            read = " and ".join(WORDS[m] for m in player.classifier.modalities)
            return {**about, **empty, "problem": f"This run reads {read}, and none of it is entered and switched on."}
        try:
            reasons = explained_row(player.classifier, InputRow(ONE, own, None, ONE), why, player.form).reasons
        except UserError as error:
            return {**about, **empty, "problem": self._plain(_sentence(error), values)}
        problem = self._plain(_sentence(reasons.problem), values) if reasons.problem else None
        card = page.card(reasons, ONE, None) if why == "pieces" else None
        genres = genres_of(reasons, player.form)
        predicted = [genre["name"] for genre in genres if genre["predicted"]]
        return {**about, "problem": problem, "genres": genres, "predicted": predicted, "card": card}

    def _plain(self, sentence: str, values: Sequence[Any]) -> str:
        """Return a sentence with the names of uploaded files in place of their paths on the server."""
        for value in values:
            if isinstance(value, Mapping) and value.get("path"):
                path = str(Path(str(value["path"])).resolve())
                sentence = sentence.replace(path, str(value.get("orig_name") or Path(path).name))
        return sentence

    def _rendered(self, macro: str, **values: Any) -> str:
        return visible(str(getattr(_template().module, macro)(words=WORDS, grid=GRID, first=FIRST, **values)))


def genres_of(reasons: Reasons, form: Form) -> list[dict[str, Any]]:
    """Return every genre, most probable first, with the share of each modality of its logit.

    The shares are exact contributions where the model has them, else Shapley values. Both sum to the logit minus its start.
    """
    exact = reasons.contributions
    shares = reasons.shapley if exact is None else exact
    most = max((float(np.abs(value).max()) for value in shares.values()), default=0.0) or 1.0
    thresholds = np.broadcast_to(np.asarray(form.threshold, dtype=float), (len(form.genres),))
    found = []
    for c in np.argsort(-reasons.probabilities, kind="stable").tolist():
        parts = [
            {"modality": m, "value": float(value[c]), "side": "plus" if value[c] >= 0 else "minus", "share": abs(value[c]) / most}
            for m, value in shares.items()
        ]
        found.append(
            {
                "name": form.genres[c],
                "predicted": form.genres[c] in reasons.predicted,
                "probability": float(reasons.probabilities[c]),
                "threshold": None if form.task == "multiclass" else float(thresholds[c]),
                "logit": float(reasons.logits[c]),
                "bias": float(reasons.bias[c]),
                "exact": exact is not None,
                "parts": parts,
            }
        )
    return found


def rule_in_words(form: Form) -> str:
    """Return the rule by which genres are predicted, as a sentence."""
    if form.task == "multiclass":
        return "The most probable label is predicted."
    if isinstance(form.threshold, list):
        return "Each genre has a threshold of its own, which is marked on its bar."
    return f"A genre is predicted from a probability of {form.threshold:.3g} on, which is marked on the bars."


def _players(classifiers: Sequence[Classifier], threshold: str) -> list[Player]:
    """Return the runs of the page. Equal titles get the seed, and the folder if the seeds are equal too."""
    runs = [classifier.runs[0] for classifier in classifiers]
    about = [described(run) for run in runs]
    for more in ([f"seed {run.config.seed}" for run in runs], [run.run.folder.absolute().name for run in runs]):
        titles = [title for title, _ in about]
        about = [(f"{t}, {m}" if titles.count(t) > 1 else t, facts) for (t, facts), m in zip(about, more, strict=True)]
    found = zip(classifiers, about, strict=True)
    return [Player(classifier, classifier.form(threshold), title, facts) for classifier, (title, facts) in found]


def described(run: TrainedRun) -> tuple[str, tuple[str, ...]]:
    """Return the setting of a run in words: its fusion, and its encoders, data, seed and score."""
    choices = run.config.choices
    fusion = choices.get("fusion") or run.config.fusion.node["_target_"].rsplit(".", 1)[-1]
    title = f"{WORDS[run.modalities[0]]} alone" if fusion == "none" else fusion
    encoders = [f"{WORDS[m]}: {choices[f'encoder/{m}']}" for m in run.modalities if choices.get(f"encoder/{m}")]
    facts = [*encoders, *([f"data: {choices['data']}"] if choices.get("data") else []), f"seed {run.config.seed}"]
    with suppress(UserError):
        score = run.run.metrics.get("test/f1_micro")
        facts += [f"test micro F1 {score:.3f}"] if isinstance(score, float) else []
    return title, tuple(facts)


def _sentence(error: object) -> str:
    text = str(error)
    return text[:1].upper() + text[1:]


@cache
def _template() -> Any:
    folders = FileSystemLoader([OWN, page.OWN])
    environment = Environment(loader=folders, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template("app.html.j2")


def style() -> str:
    """Return the styles of the page as an element of its head. Those of reasons apply within results only."""
    css = f"{(OWN / 'app.css').read_text(encoding='utf-8')}\n.gmu {{ {(page.OWN / 'why.css').read_text(encoding='utf-8')} }}"
    return f"<style>{css}</style>"
