"""Hundreds of malformed files: each is read, or refused in one sentence. No process dies or hangs, and no other error appears."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gmu_lightning.data.audit import Audit
from gmu_lightning.data.files.dataset import Files
from gmu_lightning.data.mmimdb import MMIMDb
from gmu_lightning.data.mmimdb.layouts import Hdf5Layout
from gmu_lightning.data.planted.dataset import Planted
from gmu_lightning.data.readers.arrays import numbers
from gmu_lightning.data.store import Store
from gmu_lightning.encoders.posters import PosterPreparation
from gmu_lightning.encoders.trailers import decoder_pool
from gmu_lightning.movie import SPLITS, BadContent, UserError
from gmu_lightning.report.page.movies import thumbnail
from gmu_lightning.run import Run
from gmu_lightning.run_files import records
from gmu_lightning.run_files.arrays import checkpoint
from gmu_lightning.run_files.exported import read_export
from tests.data.test_malformed_tables import CASES as TABLES
from tests.report.made_runs import Sweep

from . import malformed

PATIENCE = 120  # seconds for one file
IDS = {"train": ["0000001", "0000002", "0000003"], "dev": ["0000004"], "test": ["0000005"]}
RECORD = {"plot": ["A plot.", "A long plot."], "genres": ["Drama", "War"], "title": "x", "year": 1999, "cast": [{"name": "y"}]}
LINE = {"id": "0000001", "text": "A plot.", "img": "img/1.jpg", "label": ["Drama"]}
Seed = tuple[str, bytes]
Read = Callable[[Path], Any]


def raw(folder: Path) -> None:
    """Write five movies in MM-IMDb's raw layout."""
    (folder / "dataset").mkdir(parents=True)
    (folder / "split.json").write_text(json.dumps(IDS))
    for movie in (movie for ids in IDS.values() for movie in ids):
        (folder / f"dataset/{movie}.json").write_text(json.dumps(RECORD))
        (folder / f"dataset/{movie}.jpeg").write_bytes(malformed.picture("PNG"))


def audited(load: Callable[[], Any]) -> None:
    """Load a data set. Every problem of its audit is a line."""
    for problem in load().audit.problems:
        assert problem.kind and "\n" not in problem.detail, problem


