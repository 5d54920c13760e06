"""Read and write the files in a run's folder."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from gmu_lightning.confidential import masked, without_any
from gmu_lightning.config.identity import identity, setting
from gmu_lightning.decisions import Task, decided, probabilities_of
from gmu_lightning.files import FULL, acquired, file_state, lease, now, write_json, write_table, write_text
from gmu_lightning.movie import UserError
from gmu_lightning.run_files import records
from gmu_lightning.run_files.arrays import predictions_table
from gmu_lightning.run_files.plain import Damaged

ROOM = ".room"  # a file that is deleted if the disk is full, so that the end of the run can be written


@dataclass
class Predictions:
    """A model's predictions for every movie of a split, in the split's order: predictions/<split>.parquet.

    Attributes:
        ids: of the N movies.
        split: `train`, `val` or `test`.
        genres, modalities: names of the C and M axes. Adopted predictions of unknown modalities have M = 0.
        present: (N, M) bool, whether a movie has a modality.
        logits: (N, C) float64.
        probabilities: (N, C), of the logits and the task. They are computed when the object is made, and are no argument.
        labels: (N, C) bool.
        data_fingerprint: {part of the data: hash}.
        task: of the labels.
        threshold: of the probabilities; a number from 0 to 1, or C of them. None for `multiclass`.
        open_threshold: value above which a gate counts as open. This field and those below are None if the model has none.
        bias: (C,), of a linear head.
        gate: (N, M), the mean gate of a modality.
        gate_open: (N, M), the share of its gates above `open_threshold`.
        gate_by_genre: (N, M, C), the mean gate, weighted by the head's absolute weights for the genre.
        contributions: (N, M, C), the part of each modality in a logit; logit = bias + their sum over M.
    """

    ids: list[str]
    split: str
    genres: tuple[str, ...]
    modalities: tuple[str, ...]
    present: np.ndarray
    logits: np.ndarray
    labels: np.ndarray
    data_fingerprint: dict[str, str]
    task: Task = "multilabel"
    threshold: float | list[float] | None = 0.5
    open_threshold: float | None = None
    bias: np.ndarray | None = None
    gate: np.ndarray | None = None
    gate_open: np.ndarray | None = None
    gate_by_genre: np.ndarray | None = None
    contributions: np.ndarray | None = None
    probabilities: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.probabilities = probabilities_of(self.logits, self.task)
        if self.task == "multiclass":
            self.threshold = None

    @property
    def decisions(self) -> np.ndarray:
        """(N, C) bool, whether a genre is predicted."""
        return decided(self.probabilities, self.task, self.threshold)

    def columns(self) -> dict[str, Any]:
        """Return {column: its N values} of the file.

        The columns are `id`, `split`, `present/M`, `prob/G`, `label/G` and `logit/G`, for each modality M and genre G. If the
        model has them, `gate/M`, `gate_open/M`, `gate/M/G` and `contribution/M/G` follow.
        """
        columns: dict[str, Any] = {"id": self.ids, "split": [self.split] * len(self.ids)}
        columns |= {f"present/{m}": self.present[:, i] for i, m in enumerate(self.modalities)}
        for word, values in (("prob", self.probabilities), ("label", self.labels), ("logit", self.logits)):
            columns |= {f"{word}/{g}": values[:, c] for c, g in enumerate(self.genres)}
        for word, summary in (("gate", self.gate), ("gate_open", self.gate_open)):
            if summary is not None:
                columns |= {f"{word}/{m}": summary[:, i] for i, m in enumerate(self.modalities)}
        for word, by_genre in (("gate", self.gate_by_genre), ("contribution", self.contributions)):
            if by_genre is not None:
                pairs = [(i, m, c, g) for i, m in enumerate(self.modalities) for c, g in enumerate(self.genres)]
                columns |= {f"{word}/{m}/{g}": by_genre[:, i, c] for i, m, c, g in pairs}
        return columns

    def write(self, path: Path) -> None:
        """Write the predictions to a Parquet file, atomically; its folder is created.

        The metadata hold the names, task, thresholds, bias and data fingerprint, so that `read` needs no other file.
        """
        about = {
            "genres": list(self.genres),
            "modalities": list(self.modalities),
            "task": self.task,
            "threshold": self.threshold,
            "open_threshold": self.open_threshold,
            "bias": None if self.bias is None else dict(zip(self.genres, self.bias.tolist(), strict=True)),
            "data_fingerprint": self.data_fingerprint,
        }
        write_table(path, self.columns(), about)

    @classmethod
    def read(cls, path: Path) -> Predictions:
        """Return the predictions in a file. Raises FileNotFoundError, or Damaged if the file holds no predictions."""
        about, columns = predictions_table(path)
        genres, modalities = tuple(about["genres"]), tuple(about["modalities"])

        def stack(names: list[str]) -> np.ndarray:
            return np.stack([columns[name] for name in names], axis=1) if names else np.zeros((len(columns["id"]), 0), dtype=bool)

        def per_modality(word: str) -> np.ndarray | None:
            names = [f"{word}/{m}" for m in modalities]
            return stack(names) if names and names[0] in columns else None

        def per_genre(word: str) -> np.ndarray | None:
            if not modalities or f"{word}/{modalities[0]}/{genres[0]}" not in columns:
                return None
            return np.stack([stack([f"{word}/{m}/{g}" for g in genres]) for m in modalities], axis=1)

        return cls(
            ids=columns["id"].tolist(),
            split=columns["split"][0],
            genres=genres,
            modalities=modalities,
            present=stack([f"present/{m}" for m in modalities]),
            logits=stack([f"logit/{g}" for g in genres]),
            labels=stack([f"label/{g}" for g in genres]),
            data_fingerprint=about["data_fingerprint"],
            task=about.get("task", "multilabel"),  # absent from older files
            threshold=about["threshold"],
            open_threshold=about["open_threshold"],
            bias=None if about["bias"] is None else np.array([about["bias"][g] for g in genres]),
            gate=per_modality("gate"),
            gate_open=per_modality("gate_open"),
            gate_by_genre=per_genre("gate"),
            contributions=per_genre("contribution"),
        )


class Run:
    """One run's folder. `run / name` is the path of a file in it.

    Each property reads its file anew, and raises UserError if the file is damaged. If the file is missing, the value is empty,
    but `config` raises UserError. Only `begin`, `end` and `warn` change the status.

    Args:
        folder: of the run; it may not exist yet.

    Attributes:
        token: a random text that `begin` writes into the status; None before. Whoever finds another one there has lost the run
            to another process.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        self.token: str | None = None
        self._predictions: dict[str, tuple[tuple[int, ...], Predictions]] = {}  # {split: state of its file, content}

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    @property
    def status(self) -> dict[str, Any]:
        """The keys `state`, `why`, `warnings`, `started`, `ended`, `identity` and `setting` of status.json; {} before the run."""
        return records.none_if_gone(records.status, self / "status.json", {})

    @property
    def config(self) -> dict[str, Any]:
        """The content of config.yaml as plain data, without resolving or instantiating it. Raises UserError if missing."""
        try:
            return records.config(self / "config.yaml")
        except FileNotFoundError:
            raise UserError(f"{self.folder} is no run's folder: it holds no config.yaml; give one that train wrote") from None

    @property
    def overrides(self) -> list[str]:
        """The overrides as typed, or [] if the run has not begun."""
        return records.none_if_gone(records.overrides, self / "overrides.txt", [])

    @property
    def metrics(self) -> dict[str, Any]:
        """The content of metrics.json, such as {`split/score`: value}, or {} if the run has not written it."""
        return records.none_if_gone(records.metrics, self / "metrics.json", {})

    @property
    def data_fingerprint(self) -> dict[str, str]:
        """The fingerprint of the run's data, {part: hash}, or {} if the run has not written environment.json."""
        return self.environment.get("data_fingerprint", {})

    @property
    def environment(self) -> dict[str, Any]:
        """The content of environment.json, or {} if the run has not written it."""
        return records.none_if_gone(records.environment, self / "environment.json", {})

    @property
    def audit(self) -> dict[str, Any]:
        """The content of audit.json: what was read and what was wrong in the data; {} if the run has not written it."""
        return records.none_if_gone(records.audit, self / "audit.json", {})

    @property
    def history(self) -> list[dict[str, str]]:
        """The rows of history.csv, one per epoch, all values as text, or [] if the run has not written it."""
        return records.none_if_gone(records.history, self / "history.csv", [])

    def predictions(self, split: str) -> Predictions:
        """Return the stored predictions of a split.

        The file is read again only if it changed, so do not alter the result.

        Raises:
            UserError: the file is missing or damaged, or holds another split.
        """
        path = self / f"predictions/{split}.parquet"
        try:
            state = file_state(path)
            if split not in self._predictions or self._predictions[split][0] != state:
                self._predictions[split] = state, Predictions.read(path)
        except FileNotFoundError:
            raise Damaged(path, "it is not there", f"train {self.folder} again, or leave it out") from None
        except OSError as error:
            raise Damaged(path, f"it cannot be read ({error.strerror})") from error
        found = self._predictions[split][1]
        if found.split != split:
            raise Damaged(path, f"it holds the split {found.split}")
        return found

    def begin(self, config: Mapping[str, Any], overrides: Sequence[str]) -> None:
        """Begin the run: create its folder, and write config.yaml, overrides.txt and the state `running` without warnings.

        Secrets are written as `***`. The error.txt of an earlier attempt is removed. Its other files stay until they are
        overwritten.

        Args:
            config: the resolved mapping, as plain containers.
            overrides: as typed.

        Raises:
            UserError: the folder holds a finished run, which is never overwritten, or its status.json is damaged.
        """
        if self.status.get("state") == "finished":
            raise UserError(f"{self.folder} holds a finished run, which is never overwritten: choose another hydra.run.dir")
        self.folder.mkdir(parents=True, exist_ok=True)
        (self / "error.txt").unlink(missing_ok=True)  # of an earlier attempt
        for left in self.folder.rglob(".*.tmp"):  # by a process that was killed as it wrote
            left.unlink()
        (self / ROOM).write_bytes(secrets.token_bytes(16_384))
        self.token = secrets.token_hex(8)
        write_text(self / "config.yaml", yaml.dump(masked(config), Dumper=_Plain, sort_keys=False, allow_unicode=True))
        write_text(self / "overrides.txt", "".join(f"{without_any(o)}\n" for o in overrides))
        self._write_status(
            **{"state": "running", "why": None, "warnings": [], "started": now(), "ended": None},
            **{"identity": identity(config), "setting": setting(config), "token": self.token},
        )

    def end(self, state: str, why: str | None = None) -> None:
        """Write the end of the run. Raises UserError if the run has not begun.

        Args:
            state: `finished`, `failed`, `interrupted` or `skipped`.
            why: the reason as one sentence; None for `finished`.
        """
        shown = None if why is None else without_any(why)
        self._write_status(**{**self._begun(), "state": state, "why": shown, "ended": now()})
        (self / ROOM).unlink(missing_ok=True)

    def warn(self, sentence: str) -> None:
        """Add a warning to the status, unless it is there already. Raises UserError if the run has not begun.

        Args:
            sentence: begins with a code, as in `flat_loss: …`, and holds no `; `. The leaderboard shows the code.
        """
        status = self._begun()
        if sentence not in status["warnings"]:
            self._write_status(**{**status, "warnings": [*status["warnings"], sentence]})

    def refuse_other_owner(self) -> None:
        """Raise TakenOver if another process has begun this run since this object did."""
        self._begun()

    def _begun(self) -> dict[str, Any]:
        """Return the status. Raises UserError if the run has not begun, or TakenOver if another process has begun it since."""
        if status := self.status:
            if self.token is not None and status.get("token") != self.token:
                raise TakenOver(f"{self.folder} was taken over by another process, which goes on: this one stops")
            return status
        raise UserError(f"{self.folder} holds no status.json, so no run has begun in it: begin one, or give another folder")

    def _write_status(self, **status: Any) -> None:
        try:
            write_json(self / "status.json", status)
        except OSError as error:
            if error.errno not in FULL or not (self / ROOM).exists():
                raise
            (self / ROOM).unlink()
            write_json(self / "status.json", status)

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Hold the folder against other processes, also those of other machines, within the context, and yield True.

        The folder is created. Yield False at once if another process holds it. A process that died holds it no more: on the same
        machine from then on, on others once `files.LEASE` seconds have passed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        held = lease(self / ".running")
        if not acquired(held):
            yield False
            return
        try:
            yield True
        finally:
            held.release()

    @property
    def is_held(self) -> bool:
        """Whether another process holds the folder."""
        if not (self / ".running").exists():
            return False
        with self.held() as mine:
            return not mine


class TakenOver(UserError):
    """Another process has begun the same run."""


class _Plain(yaml.SafeDumper):
    """A dumper that writes repeated values again, since our readers refuse YAML aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        """Return True for every value."""
        return True


def disagreeing(a: Mapping[str, str], b: Mapping[str, str]) -> list[str]:
    """Return the parts whose hashes differ between two data fingerprints, in the order of `a`. Parts of only one are ignored."""
    return [key for key in a if a[key] != b.get(key, a[key])]


def runs_under(folder: Path) -> list[Run]:
    """Return the subfolders that hold a status.json as runs, sorted by name; sweeps are among them. A missing folder has none."""
    return [Run(path.parent) for path in sorted(folder.glob("*/status.json"))]
