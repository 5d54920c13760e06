"""A run's folder has complete files, and identity and setting tell equal runs from different ones."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from gmu_lightning.config.identity import identity, setting
from gmu_lightning.files import digest, write_atomically, write_json, write_rows, write_text
from gmu_lightning.movie import UserError
from gmu_lightning.run import Predictions, Run, runs_under

CONFIG: dict[str, Any] = {
    "modalities": "text+image",
    "seed": 1,
    "check": False,
    "monitor": "val/ap_micro",
    "data": {"_target_": "a.Data", "root": "/data", "workers": 0, "seed": 0, "limit": None},
    "encoder": {"text": {"freeze": "all", "dropout": 0.5}, "image": {"freeze": 2}},
    "fusion": {"dim": 256},
    "trainer": {"max_epochs": 25, "threads": None, "progress": "auto"},
    "store": {"dir": "/store"},
    "logger": {"csv": {"mode": "offline"}},
    "choices": {"fusion": "gmu_hier"},
}


def changed(key: str, value: Any) -> dict[str, Any]:
    config = deepcopy(CONFIG)
    *path, last = key.split(".")
    node = config
    for name in path:
        node = node.setdefault(name, {})
    node[last] = value
    return config


def files_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("before", ["old", None])
def test_failing_writer_leaves_the_old_file_and_no_temporary(tmp_path, before):
    path = tmp_path / "file.txt"
    if before:
        path.write_text(before)

    def write(temporary: Path) -> None:
        temporary.write_text("half of the n")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        write_atomically(path, write)
    assert (path.read_text() if path.exists() else None) == before
    assert files_of(tmp_path) == ({"file.txt"} if before else set())


def test_old_file_stays_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "below" / "file.txt"
    write_text(path, "old")
    seen = []

    def write(temporary: Path) -> None:
        temporary.write_text("new")
        seen.append((temporary.parent, path.read_text()))

    write_atomically(path, write)
    assert seen == [(path.parent, "old")]  # in the target's folder, so the rename stays on one file system
    assert path.read_text() == "new"


@pytest.mark.parametrize("lasting", [True, False])
def test_only_lasting_files_wait_for_the_disk(tmp_path, lasting, monkeypatch):
    waited = []
    monkeypatch.setattr("gmu_lightning.files.os.fsync", waited.append)
    write_rows(tmp_path / "a.csv", [{"epoch": 0}], lasting)
    assert bool(waited) is lasting
    assert (tmp_path / "a.csv").read_text().split() == ["epoch", "0"] and files_of(tmp_path) == {"a.csv"}


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_json_refuses_nan_and_infinity(tmp_path, number):
    path = tmp_path / "metrics.json"
    write_json(path, {"val/loss": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"val/loss": number})
    assert json.loads(path.read_text()) == {"val/loss": 1.0}


def test_text_is_utf_8(tmp_path):
    write_json(tmp_path / "a.json", {"genre": "Épouvante"})
    assert "Épouvante".encode() in (tmp_path / "a.json").read_bytes()


def test_csv_rows_with_different_keys_share_one_header(tmp_path):
    write_rows(tmp_path / "a.csv", [{"epoch": 0, "loss": None}, {"epoch": 1, "lr": 0.1}])
    assert (tmp_path / "a.csv").read_text().split() == ["epoch,loss,lr", "0,,", "1,,0.1"]


def test_digest_ignores_the_order_of_keys():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest([1, 2]) != digest([2, 1])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.root", "/elsewhere"),
        ("data.workers", 4),
        ("store.dir", "/elsewhere"),
        ("store.workers", 3),
        ("store.precision", "float32"),  # as it was before one could choose
        ("encode.backend", "openvino"),
        ("encode.precision", "float32"),
        ("logger", {"wandb": {"mode": "online"}}),
        ("trainer.threads", 2),
        ("trainer.profiler", "simple"),
        ("trainer.progress", "none"),
        ("check", True),
        ("hydra", {"job": 3}),
    ],
)
def test_paths_and_display_do_not_change_identity(key, value):
    assert identity(changed(key, value)) == identity(CONFIG)
    assert setting(changed(key, value)) == setting(CONFIG)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("modalities", "image+text"),
        ("monitor", "val/f1_micro"),
        ("data.seed", 1),
        ("data.limit", 100),
        ("encoder.text.dropout", 0.4),
        ("encoder.image.freeze", 3),
        ("fusion.dim", 128),
        ("trainer.max_epochs", 24),
        ("store.precision", "float16"),
        ("encode.precision", "bfloat16"),
    ],
)
def test_result_affecting_values_change_identity_and_setting(key, value):
    assert identity(changed(key, value)) != identity(CONFIG)
    assert setting(changed(key, value)) != setting(CONFIG)


def test_moved_class_keeps_the_identity():
    moved = {**CONFIG, "fusion": {**CONFIG["fusion"], "_target_": "gmu_lightning.elsewhere.GMU"}}
    here = {**CONFIG, "fusion": {**CONFIG["fusion"], "_target_": "gmu_lightning.fusion.GMU"}}
    renamed = {**CONFIG, "fusion": {**CONFIG["fusion"], "_target_": "gmu_lightning.fusion.GatedUnit"}}
    assert identity(moved) == identity(here) != identity(renamed)


def test_seed_changes_identity_but_not_setting():
    assert identity(changed("seed", 2)) != identity(CONFIG)
    assert setting(changed("seed", 2)) == setting(CONFIG)


def test_identity_ignores_the_order_of_keys():
    assert identity(dict(reversed(CONFIG.items()))) == identity(CONFIG)


def predictions(**summaries: Any) -> Predictions:
    random = np.random.default_rng(0)
    logits = random.normal(size=(4, 3)) * 10
    return Predictions(
        ids=["0000001", "tt/2", "3", "Ünï"],
        split="val",
        genres=("Drama", "Sci-Fi", "Film-Noir"),
        modalities=("text", "image"),
        present=np.array([[True, True], [True, False], [False, True], [False, False]]),
        logits=logits,
        data_fingerprint={"movies": "abc", "text": "def"},
        **{"labels": random.random((4, 3)) < 0.5, **summaries},
    )


def gated() -> Predictions:
    random = np.random.default_rng(1)
    return predictions(
        open_threshold=0.25,
        bias=random.normal(size=3),
        gate=random.random((4, 2)),
        gate_open=random.random((4, 2)),
        gate_by_genre=random.random((4, 2, 3)),
        contributions=random.normal(size=(4, 2, 3)),
    )


def single_label() -> Predictions:
    return predictions(task="multiclass", labels=np.eye(3, dtype=bool)[[0, 2, 2, 1]])


@pytest.mark.parametrize("written", [predictions(), gated(), single_label()], ids=["plain", "gated", "single label"])
def test_predictions_survive_writing_and_reading(tmp_path, written):
    written.write(tmp_path / "predictions" / "val.parquet")
    read = Predictions.read(tmp_path / "predictions" / "val.parquet")
    assert vars(read).keys() == vars(written).keys()
    for name, value in vars(written).items():
        if isinstance(value, np.ndarray):
            assert np.array_equal(getattr(read, name), value), name
            assert getattr(read, name).dtype == value.dtype, name
        else:
            assert getattr(read, name) == value, name


def test_prediction_columns_are_named(tmp_path):
    written = gated()
    written.write(tmp_path / "val.parquet")
    table = pq.read_table(tmp_path / "val.parquet")
    column = {name: table[name].to_pylist() for name in table.column_names}
    assert column["id"] == written.ids
    assert column["split"] == ["val"] * 4
    assert column["present/image"] == [True, False, True, False]
    assert column["label/Sci-Fi"] == written.labels[:, 1].tolist()
    assert column["prob/Sci-Fi"] == pytest.approx(1 / (1 + np.exp(-written.logits[:, 1])))
    assert column["gate/image"] == written.gate[:, 1].tolist()
    assert column["gate_open/image"] == written.gate_open[:, 1].tolist()
    assert column["gate/image/Sci-Fi"] == written.gate_by_genre[:, 1, 1].tolist()
    assert column["contribution/image/Sci-Fi"] == written.contributions[:, 1, 1].tolist()
    about = json.loads(table.schema.metadata[b"gmu_lightning"])
    assert about == {
        "genres": ["Drama", "Sci-Fi", "Film-Noir"],
        "modalities": ["text", "image"],
        "task": "multilabel",
        "threshold": 0.5,
        "open_threshold": 0.25,
        "bias": dict(zip(written.genres, written.bias.tolist(), strict=True)),
        "data_fingerprint": {"movies": "abc", "text": "def"},
    }


def test_a_single_label_is_the_most_probable_of_a_softmax(tmp_path):
    found = single_label()
    found.write(tmp_path / "val.parquet")
    table = pq.read_table(tmp_path / "val.parquet")
    probabilities = np.stack([table[f"prob/{genre}"].to_numpy() for genre in found.genres], axis=1)
    assert probabilities == pytest.approx(torch.from_numpy(found.logits).softmax(dim=1).numpy())
    assert found.decisions.tolist() == [[c == row.argmax() for c in range(3)] for row in found.logits]
    about = json.loads(table.schema.metadata[b"gmu_lightning"])
    assert (about["task"], about["threshold"]) == ("multiclass", None)


def test_several_labels_are_decided_at_the_threshold():
    found = predictions()
    assert np.array_equal(found.decisions, found.logits >= 0)
    found.threshold = [0.0, 1.0, 0.5]
    assert found.decisions[:, 0].all() and not found.decisions[:, 1].any()


@pytest.mark.parametrize(
    ("about", "task"),
    [
        ({"task": None}, "multilabel"),  # as in older files
        ({"task": "ranking"}, "task is 'ranking' and one of multilabel, multiclass is expected"),
        ({"task": "multiclass"}, "its threshold is 0.5 and its task multiclass"),
        ({"threshold": None}, "its threshold is None and its task multilabel"),
        ({"task": "multiclass", "threshold": None}, "its task is multiclass, and a movie has several labels"),
    ],
)
def test_task_of_a_file_fits_its_content(tmp_path, about, task):
    path = tmp_path / "val.parquet"
    predictions(labels=np.ones((4, 3), bool)).write(path)
    table = pq.read_table(path)
    changed = json.loads(table.schema.metadata[b"gmu_lightning"]) | about
    changed = {key: value for key, value in changed.items() if key != "task" or value}
    pq.write_table(table.replace_schema_metadata({"gmu_lightning": json.dumps(changed)}), path)
    if " " not in task:
        assert Predictions.read(path).task == task
    else:
        with pytest.raises(UserError, match=re.escape(task)):
            Predictions.read(path)


def test_predictions_without_gates_have_no_gate_columns(tmp_path):
    assert not [name for name in predictions().columns() if name.startswith(("gate", "contribution"))]


def test_probabilities_of_extreme_logits_do_not_overflow():
    with np.errstate(over="raise", invalid="raise"):
        extreme = Predictions(**{**_arguments(predictions()), "logits": np.full((4, 3), 1000.0) * [1, -1, 0]})
    assert extreme.probabilities[0].tolist() == [1.0, 0.0, 0.5]


def _arguments(written: Predictions) -> dict[str, Any]:
    return {name: value for name, value in vars(written).items() if name != "probabilities"}


def test_a_run_without_overrides_has_none(tmp_path):
    run = Run(tmp_path)
    run.begin(CONFIG, [])
    assert run.overrides == []


def test_begin_writes_configuration_overrides_and_identity(tmp_path):
    run = Run(tmp_path / "run")
    run.begin(CONFIG, ["fusion.dim=256", "data.root=a (b), c"])
    assert run.config == CONFIG
    assert run.overrides == ["fusion.dim=256", "data.root=a (b), c"]
    status = run.status
    assert (status["state"], status["why"], status["warnings"], status["ended"]) == ("running", None, [], None)
    assert (status["identity"], status["setting"]) == (identity(CONFIG), setting(CONFIG))


def test_finished_run_is_never_overwritten(tmp_path):
    run = Run(tmp_path)
    run.begin(CONFIG, [])
    run.end("finished")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=r"is never overwritten: choose another hydra\.run\.dir"):
        Run(tmp_path).begin(changed("seed", 2), ["seed=2"])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("state", ["failed", "skipped"])
def test_unfinished_run_may_begin_again(tmp_path, state):
    run = Run(tmp_path)
    run.begin(CONFIG, [])
    run.end(state, "for a reason")
    assert (run.status["state"], run.status["why"]) == (state, "for a reason")
    assert run.status["ended"] >= run.status["started"]
    run.begin(CONFIG, [])
    assert (run.status["state"], run.status["why"]) == ("running", None)


def test_warnings_are_kept_once_and_after_the_end(tmp_path):
    run = Run(tmp_path)
    run.begin(CONFIG, [])
    for sentence in ("flat_loss: it did not learn", "dropped_genre: News", "flat_loss: it did not learn"):
        run.warn(sentence)
    run.end("finished")
    assert run.status["warnings"] == ["flat_loss: it did not learn", "dropped_genre: News"]


@pytest.mark.parametrize("record", [lambda run: run.end("failed", "why"), lambda run: run.warn("flat_loss: it did not learn")])
def test_run_that_has_not_begun_takes_no_record(tmp_path, record):
    with pytest.raises(UserError, match=r"holds no status\.json, so no run has begun in it"):
        record(Run(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_folder_is_locked_by_one_holder(tmp_path):
    with Run(tmp_path).held() as mine, Run(tmp_path).held() as theirs:
        assert (mine, theirs) == (True, False)
    with Run(tmp_path).held() as later:
        assert later


def test_folder_is_locked_against_another_process(tmp_path):
    ask = f"from gmu_lightning.run import Run\nwith Run({str(tmp_path)!r}).held() as mine: print(mine)"
    with Run(tmp_path).held():
        found = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False"]


def test_lock_file_is_removed_after_an_error(tmp_path):
    with pytest.raises(KeyboardInterrupt), Run(tmp_path / "run").held():
        assert files_of(tmp_path / "run") == {".running"}
        raise KeyboardInterrupt
    assert files_of(tmp_path / "run") == set()


def test_refused_holder_keeps_the_lock_in_place(tmp_path):
    with Run(tmp_path).held():
        for _ in range(2):
            with Run(tmp_path).held() as mine:
                assert not mine
        assert Run(tmp_path).is_held
    assert not Run(tmp_path).is_held


def test_folder_without_a_configuration_is_no_run(tmp_path):
    with pytest.raises(UserError, match=r"is no run's folder: it holds no config\.yaml"):
        Run(tmp_path).config
    assert (Run(tmp_path).status, Run(tmp_path).metrics, Run(tmp_path).overrides) == ({}, {}, [])


@pytest.mark.parametrize("text", ["- a list", "{half", "seed: !!python/object/apply:os.getcwd []"])
def test_configuration_must_be_a_plain_mapping(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml is damaged, for it is no (mapping|YAML) of plain data"):
        Run(tmp_path).config


def test_runs_under_are_listed_by_name(tmp_path):
    for name in ("b", "a"):
        Run(tmp_path / name).begin(CONFIG, [])
    (tmp_path / "c").mkdir()
    assert [run.folder.name for run in runs_under(tmp_path)] == ["a", "b"]


def test_begin_removes_the_error_of_the_last_attempt(tmp_path):
    run = Run(tmp_path / "run")
    run.begin(CONFIG, [])
    (run / "error.txt").write_text("Traceback")
    run.end("failed", "RuntimeError: once")
    run.begin(CONFIG, [])
    assert not (run / "error.txt").exists()
    assert run.status["state"] == "running"


def test_unreadable_file_is_named(tmp_path, monkeypatch):
    run = Run(tmp_path)
    write_json(run / "metrics.json", {"test/f1_micro": 0.5})

    def refused(path: Path, *arguments: Any, **options: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(UserError, match=r"metrics\.json is damaged, for it cannot be read \(Permission denied\)"):
        _ = run.metrics
