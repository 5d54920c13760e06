"""The model card, made from the records of a run and of its sweep."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gmu_lightning.config.identity import run_slug
from gmu_lightning.exporting.licences import UNKNOWN, licence_of
from gmu_lightning.exporting.plain import pretrained_names
from gmu_lightning.files import markdown_table
from gmu_lightning.movie import SPLITS, UserError
from gmu_lightning.prediction.trained import TrainedRun
from gmu_lightning.report.influence import influence
from gmu_lightning.report.robustness import SCORES
from gmu_lightning.report.scoring import metric_label
from gmu_lightning.report.statistics import Interval, SplitScores
from gmu_lightning.run import Run
from gmu_lightning.run_files.plain import Damaged, csv_rows, json_object
from gmu_lightning.run_files.shapes import anything, mapping, record, sequence, word

logger = logging.getLogger(__name__)
REPORTED = ("f1_micro", "f1_macro", "f1_samples", "ap_micro", "ap_macro")
TYPES = {"f1": "f1", "ap": "average_precision", "accuracy": "accuracy"}
TASKS = {"text": "text-classification", "image": "image-classification", "audio": "audio-classification"}
MOST_SENTENCES = 12
MOST = 64 * 10**6  # bytes of a record
ENTRY = mapping(anything)
CHECK_COMPARISON = record({"settings": sequence(ENTRY), "pairs": sequence(record({"a": word, "b": word, "sentence": word}))})
USE = """\
```sh
python -m gmu_lightning.predict run=FOLDER {typed}
python -m gmu_lightning.predict run=FOLDER input=movies.csv output=predictions.csv
```

```python
import gmu_lightning

classifier = gmu_lightning.load("FOLDER")
classifier.predict("movies.csv")
```

`FOLDER` is a folder with these files, or the name `USER/NAME` of this model on the Hugging Face hub. Each load predicts the \
three made-up movies of `probe.json`, and ends with an error if their logits differ. No file of this model is executed.{own}"""
LIMITS = """\
- The model knows the {count} genres above and no others.
- It learned from the movies of one data set. Its scores hold for movies that are drawn like the test movies.
- A movie without any of {modalities} is not predicted.
- Probabilities follow the share of each genre in the training data.
- A person should read the predictions before they decide anything about people."""


def write_card(run: TrainedRun, folder: Path) -> None:
    """Write README.md of an exported model into its folder.

    Raises:
        UserError: a record of the run is damaged.
    """
    from huggingface_hub import ModelCard

    data, body = card_data(run), card_text(run)
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n", ignore_metadata_errors=True).save(folder / "README.md")


def card_data(run: TrainedRun) -> Any:
    """Return the `ModelCardData` of a run: its scores on test, and the pretrained weights that it holds."""
    from huggingface_hub import EvalResult, ModelCardData

    task = next((TASKS[m] for m in run.modalities if m in TASKS), "tabular-classification")
    dataset = str(run.config.choices.get("data") or "own")
    results = [
        EvalResult(
            task_type=task,
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split="test",
            metric_type=TYPES[metric.partition("_")[0]],
            metric_name=metric_label(metric),
            metric_value=round(interval.mean, 4),
        )
        for metric, interval in scores(run).items()
    ]
    bases = [name for name in pretrained_names(run).values() if "/" in name or licence_of(name).name != UNKNOWN]
    return ModelCardData(
        base_model=list(dict.fromkeys(bases)) or None,
        eval_results=results or None,
        library_name="gmu_lightning",
        model_name=_name(run),
        tags=["multimodal", "genre-classification", *run.modalities],
    )


def card_text(run: TrainedRun) -> str:
    """Return the text of the card. Raises UserError if a record of the run is damaged."""
    choices, task = run.config.choices, run.config.data.task
    fusion = choices.get("fusion") or run.config.fusion.target.__name__
    what = "one label" if task == "multiclass" else "any number of genres"
    sections = {
        "Use": _use(run),
        "Scores": _scores(run),
        "Without a modality": _losses(run.run),
        "Compared with other settings": _verdicts(run.run),
        "Data": _data(run.run),
        "Parts and licences": _parts(run),
        "Limits": LIMITS.format(count=len(run.genres), modalities=" and ".join(run.modalities)),
    }
    intro = (
        f"This model predicts {what} of a movie from its {' and '.join(run.modalities)}. It was trained by gmu_lightning with "
        f"`fusion={fusion}`.\n\nGenres: {', '.join(run.genres)}."
    )
    return "\n\n".join([f"# {_name(run)}", intro, *(f"## {title}\n\n{text}" for title, text in sections.items() if text)])


def scores(run: TrainedRun) -> dict[str, Interval]:
    """Return {score: its 95 % interval over the test movies}; {} if the test movies have no labels. Raises UserError."""
    metrics = run.run.metrics
    wanted = ("accuracy", *REPORTED) if run.config.data.task == "multiclass" else REPORTED
    known = [name for name in wanted if f"test/{name}" in metrics]
    test = run.run.predictions("test") if known else None
    found = {}
    for name in known:
        assert test is not None
        own = influence("f1_micro" if name == "accuracy" else name, test.labels, test.probabilities, 0.5, test.task)
        found[name] = SplitScores(np.array([own.score]), own.psi[None]).interval_of_movies
    return found


def _name(run: TrainedRun) -> str:
    return run_slug(run.config.mapping, run.config.choices)


def _use(run: TrainedRun) -> str:
    examples = {"text": 'movie.text="A boy, a dog and the sea."', "metadata": "movie.metadata.KEY=VALUE"}
    files = {"image": "movie.image=poster.jpg", "video": "movie.video=trailer.mp4", "audio": "movie.audio=trailer.mp4"}
    typed = " ".join({**examples, **files}[m] for m in run.modalities)
    parts = [run.config.data, run.config.fusion, run.config.loss, *run.config.encoder.values()]
    names = [str(part.node["_target_"]) for part in parts]
    own = [name for name in names if not name.startswith("gmu_lightning.")]
    note = f" It needs the class {' and '.join(own)}: add `--config-dir FOLDER` with the folder of its module." if own else ""
    return USE.format(typed=typed, own=note)


def _scores(run: TrainedRun) -> str:
    found = scores(run)
    if not found:
        return ""
    rows = [(metric_label(name), f"{one.mean:.3f}", _ends(one)) for name, one in found.items()]
    table = markdown_table(("score", "test", "95 % interval"), rows, ("test",))
    movies = int(run.run.metrics.get("test/movies", 0))
    note = f"On {movies:,} test movies. The intervals cover other draws of movies. Another seed gives other scores."
    return "\n".join([*table, "", note])


def _ends(one: Interval) -> str:
    return "" if one.low is None or one.high is None else f"{one.low:.3f} to {one.high:.3f}"


def _losses(run: Run) -> str:
    """Return the scores without each modality, of the newest evaluation with robustness=true; empty without one."""
    for path in sorted(run.folder.glob("evaluate/*/robustness.csv"), reverse=True):
        try:
            about = json_object(path.with_suffix(".json"), MOST, record({"split": word}))
            rows = csv_rows(path, MOST, {"kind": anything, "modality": anything, "share": anything, "f1_micro": anything})
        except (Damaged, FileNotFoundError) as error:
            logger.warning("left out of the model card: %s", error)
            continue
        if about["split"] == "test":
            return _loss_table(rows)
    return ""


def _loss_table(rows: Sequence[Mapping[str, str]]) -> str:
    shares = [row for row in rows if row["kind"] == "share" and row["modality"] != "all"]
    known = [name for name in SCORES if name in rows[0]]
    full = next((row for row in shares if float(row["share"]) == 0), None)
    lines = [("none", *(_number(full[name]) for name in known))] if full else []
    lines += [(row["modality"], *(_number(row[name]) for name in known)) for row in shares if float(row["share"]) == 1]
    head = ("removed from all test movies", *(SCORES[name] for name in known))
    return "\n".join(markdown_table(head, lines, head[1:]))


def _number(cell: str) -> str:
    """Return a cell of a table as a number with three decimals; an empty cell stays empty."""
    return f"{float(cell):.3f}" if cell else ""


def _verdicts(run: Run) -> str:
    """Return the verdicts on the run's setting in the comparison of its sweep; empty without one."""
    path = run.folder.absolute().parent / "comparison.json"
    try:
        found = json_object(path, MOST, CHECK_COMPARISON)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except UserError as error:
        logger.warning("left out of the model card: %s", error)
        return ""
    own = next((row for row in found["settings"] if row.get("setting") == run.status.get("setting")), None)
    if own is None:
        return ""
    name = str(own["name"])
    sentences = [pair["sentence"] for pair in found["pairs"] if name in (pair["a"], pair["b"])]
    seeds = f"The setting of this run is `{name}`, with {own.get('seeds')} seeds in its sweep."
    more = [f"- {len(sentences) - MOST_SENTENCES} further comparisons."] if len(sentences) > MOST_SENTENCES else []
    return "\n".join([seeds, "", *(f"- {sentence}" for sentence in sentences[:MOST_SENTENCES]), *more])