class Groups:
    """Each method yields seeds, and gives the function that reads one at its place."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.store = Store(folder / "store")

    def pictures(self) -> Iterator[tuple[Path, Read, Iterator[Seed]]]:
        def read(path: Path) -> None:
            thumbnail(path)
            PosterPreparation((16, 16)).store(path)

        for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"):
            yield self.folder / f"a.{kind.lower()}", read, malformed.changed(malformed.picture(kind), kind)

    def arrays(self) -> Iterator[tuple[Path, Read, Iterator[Seed]]]:
        for suffix in (".npy", ".pt", ".p"):
            yield self.folder / f"a{suffix}", numbers, malformed.changed(malformed.array(suffix), suffix, flips=14)

    def clips(self) -> Iterator[tuple[Path, Read, Iterator[Seed]]]:
        def read(path: Path, frames: bool) -> None:
            for piece in decoder_pool.frames(path, 2.0, 5.0) if frames else decoder_pool.sound(path, 12_000, 5.0):
                assert np.isfinite(piece.astype(float)).all()

        for suffix in (".mp4", ".mkv", ".avi", ".wav", ".ogg"):
            seeds = list(malformed.changed(malformed.clip(self.folder, suffix), suffix, flips=4))
            yield self.folder / f"a{suffix}", partial(read, frames=suffix not in (".wav", ".ogg")), iter(seeds)

    def hdf5(self) -> Iterator[tuple[Path, Read, Iterator[Seed]]]:
        def read(path: Path) -> None:
            (path.parent / "split.json").write_text(json.dumps({"train": ["0000001"], "dev": ["0000002"], "test": ["0000003"]}))
            layout = Hdf5Layout(path)
            for split in SPLITS:
                list(layout.read(split, Audit()))

        yield self.folder / "multimodal_imdb.hdf5", read, malformed.changed(malformed.hdf5(self.folder), "hdf5", flips=60)

    def tables(self) -> Iterator[tuple[Path, Read, Iterator[Seed]]]:
        def read(path: Path) -> None:
            audited(lambda: Files(str(path)).load(("text",), self.store))

        yield self.folder / "a.parquet", read, malformed.changed(malformed.parquet(), "parquet+more", flips=370)

    def records(self) -> Iterator[tuple[Path, Read, Iterator[Seed]]]:
        raw(self.folder / "raw")

        def read(_: Path, folder: str = "raw") -> None:
            audited(lambda: MMIMDb(str(self.folder / folder)).load(("text", "image"), self.store))

        for name, found in (("split.json", IDS), ("dataset/0000001.json", RECORD)):
            yield self.folder / "raw" / name, read, malformed.odd_values(found, name)
            raw(self.folder / f"other {Path(name).stem}")
        (self.folder / "lines").mkdir()
        for split, ids in IDS.items():
            lines = [json.dumps({**LINE, "id": movie}) for movie in ids]
            (self.folder / "lines" / f"{split}.jsonl").write_text("\n".join(lines))
        yield self.folder / "lines/train.jsonl", partial(read, folder="lines"), malformed.odd_values(LINE, "train.jsonl")
        raw(self.folder / "planted")
        (self.folder / "planted/genres.json").write_text('{"Drama": "switch", "War": "text"}')

        def planted(_: Path) -> None:
            audited(lambda: Planted(str(self.folder / "planted")).load(("text", "image"), self.store))

        yield self.folder / "planted/genres.json", planted, malformed.odd_values({"Drama": "text", "War": "image"}, "genres.json")

    def runs(self) -> Iterator[tuple[Path, Read, Iterator[Seed]]]:
        run = Sweep(self.folder / "sweep", {"val": 4, "test": 5}).run("gmu_original", 1)
        about = {"genres": ["Drama"], "modalities": ["text"], "sizes": {"text": 2}, "preparations": {"text": {}}}
        torch.save({"state_dict": {"head.weight": torch.zeros(1, 2)}, "gmu_lightning": about}, self.folder / "best.ckpt")
        readers: dict[str, Callable[[Path], Any]] = {
            "status.json": records.status,
            "metrics.json": records.metrics,
            "environment.json": records.environment,
            "config.yaml": records.config,
            "history.csv": records.history,
            "predictions/test.parquet": lambda path: Run(path.parents[1]).predictions("test"),
        }
        for name, read in readers.items():
            yield run / name, read, malformed.changed((run / name).read_bytes(), name, flips=8)
        yield self.folder / "best.ckpt", checkpoint, malformed.changed((self.folder / "best.ckpt").read_bytes(), "ckpt", flips=14)

    def exports(self) -> Iterator[tuple[Path, Read, Iterator[Seed]]]:
        folder, config = self.folder / "model", Run(self.folder / "none")
        assert not config.status
        folder.mkdir()
        node = {"_target_": "x"}
        whole = {"modalities": "text", "seed": 1, "monitor": "val/ap_micro", "data": {**node, "batch_size": 2}, "fusion": node}
        trainer = {"accelerator": "cpu", "precision": "32", "max_epochs": 1, "accumulate_grad_batches": 1}
        whole |= {
            "encoder": {"text": node},
            "loss": node,
            "optimizer": {**node, "lr": 0.1},
            "scheduler": None,
            "trainer": trainer,
        }
        parts = {"sizes": {"text": 2}, "preprocessing": {"text": {}}, "learned": {"text": {}}}
        files: dict[str, Any] = {
            "config.json": {"format": 1, "version": "1", "config": whole},
            "preparation.json": {"versions": {"torch": "2"}, "modalities": ["text"], **parts},
            "genres.json": {"genres": ["Drama", "War"]},
            "thresholds.json": {"0.5": 0.5, "val": 0.4, "val_per_genre": {"Drama": 0.1, "War": 0.2}},
            "probe.json": {"tolerance": 0.1, "movies": [{"text": "x"}], "logits": [{"Drama": 0.1, "War": 0.2}]},
        }
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content))
        (folder / "model.safetensors").write_bytes(b"x")
        read_export(folder)
        for name, content in files.items():
            yield folder / name, lambda path: read_export(path.parent), malformed.odd_values(content, name)


NAMES = ("pictures", "arrays", "clips", "hdf5", "tables", "records", "runs", "exports")


def outcome(read: Read, path: Path) -> str:
    """Return `read`, `refused`, or a description of the fault."""

    def late(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    signal.alarm(PATIENCE)
    try:
        read(path)
    except (UserError, BadContent) as refusal:
        return "refused" if str(refusal) and "\n" not in str(refusal) else f"no sentence: {refusal!r}"
    except FileNotFoundError:
        return "missing"
    except BaseException as error:
        return "".join(traceback.format_exception(error)[-2:])[-600:]
    finally:
        signal.alarm(0)
    return "read"


def replay(name: str, folder: Path) -> None:
    """Read every seed of a group, and append a line for each to the file `outcomes` before and after it."""
    with (folder / "outcomes").open("w") as outcomes:
        for path, read, seeds in getattr(Groups(folder), name)():
            sound = path.read_bytes() if path.exists() else None
            for seed, data in seeds:
                path.write_bytes(data)
                outcomes.write(json.dumps([seed, None]) + "\n")
                outcomes.flush()
                outcomes.write(json.dumps([seed, outcome(read, path)]) + "\n")
                outcomes.flush()
            path.unlink() if sound is None else path.write_bytes(sound)
    decoder_pool.release()


def outcomes_of(name: str, folder: Path) -> dict[str, str | None]:
    """Return {seed: outcome} of a group, read in a process of its own; None for a seed during which it died."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            sys.stderr = sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
            replay(name, folder)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    found = dict(json.loads(line) for line in (folder / "outcomes").read_text().splitlines())
    found["the process"] = "read" if status == 0 else f"ended with {os.waitstatus_to_exitcode(status)}"
    return found


def test_there_are_hundreds_of_seeds(tmp_path):
    count = 0
    for name in NAMES:
        (tmp_path / name).mkdir()
        groups = getattr(Groups(tmp_path / name), name)()
        count += sum(len(list(seeds)) for _, _, seeds in groups)
    assert count >= 300 and count + len(TABLES) >= 500


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.heavy) if n == "tables" else n for n in NAMES])
def test_malformed_files_are_read_or_refused_in_a_sentence(name, tmp_path):
    found = outcomes_of(name, tmp_path)
    faults = {seed: outcome for seed, outcome in found.items() if outcome not in ("read", "refused")}
    assert not faults, "\n".join(f"{seed}: {outcome}" for seed, outcome in faults.items())
    assert sum(outcome == "refused" for outcome in found.values()) >= len(found) / 8
    shutil.rmtree(tmp_path, ignore_errors=True)
