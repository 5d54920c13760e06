"""A run's folder: each of its files read and written in this one place, and what makes two runs the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from gmu_lightning.files import digest, now, write_json, write_table, write_text
from gmu_lightning.movie import UserError
from gmu_lightning.run_files import records, tables
from gmu_lightning.run_files.content import Damaged

# What may differ between two runs of one setting: where things lie, how progress is shown, how jobs are started.
NOT_IDENTITY = (
    "hydra",
    "logger",
    "store.dir",
    "store.workers",
    "store.max_gb",
    "encode.backend",
    "callbacks.profiler",
    "check",
    "choices",
    "data.root",
    "data.workers",
    "trainer.threads",
    "trainer.progress",
)
# What runs may say and older ones do not: said so, it changes nothing, and a run's identity is what it was.
AS_BEFORE = {"store.precision": "float32", "store.blocks": True, "encode.precision": "float32"}


def identity(config: Mapping[str, Any]) -> str:
    """A hash of all of a resolved, pruned configuration that a result depends on (the data's content stands beside it)."""
    return digest(_essence(config))[:12]


def setting(config: Mapping[str, Any]) -> str:
    """The identity with the seed taken out: runs of one setting differ by their seed alone."""
    return digest({key: value for key, value in _essence(config).items() if key != "seed"})[:12]


def _essence(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    kept = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if name in NOT_IDENTITY or (name in AS_BEFORE and value == AS_BEFORE[name]):
            continue
        essence = _essence(value, f"{name}.") if isinstance(value, Mapping) else value
        if essence != {} or value == {} or name == "callbacks":  # a node of which nothing is left was never there
            kept[key] = essence
    return kept


@dataclass
class Predictions:
    """What a model said of every movie of a split, in the split's order: predictions/<split>.parquet.

    Shapes: `present` (N, M) bool, `probabilities` and `logits` (N, C) float64, `labels` (N, C) bool,
    `gate` and `gate_open` (N, M), `gate_by_genre` and `contributions` (N, M, C); None where the model has none.
    """

    ids: list[str]
    split: str
    genres: tuple[str, ...]
    modalities: tuple[str, ...]
    present: np.ndarray
    logits: np.ndarray
    labels: np.ndarray
    data_fingerprint: dict[str, str]
    threshold: Any = 0.5
    open_threshold: float | None = None
    bias: np.ndarray | None = None
    gate: np.ndarray | None = None
    gate_open: np.ndarray | None = None
    gate_by_genre: np.ndarray | None = None
    contributions: np.ndarray | None = None
    probabilities: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        with np.errstate(invalid="ignore"):  # of logits that are no numbers, which whoever trains tells in a sentence
            self.probabilities = np.exp(-np.logaddexp(0, -self.logits))

    def columns(self) -> dict[str, Any]:
        """The file's columns by name."""
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
        """As parquet, atomically, with the metadata that makes the file readable on its own."""
        about = {
            "genres": list(self.genres),
            "modalities": list(self.modalities),
            "threshold": self.threshold,
            "open_threshold": self.open_threshold,
            "bias": None if self.bias is None else dict(zip(self.genres, self.bias.tolist(), strict=True)),
            "data_fingerprint": self.data_fingerprint,
        }
        write_table(path, self.columns(), about)

    @classmethod
    def read(cls, path: Path) -> Predictions:
        """The inverse of `write`. Raises FileNotFoundError, or UserError where the file holds no predictions."""
        found = tables.predictions_table(path)
        about, columns = found.about, found.columns
        genres, modalities = tuple(about["genres"]), tuple(about["modalities"])

        def stack(names: list[str]) -> np.ndarray:
            return tables.stacked(columns, names)

        def per_modality(word: str) -> np.ndarray | None:
            return stack([f"{word}/{m}" for m in modalities]) if f"{word}/{modalities[0]}" in columns else None

        def per_genre(word: str) -> np.ndarray | None:
            if f"{word}/{modalities[0]}/{genres[0]}" not in columns:
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
            threshold=about["threshold"],
            open_threshold=about["open_threshold"],
            bias=None if about["bias"] is None else np.array([about["bias"][g] for g in genres]),
            gate=per_modality("gate"),
            gate_open=per_modality("gate_open"),
            gate_by_genre=per_genre("gate"),
            contributions=per_genre("contribution"),
        )


class Run:
    """One run's folder.

    `status` is what status.json says; it changes through `begin`, `end` and `warn` alone.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        self._predictions: dict[str, tuple[tuple[int, ...], Predictions]] = {}  # of a split, with the state of its file

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    @property
    def status(self) -> dict[str, Any]:
        """status.json, or `{}` where there is none. This and each other file raises UserError where it is damaged."""
        return records.none_if_gone(records.status, self / "status.json", {})

    @property
    def config(self) -> dict[str, Any]:
        """config.yaml as plain data: nothing in it is resolved or instantiated."""
        try:
            return records.config(self / "config.yaml")
        except FileNotFoundError:
            raise UserError(f"{self.folder} is no run's folder: it holds no config.yaml; give one that train wrote") from None

    @property
    def overrides(self) -> list[str]:
        """The overrides as typed."""
        return records.none_if_gone(records.overrides, self / "overrides.txt", [])

    @property
    def metrics(self) -> dict[str, Any]:
        """metrics.json, or `{}` where the run did not get there."""
        return records.none_if_gone(records.metrics, self / "metrics.json", {})

    @property
    def data_fingerprint(self) -> dict[str, str]:
        """What identifies the data the run saw, or `{}` where the run did not get there."""
        return self.environment.get("data_fingerprint", {})

    @property
    def environment(self) -> dict[str, Any]:
        """environment.json, or `{}` where the run did not get there."""
        return records.none_if_gone(records.environment, self / "environment.json", {})

    @property
    def audit(self) -> dict[str, Any]:
        """audit.json, or `{}` where the run did not get there."""
        return records.none_if_gone(records.audit, self / "audit.json", {})

    @property
    def history(self) -> list[dict[str, str]]:
        """history.csv, or `[]` where the run did not get there."""
        return records.none_if_gone(records.history, self / "history.csv", [])

    def predictions(self, split: str) -> Predictions:
        """The stored predictions of a split, read again only where the file changed. Raises UserError where they are damaged."""
        path = self / f"predictions/{split}.parquet"
        try:
            state = path.stat()
            stamp = (state.st_mtime_ns, state.st_size, state.st_ino)
            if split not in self._predictions or self._predictions[split][0] != stamp:
                self._predictions[split] = stamp, Predictions.read(path)
        except FileNotFoundError:
            raise Damaged(path, "it is not there", f"train {self.folder} again, or leave it out") from None
        except OSError as error:
            raise Damaged(path, f"it cannot be read ({error.strerror})") from error
        found = self._predictions[split][1]
        if found.split != split:
            raise Damaged(path, f"it holds the split {found.split}")
        return found

    def begin(self, config: Mapping[str, Any], overrides: Sequence[str]) -> None:
        """Configuration, overrides and state `running`. Nothing finished is ever overwritten: UserError."""
        if self.status.get("state") == "finished":
            raise UserError(f"{self.folder} holds a finished run, which is never overwritten: choose another hydra.run.dir")
        self.folder.mkdir(parents=True, exist_ok=True)
        (self / "error.txt").unlink(missing_ok=True)  # of an attempt that failed
        write_text(self / "config.yaml", yaml.dump(dict(config), Dumper=_Plain, sort_keys=False, allow_unicode=True))
        write_text(self / "overrides.txt", "".join(f"{o}\n" for o in overrides))
        self._write_status(
            state="running", why=None, warnings=[], started=now(), ended=None, identity=identity(config), setting=setting(config)
        )

    def end(self, state: str, why: str | None = None) -> None:
        """State `finished`, `failed`, `interrupted` or `skipped`, with its sentence."""
        self._write_status(**{**self.status, "state": state, "why": why, "ended": now()})

    def warn(self, sentence: str) -> None:
        """Add a warning, once, that stays with the run and its leaderboard row."""
        status = self.status
        if sentence not in status["warnings"]:
            self._write_status(**{**status, "warnings": [*status["warnings"], sentence]})

    def _write_status(self, **status: Any) -> None:
        write_json(self / "status.json", status)

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Hold the folder against other processes while inside: False where another one holds it already."""
        from filelock import FileLock, Timeout

        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self / ".running")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            (self / ".running").unlink(missing_ok=True)
            lock.release()


class _Plain(yaml.SafeDumper):
    """Writes what stands in two places twice: no reader here takes an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        """Never make one."""
        return True


def disagreeing(a: Mapping[str, str], b: Mapping[str, str]) -> list[str]:
    """The keys of two data fingerprints that both have and that differ: none, and the runs saw the same data."""
    return [key for key in a if a[key] != b.get(key, a[key])]


def runs_under(folder: Path) -> list[Run]:
    """The runs directly below a folder, by name."""
    return [Run(path.parent) for path in sorted(folder.glob("*/status.json"))]
