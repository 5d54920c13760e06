"""Runs with two-tower networks, DINOv3 and adapters: trained, scored again, explained, exported and loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import gmu_lightning
from gmu_lightning.exporting.command import export
from gmu_lightning.run import Run

from ..encoders.networks import vision_network
from .shell import last_line, typed

PLOTS = ["A vampire bites a detective in the night.", "Two lovers dance and sing until the morning, and then they marry."]
SHORT = ("trainer.max_epochs=1", "trainer.precision=32-true")


@pytest.fixture(scope="module")
def networks(tmp_path_factory) -> dict[str, tuple[str, ...]]:
    """{family: the overrides that choose its tiny network on disk}."""
    found = {}
    for family in ("clip", "siglip2", "dinov3"):
        folder = tmp_path_factory.mktemp(family)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for part in vision_network(family, PLOTS):
                part.save_pretrained(folder)
        text = (f"encoder/text={family}", f"encoder.text.name={folder}") if family != "dinov3" else ()
        found[family] = (f"encoder/image={family}", f"encoder.image.name={folder}", *text)
    found["clip"] += ("encoder.text.max_tokens=24",)
    return found


@pytest.fixture(scope="module")
def adapted(train, pretrained, raw) -> Run:
    return train(*pretrained, f"data.root={raw}", "encoder.text.lora=2", "trainer.max_epochs=2", "trainer.precision=32-true")


def frame(run: Run, raw: Path) -> pd.DataFrame:
    """Return the test movies of a run, as a table of its plots and posters."""
    ids = list(run.predictions("test").ids)
    plots = ["\n".join(json.loads((raw / "dataset" / f"{movie}.json").read_text())["plot"]) for movie in ids]
    return pd.DataFrame({"id": ids, "text": plots, "image": [str(raw / "dataset" / f"{movie}.jpeg") for movie in ids]})


def test_only_adapters_and_the_rest_are_trained_and_kept(adapted):
    state = torch.load(adapted / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    text = {name: value for name, value in state.items() if name.startswith("encoders.")}
    assert text and all(".lora_" in name for name in text)
    own = sum(value.numel() for value in text.values())
    assert own == 2 * 4 * 2 * (16 + 16)  # layers, projections, rank, two sides of a matrix
    others = sum(p.numel() for name, p in state.items() if name not in text and "running" not in name and "_of" not in name)
    assert adapted.metrics["parameters/trainable"] <= own + others < adapted.metrics["parameters/total"]
    assert any(value.abs().max() > 0 for name, value in text.items() if "lora_B" in name)


def test_adapters_are_merged_for_predictions_and_exports(adapted, raw, tmp_path):
    written = adapted.predictions("test")
    table = frame(adapted, raw)
    export(adapted.folder, tmp_path / "model")
    shutil.copytree(tmp_path / "model", tmp_path / "elsewhere")
    for place in (adapted.folder, tmp_path / "elsewhere"):
        found = gmu_lightning.load(place).predict(table)
        columns = [f"logit/{genre}" for genre in written.genres]
        assert np.allclose(found[columns].to_numpy(), written.logits, atol=1e-5)
    weights = json.loads((tmp_path / "model" / "config.json").read_text())["config"]["encoder"]["text"]
    assert weights["lora"] is None


def test_a_run_with_adapters_is_scored_again(adapted, tmp_path, store):
    done = typed("evaluate", f"run={adapted.folder}", folder=tmp_path, store=store)
    assert done.returncode == 0, done.stderr
    (again,) = adapted.folder.glob("evaluate/*/metrics.json")
    assert json.loads(again.read_text())["test/loss"] == pytest.approx(adapted.metrics["test/loss"], abs=1e-5)
    shutil.rmtree(adapted.folder / "evaluate")


def test_adapters_beside_a_trained_network_are_refused(pretrained, tmp_path, store):
    words = ("experiment=smoke", *pretrained, "encoder.text.lora=2", "encoder.text.freeze=none", "check=true")
    done = typed("train", *words, folder=tmp_path, store=store)
    assert done.returncode == 1
    assert last_line(done.stderr).startswith("encoder.text.lora=2 with encoder.text.freeze=none: adapters are trained beside")


@pytest.mark.heavy
@pytest.mark.parametrize("family", ["clip", "siglip2", "dinov3"])
def test_runs_are_exported_explained_and_written_as_onnx(family, train, networks, raw, tmp_path):
    run = train(*networks[family], f"data.root={raw}", "data.limit=20/10/10", "modalities=text+image", *SHORT)
    export(run.folder, tmp_path / "model", onnx=True)
    check = json.loads((tmp_path / "model" / "onnx" / "check.json").read_text())
    assert check["largest_difference"] <= 1e-4 and {"encoder_text", "encoder_image"} <= check["parts"].keys()
    written, table = run.predictions("test"), frame(run, raw)
    model = gmu_lightning.load(tmp_path / "model")
    logits = model.predict(table)[[f"logit/{genre}" for genre in written.genres]].to_numpy()
    assert np.allclose(logits, written.logits, atol=1e-5)
    reasons = model.explain({"text": PLOTS[0], "image": table["image"][0]}, why="words")
    assert reasons
