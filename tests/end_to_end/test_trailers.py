"""Trailers as they lie on disk, through decoder and network, to a run; a kill in the middle; files that cannot be used."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from gmu_lightning.run import Run, runs_under

from ..data.moviescope_files import write_lines
from ..encoders import clips
from .shell import command, environment, last_line, typed

TRAILERS = ("data=moviescope", "modalities=video+audio", "data.video=trailers", "data.audio=trailers")
READ = ("encoder/video=trailer", "encoder/audio=trailer_mel96", "encoder.video.preparation.seconds=2")


def write(folder: Path, movies: tuple[int, int, int], seconds: float = 1.0) -> Path:
    """Trailers and plots; ids count from 0."""
    (folder / "trailers").mkdir(parents=True)
    ids = iter(range(sum(movies)))
    for split, number in zip(("train", "dev", "test"), movies, strict=True):
        chosen = [next(ids) for _ in range(number)]
        records = [{"id": i, "synopsis": f"Movie {i}.", "label": [("Comedy", "Drama")[i % 2]]} for i in chosen]
        write_lines(folder / f"{split}.jsonl", records)
        for record in records:
            path = folder / "trailers" / f"{record['id']}.mp4"
            clips.write(path, seconds, noise=record["id"], tone=200.0 + 20 * record["id"])
    return folder


@pytest.fixture(scope="module")
def damaged(tmp_path_factory) -> Path:
    """Fourteen trailers: of the first of train, one is damaged in each way."""
    root = write(tmp_path_factory.mktemp("damaged"), (8, 3, 3))
    trailers = root / "trailers"
    clips.write(trailers / "0.mp4", 1.0, tone=None)
    clips.write(trailers / "1.mp4", 1.0, picture=False)
    (trailers / "2.mp4").write_bytes(b"")
    (trailers / "3.mp4").unlink()
    clips.write(trailers / "4.mp4", 1.0, channels=(0.0,))
    return root


@pytest.mark.heavy
def test_unusable_trailers_count_as_absent_in_training(damaged, tmp_path):
    words = (*TRAILERS, *READ, f"data.root={damaged}", "fusion=gmu_softmax", "trainer.max_epochs=2", "trainer.threads=1")
    said = typed("train", *words, folder=tmp_path, store=tmp_path / "store")
    assert said.returncode == 0, said.stderr
    (run,) = runs_under(tmp_path / "outputs" / "runs")
    problems = json.loads((run / "audit.json").read_text())["problems"]
    assert {(p["id"], p["kind"], p["action"]) for p in problems} == {
        ("0", "missing_audio", "kept_absent"),
        ("1", "missing_video", "kept_absent"),
        ("2", "bad_array", "kept_absent"),
        ("3", "missing_audio", "kept_absent"),
        ("3", "missing_video", "kept_absent"),
        ("4", "missing_audio", "kept_absent"),
    }
    assert all(p["file"] == f"trailers/{p['id']}.mp4" for p in problems)
    assert {"it has no sound", "it has no picture", "no such file"} < {p["detail"] for p in problems}
    evaluated = typed("evaluate", f"run={run.folder}", folder=tmp_path, store=tmp_path / "other")
    assert evaluated.returncode == 0, evaluated.stderr
    again = next(path.parent for path in (run / "evaluate").rglob("metrics.json"))
    assert Run(again).metrics["test/ap_micro"] == pytest.approx(run.metrics["test/ap_micro"], abs=1e-6)


@pytest.mark.heavy
def test_a_killed_prepare_goes_on_where_it_was(tmp_path):
    root = write(tmp_path / "movies", (16, 4, 4), seconds=3.0)
    words = (*TRAILERS, *READ, f"data.root={root}", "modalities=video", "encoder.video.preparation.rate=8", "store.workers=2")
    store = tmp_path / "store"
    with subprocess.Popen(
        command("prepare", *words), cwd=tmp_path, env=environment(store), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as first:
        while len(finished(store)) < 4:
            assert first.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        os.kill(first.pid, signal.SIGKILL)
    kept = finished(store)
    assert len(kept) < 24
    second = typed("prepare", *words, folder=tmp_path, store=store)
    assert second.returncode == 0, second.stderr
    after = finished(store)
    assert len(after) == 24
    assert {name: after[name] for name in kept} == kept
    whole = typed("prepare", *words, folder=tmp_path, store=tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    assert values(store) == values(tmp_path / "whole")


def finished(store: Path) -> dict[str, int]:
    """{a trailer's part: when it was written}"""
    return {path.name: path.stat().st_mtime_ns for path in (store / "parts").glob("video-*/*.npz") if path.name[0] != "."}


def values(store: Path) -> bytes:
    (column,) = (store / "columns").glob("video-*/values.bin")
    assert np.isfinite(np.fromfile(column, np.float32)).all()
    return column.read_bytes()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "this data set's video is trailers, and this encoder/video reads extracted features: choose encoder/video=trailer"),
        (("encoder/video=trailer", "store.workers=0"), "store.workers=0 is not possible"),
    ],
)
def test_a_wrong_request_ends_in_one_sentence(words, sentence, damaged, tmp_path):
    asked = (*TRAILERS, *words, "modalities=video", "fusion=none", f"data.root={damaged}")
    said = typed("train", *asked, folder=tmp_path, store=tmp_path / "store")
    assert said.returncode == 1
    assert sentence in last_line(said.stderr)
    assert "Traceback" not in said.stderr
