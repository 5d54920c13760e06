"""Combinations of choices in whole runs: each trains, is recorded, and leaves unrelated results unchanged."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import pytorch_lightning as pl
import torch

from gmu_lightning.config.groups import choices_of
from gmu_lightning.movie import UserError
from gmu_lightning.run import Run
from gmu_lightning.sweep.job import perform, perform_in_sweep

GROUPS = ("loss", "optimizer", "scheduler", "training", "callbacks")
SMALL_BATCHES = "data.batch_size=8"  # five to an epoch


def history(run: Run) -> list[dict[str, float]]:
    header, *rows = (line.split(",") for line in (run / "history.csv").read_text().splitlines())
    return [dict(zip(header, map(float, row), strict=True)) for row in rows]


def weights(run: Run) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def same(one: Run, other: Run) -> bool:
    """Predictions and weights, bit for bit."""
    logits = [run.predictions("test").logits for run in (one, other)]
    states = [weights(run) for run in (one, other)]
    return np.array_equal(*logits) and all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


@pytest.fixture(scope="module")
def plain(train) -> Run:
    """Two epochs of five batches."""
    return train(SMALL_BATCHES)


@pytest.mark.parametrize("fusion", choices_of("fusion"))
def test_every_fusion_trains_and_records_its_gates_and_parts(fusion, train):
    modalities = "text" if fusion == "none" else "text+image"
    transformer = ["encoder/text=minilm"] if fusion == "mmbt" else []
    run = train(f"fusion={fusion}", f"modalities={modalities}", "trainer.max_epochs=1", *transformer)
    test, metrics = run.predictions("test"), run.metrics
    columns = pq.read_schema(run / "predictions/test.parquet").names
    exact = fusion in ("none", "mean", "concat", "sum", "self_gate", "mult_gmu", "bottleneck") or fusion.startswith("gmu_")
    gated = fusion in ("mean", "mult_gmu") or fusion.startswith("gmu_")
    assert metrics["contributions_exact"] is exact
    assert any(name.startswith("contribution/") for name in columns) is exact
    assert any(name.startswith("gate/") for name in columns) is gated
    assert (run / "gates/by_genre.parquet").exists() is gated
    if exact:
        assert test.bias + test.contributions.sum(axis=1) == pytest.approx(test.logits, abs=1e-5)
    assert metrics["parameters/fusion"] > 0


OF_ONE_LABEL = "cross_entropy"  # the loss of data.task=multiclass


@pytest.mark.parametrize("choice", [f"{group}={name}" for group in GROUPS for name in choices_of(group) if name != OF_ONE_LABEL])
def test_every_loss_optimizer_scheduler_method_and_callback_trains(choice, train):
    run = train(choice, SMALL_BATCHES)
    assert [row["step"] for row in history(run)] == [5, 10]
    assert all(np.isfinite(list(row.values())).all() for row in history(run))


def test_changed_gradients_need_layers_of_each_modality(train):
    frozen = ("data.modalities=video+audio", "modalities=video+audio", "fusion=concat", "fusion.hidden=false")
    with pytest.raises(
        UserError, match=r"^training=ogm_ge changes .* no layer of video and audio alone is trained: keep fusion.hidden=true"
    ):
        train(*frozen, "training=ogm_ge")


def test_a_schedule_ends_with_the_last_accumulated_update(train):
    run = train("scheduler=onecycle", SMALL_BATCHES, "trainer.accumulate_grad_batches=3", "trainer.max_epochs=3")
    rows = history(run)
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert rows[-1]["lr"] < 1e-3 * max(row["lr"] for row in rows)


def test_history_tells_the_rate_of_the_epochs_last_update(train):
    run = train("scheduler=linear", "scheduler.share=0", SMALL_BATCHES)
    assert [row["lr"] for row in history(run)] == pytest.approx([1e-3 * 6 / 10, 1e-3 * 1 / 10])


def test_early_stopping_ends_a_run_that_does_not_improve(train):
    run = train("callbacks=early_stopping", "callbacks.early_stopping.patience=2", "optimizer.lr=0", "trainer.max_epochs=9")
    assert [row["epoch"] for row in history(run)] == [0, 1, 2]
    assert (run.metrics["best_epoch"], run.metrics["epochs"]) == (0, 3)


@pytest.mark.parametrize("logger", ["csv", "tensorboard"])
def test_callbacks_may_monitor_any_score_of_val(logger, train):
    score = "callbacks.early_stopping.monitor=val/ap_samples"
    run = train("callbacks=early_stopping", score, "callbacks.early_stopping.patience=1", "optimizer.lr=0", f"logger={logger}")
    assert [row["epoch"] for row in history(run)] == [0, 1]


@pytest.mark.parametrize("choice", ["data.workers=2", "trainer.progress=lines", "logger=tensorboard"])
def test_what_is_no_part_of_a_runs_identity_changes_nothing(choice, plain, train):
    other = train(SMALL_BATCHES, choice)
    assert other.status["identity"] == plain.status["identity"]
    assert same(plain, other)


@pytest.mark.parametrize(
    "random", ["encoder.image.augment=true", "encoder.text.dropout=0.5", "encoder.text.modality_dropout=0.5"]
)
def test_randomness_in_training_follows_from_the_seed(random, plain, train, monkeypatch):
    one = train(SMALL_BATCHES, random)
    monkeypatch.setattr(pl.Callback, "on_validation_start", lambda *_: torch.rand(7))
    other = train(SMALL_BATCHES, random, "data.workers=1")
    assert same(one, other)
    assert not same(one, plain)


def test_the_order_of_modalities_is_the_one_that_was_given(train):
    run = train("modalities=image+text", "fusion=gmu_hier", "trainer.max_epochs=1")
    test = run.predictions("test")
    assert test.modalities == ("image", "text")
    assert torch.load(run / "checkpoints/best.ckpt", weights_only=True)["gmu_lightning"]["modalities"] == ["image", "text"]
    names = [name for name in pq.read_schema(run / "predictions/test.parquet").names if name.startswith("present/")]
    assert names == ["present/image", "present/text"]


def test_a_limit_draws_the_same_movies_for_every_seed(train):
    limited = ("data.limit=20/5/6", "trainer.max_epochs=1")
    one, reseeded, redrawn = train(*limited), train(*limited, "seed=2"), train(*limited, "data.limit=20/5/7")
    assert (one.metrics["val/movies"], one.metrics["test/movies"], redrawn.metrics["test/movies"]) == (5, 6, 7)
    assert one.predictions("test").ids == reseeded.predictions("test").ids
    assert one.predictions("test").data_fingerprint == reseeded.predictions("test").data_fingerprint
    assert one.predictions("val").data_fingerprint != redrawn.predictions("val").data_fingerprint
    assert one.status["setting"] == reseeded.status["setting"] != redrawn.status["setting"]


def test_movies_that_lack_a_chosen_modality_may_be_left_out(copy, train):
    lacking = copy.ids["test"][0]
    copy.poster(lacking).unlink()
    dropped = (f"data.root={copy.folder}", "data.absent=drop", "trainer.max_epochs=1")
    both, text = train(*dropped), train(*dropped, "modalities=text", "fusion=none")
    assert both.predictions("test").ids == copy.ids["test"][1:]
    assert text.predictions("test").ids == copy.ids["test"]
    (problem,) = json.loads((both / "audit.json").read_text())["problems"]
    assert (problem["id"], problem["kind"], problem["action"]) == (lacking, "missing_image", "removed")


def test_movies_whose_poster_cannot_be_read_are_left_out_too(copy, train):
    lacking = copy.ids["test"][0]
    copy.poster(lacking).write_bytes(b"")
    run = train(f"data.root={copy.folder}", "data.absent=drop", "trainer.max_epochs=1")
    assert run.predictions("test").ids == copy.ids["test"][1:]
    audit = json.loads((run / "audit.json").read_text())
    assert audit["movies"]["test"] == len(copy.ids["test"]) - 1
    found = [(p["id"], p["kind"], p["action"], p["file"]) for p in audit["problems"]]
    assert found == [(lacking, "unreadable_image", "removed", f"dataset/{lacking}.jpeg")]


def test_a_finished_run_is_never_overwritten(job):
    made = job("trainer.max_epochs=1")
    perform(made)
    before = contents(made.run.folder)
    with pytest.raises(UserError, match="never overwritten"):
        perform(made)
    assert contents(made.run.folder) == before


def test_failed_jobs_are_repeated_if_asked_and_finished_ones_kept(job, monkeypatch, capsys):
    done = job("trainer.max_epochs=1", sweep="again")
    perform_in_sweep(done)
    before = contents(done.run.folder)
    perform_in_sweep(done)
    assert contents(done.run.folder) == before
    done.run.end("failed", "for the sake of the test")
    perform_in_sweep(done)
    assert done.run.status["state"] == "failed"
    perform_in_sweep(dataclasses.replace(done, retry=True))
    assert done.run.status["state"] == "finished"


@pytest.mark.parametrize(
    ("perform", "error"), [(perform, ValueError), (perform, KeyboardInterrupt), (perform_in_sweep, KeyboardInterrupt)]
)
def test_an_error_is_raised_though_the_run_folder_is_gone(job, monkeypatch, perform, error):
    made = job("trainer.max_epochs=1", sweep="gone")

    def vanish(*_: object) -> None:
        shutil.rmtree(made.run.folder)
        raise error("the cause")

    monkeypatch.setattr("gmu_lightning.sweep.job.train_job", vanish)
    with pytest.raises(error, match="the cause"):
        perform(made)


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file: when it was written, and what it holds."""
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_bfloat16_clips_gradients_and_keeps_float32_weights(train):
    """AdamW is fused, and Lightning would refuse to clip for it."""
    clipped = (SMALL_BATCHES, "trainer.gradient_clip_val=0.01")
    whole, narrow = train(*clipped), train(*clipped, "trainer.precision=bf16-mixed")
    assert all(tensor.dtype == torch.float32 for tensor in weights(narrow).values() if tensor.is_floating_point())
    losses = [[row["train/loss"] for row in history(run)] for run in (whole, narrow)]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_a_run_trains_on_as_many_threads_as_it_was_given(train):
    """Reading and preparing use threads of one each, and must not leave the run with one."""
    run = train("trainer.threads=2", "seed=77")
    assert json.loads((run / "environment.json").read_text())["threads"] == 2


def test_of_equal_scores_the_earliest_epoch_is_the_best(train):
    run = train("optimizer.lr=0", "trainer.max_epochs=3")
    assert len({row["val/ap_micro"] for row in run.history}) == 1
    assert run.metrics["best_epoch"] == 0