def _data(run: Run) -> str:
    """Return the sizes of the splits, the problems in the data, and its fingerprint."""
    audit, choices = run.audit, run.config.get("choices") or {}
    movies = audit.get("movies") or {}
    rows = [(split, f"{movies[split]:,}") for split in SPLITS if split in movies]
    lines = [f"Data set: `{choices.get('data') or 'own'}`.", "", *markdown_table(("split", "movies"), rows, ("movies",))]
    counts = {kind: count for kind, count in (audit.get("counts") or {}).items() if count}
    problems = ", ".join(f"`{kind}` {count:,}" for kind, count in sorted(counts.items()))
    lines += ["", f"Problems in the audit: {problems}." if problems else "The audit found no problems."]
    prints = run.data_fingerprint
    if prints:
        head = ("part of the data", "fingerprint")
        lines += ["", *markdown_table(head, [(part, f"`{value[:16]}`") for part, value in prints.items()])]
    return "\n".join(lines)


def _parts(run: TrainedRun) -> str:
    """Return a table of the encoders with the licences of the weights that the model holds."""
    names = pretrained_names(run)
    rows = []
    for m in run.modalities:
        choice = run.config.choices.get(f"encoder/{m}") or run.config.encoder[m].target.__name__
        if m not in names:
            rows.append((m, f"`{choice}`", "trained by this run, or without weights", ""))
            continue
        licence = licence_of(names[m])
        rows.append((m, f"`{choice}`", names[m], f"[{licence.name}]({licence.source})" if licence.source else licence.name))
    table = markdown_table(("modality", "encoder", "pretrained weights", "licence"), rows)
    note = "The folder holds these weights, so their licences apply to it. Read an unknown licence at its source first."
    return "\n".join([*table, "", note] if names else table)
