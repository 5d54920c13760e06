"""A run's folder: each of its files read and written in this one place, and what makes two runs the same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from gmu_lightning.files import digest, now, write_json, write_table, write_text
from gmu_lightning.movie import UserError

SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, where it is there, is ten times as fast
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
        """The inverse of `write`."""
        import pyarrow.parquet as pq

        table = pq.read_table(path)
        about = json.loads(table.schema.metadata[b"gmu_lightning"])
        genres, modalities = tuple(about["genres"]), tuple(about["modalities"])

        def stack(names: list[str]) -> np.ndarray:
            return np.stack([table[name].to_numpy(zero_copy_only=False) for name in names], axis=1)

        def per_genre(word: str) -> np.ndarray | None:
            if f"{word}/{modalities[0]}/{genres[0]}" not in table.column_names:
                return None
            return np.stack([stack([f"{word}/{m}/{g}" for g in genres]) for m in modalities], axis=1)

        gated = f"gate/{modalities[0]}" in table.column_names
        return cls(
            ids=table["id"].to_pylist(),
            split=table["split"][0].as_py() if table.num_rows else "",
            genres=genres,
            modalities=modalities,
            present=stack([f"present/{m}" for m in modalities]),
            logits=stack([f"logit/{g}" for g in genres]),
            labels=stack([f"label/{g}" for g in genres]),
            data_fingerprint=about["data_fingerprint"],
            threshold=about["threshold"],
            open_threshold=about["open_threshold"],
            bias=None if about["bias"] is None else np.array([about["bias"][g] for g in genres]),
            gate=stack([f"gate/{m}" for m in modalities]) if gated else None,
            gate_open=stack([f"gate_open/{m}" for m in modalities]) if gated else None,
            gate_by_genre=per_genre("gate"),
            contributions=per_genre("contribution"),
        )


class Run:
    """One run's folder.

    `status` is what status.json says; it changes through `begin`, `end` and `warn` alone.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    @property
    def status(self) -> dict[str, Any]:
        """status.json, or `{}` where there is none. Raises UserError where it lacks what every run says."""
        found = self._json("status.json")
        lacking = [key for key in ("state", "why", "warnings", "started", "identity", "setting") if found and key not in found]
        if lacking:
            raise UserError(
                f"{self / 'status.json'} is damaged, for it lacks {lacking[0]}: restore it, or leave {self.folder} out"
            )
        return found

    @property
    def config(self) -> dict[str, Any]:
        """config.yaml as plain data: nothing in it is resolved or instantiated."""
        try:
            config = yaml.load((self / "config.yaml").read_text(encoding="utf-8"), SAFE_LOADER)
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"{self.folder} is no run's folder: it holds no config.yaml; give one that train wrote") from None
        except yaml.YAMLError:
            config = None
        if not isinstance(config, dict):
            raise UserError(f"{self / 'config.yaml'} is not a run's configuration: a mapping of plain data was expected")
        return config

    @property
    def overrides(self) -> list[str]:
        """The overrides as typed."""
        path = self / "overrides.txt"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    @property
    def metrics(self) -> dict[str, float]:
        """metrics.json, or `{}` where the run did not get there."""
        return self._json("metrics.json")

    @property
    def data_fingerprint(self) -> dict[str, str]:
        """What identifies the data the run saw, or `{}` where the run did not get there."""
        return self.environment.get("data_fingerprint", {})

    @property
    def environment(self) -> dict[str, Any]:
        """environment.json, or `{}` where the run did not get there."""
        return self._json("environment.json")

    @property
    def audit(self) -> dict[str, Any]:
        """audit.json, or `{}` where the run did not get there."""
        return self._json("audit.json")

    def predictions(self, split: str) -> Predictions:
        """The stored predictions of a split."""
        return Predictions.read(self / f"predictions/{split}.parquet")

    def _json(self, name: str) -> dict[str, Any]:
        path = self / name
        return read_json(path) if path.exists() else {}

    def begin(self, config: Mapping[str, Any], overrides: Sequence[str]) -> None:
        """Configuration, overrides and state `running`. Nothing finished is ever overwritten: UserError."""
        if self.status.get("state") == "finished":
            raise UserError(f"{self.folder} holds a finished run, which is never overwritten: choose another hydra.run.dir")
        self.folder.mkdir(parents=True, exist_ok=True)
        (self / "error.txt").unlink(missing_ok=True)  # of an attempt that failed
        write_text(self / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
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


def read_json(path: Path) -> dict[str, Any]:
    """An object that one of these commands wrote. Raises UserError where the file holds none any more."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # no JSON, or no UTF-8
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged, for it is no JSON object: restore it, or leave {path.parent} out")
    return found


def disagreeing(a: Mapping[str, str], b: Mapping[str, str]) -> list[str]:
    """The keys of two data fingerprints that both have and that differ: none, and the runs saw the same data."""
    return [key for key in a if a[key] != b.get(key, a[key])]


def runs_under(folder: Path) -> list[Run]:
    """The runs directly below a folder, by name."""
    return [Run(path.parent) for path in sorted(folder.glob("*/status.json"))]
