"""ONNX files of every fusion and encoder give torch's logits, and an example predicts with them in a process without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import gmu_lightning
from gmu_lightning.exporting import onnx_files
from gmu_lightning.exporting.command import export
from gmu_lightning.movie import UserError

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
EXAMPLE = Path(__file__).parents[2] / "examples" / "onnx"
WITHOUT_TORCH = f"""
import json, sys
sys.modules["torch"] = sys.modules["gmu_lightning"] = sys.modules["transformers"] = None
sys.path.insert(0, {str(EXAMPLE)!r})
from pathlib import Path
from predict import Model
folder, movies = json.loads(sys.argv[1])
model = Model(Path(folder))
print(json.dumps([model.logits(plot, poster and Path(poster)) for plot, poster in movies]))
"""
SHORT = ("trainer.max_epochs=1",)
SHALLOW = ("fusion=bottleneck", "fusion.layers=2", "fusion.fusion_layer=1")  # most of an export is the layers of the fusion
OF_VECTORS = ("mean", "sum", "concat", "max", "self_gate", "lmf", "gmu_hier", "gmu_softmax", "late", "moe")
OF_TRANSFORMERS = ("gmu_original", "bottleneck", "mult_gmu", "mmbt")  # with a tiny BERT and a narrow ResNet
HEADS = (("fusion=mean",), SHALLOW)
NORMALISERS = (("none", "batch"), ("standardise", "layer"))
ENCODERS = (  # of planted features; each pair is exported together
    *({"video": name, "audio": name} for name in ("mean", "attention_pool", "transformer", "conv")),
    {"video": "projected", "metadata": "mlp"},
    {"metadata": "vector"},
)


def checked(folder: Path, run: Path) -> dict:
    """Export a run with ONNX files, and return check.json."""
    export(run, folder, onnx=True)
    return json.loads((folder / "onnx" / "check.json").read_text())


@pytest.fixture(scope="module")
def with_onnx(smoke, tmp_path_factory) -> Path:
    """The smoke run with ONNX files."""
    folder = tmp_path_factory.mktemp("onnx") / "model"
    export(smoke.folder, folder, onnx=True)
    return folder


def by_example(folder: Path, movies: list[tuple[str | None, str | None]]) -> list[dict[str, float]]:
    words = [sys.executable, "-c", WITHOUT_TORCH, json.dumps([str(folder), movies])]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.heavy
def test_the_files_were_checked_on_every_subset(with_onnx):
    found = json.loads((with_onnx / "onnx" / "check.json").read_text())
    assert found["largest_difference"] < 1e-4
    assert len(found["shapes"]) == 3
    assert found["subsets"] == ["none", "image", "text", "text+image"]
    assert sorted(path.name for path in (with_onnx / "onnx").iterdir()) == [
        *("check.json", "encoder_image.onnx", "encoder_text.onnx", "fusion.onnx")
    ]
    for path in (with_onnx / "onnx").glob("*.onnx"):
        assert str(Path.cwd()).encode() not in path.read_bytes()


@pytest.mark.heavy
def test_the_example_predicts_without_torch(with_onnx, raw):
    poster = str(next(raw.glob("dataset/*.jpeg")))
    plot = "A vampire haunts the cellar at midnight. The Sheriff's revolver, drawn at noon."
    movies = [(plot, poster), (plot, None), (None, poster)]
    rows = [{"plot": plot, "poster": poster} for plot, poster in movies]
    expected = gmu_lightning.load(with_onnx).predict(rows)
    for n, found in enumerate(by_example(with_onnx, movies)):
        assert list(found.values()) == pytest.approx([expected[f"logit/{genre}"][n] for genre in found], abs=1e-4)


@pytest.mark.heavy
def test_files_that_differ_from_torch_are_not_kept(smoke, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_files, "ALLOWED", -1.0)
    with pytest.raises(UserError, match="was written without ONNX files, for its logits by ONNX Runtime differ"):
        export(smoke.folder, tmp_path / "model", onnx=True)
    assert (tmp_path / "model" / "README.md").exists()
    assert not (tmp_path / "model" / "onnx").exists()


def test_a_missing_library_is_named_at_once(smoke, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_files, "NEEDED", ("onnxruntime", "no_such_library"))
    with pytest.raises(UserError, match=r"onnx=true needs no_such_library: type pip install 'gmu_lightning\[onnx\]'"):
        export(smoke.folder, tmp_path / "model", onnx=True)
    assert not (tmp_path / "model").exists()


@pytest.mark.heavy
@pytest.mark.parametrize("fusion", OF_VECTORS)
def test_every_fusion_of_vectors_is_exported(fusion, train, raw, tmp_path):
    run = train(f"data.root={raw}", f"fusion={fusion}", *SHORT)
    assert checked(tmp_path / "model", run.folder)["largest_difference"] < 1e-4


@pytest.mark.heavy
@pytest.mark.parametrize("fusion", OF_TRANSFORMERS)
def test_every_fusion_of_tokens_is_exported(fusion, train, pretrained, raw, tmp_path):
    words = ("encoder.text.freeze=all", "scheduler=constant") if fusion == "mmbt" else ()
    run = train(*pretrained, f"data.root={raw}", f"fusion={fusion}", *words, *SHORT)
    assert checked(tmp_path / "model", run.folder)["largest_difference"] < 1e-4
    if fusion not in ("gmu_original", "mmbt"):
        return
    plots = ["A vampire haunts the cellar at midnight.", "The sheriff draws a revolver at noon, and rides across the prairie."]
    poster = str(tmp_path / "poster.png")  # less than twice the size that the network reads, so Pillow shrinks it in both
    Image.open(next(raw.glob("dataset/*.jpeg"))).resize((300, 400)).save(poster)
    movies = [(plots[0], poster), (plots[1], None), (None, poster)]
    expected = gmu_lightning.load(run.folder).predict([{"plot": plot, "poster": poster} for plot, poster in movies])
    for n, found in enumerate(by_example(tmp_path / "model", movies)):
        assert list(found.values()) == pytest.approx([expected[f"logit/{genre}"][n] for genre in found], abs=1e-4)


@pytest.mark.heavy
@pytest.mark.parametrize("fusion", HEADS, ids=" ".join)
def test_maxout_heads_are_exported(fusion, train, tmp_path):
    run = train(*fusion, "fusion.head=maxout", *SHORT)
    assert checked(tmp_path / "model", run.folder)["largest_difference"] < 1e-4


@pytest.mark.heavy
@pytest.mark.parametrize(("text", "image"), NORMALISERS)
def test_every_normalisation_is_exported(text, image, train, tmp_path):
    run = train(f"encoder.text.normalise={text}", f"encoder.image.normalise={image}", *SHORT)
    assert checked(tmp_path / "model", run.folder)["largest_difference"] < 1e-4


@pytest.mark.heavy
@pytest.mark.parametrize("encoders", ENCODERS, ids=lambda encoders: "-".join(f"{m}={e}" for m, e in encoders.items()))
def test_every_encoder_is_exported(encoders, train, tmp_path):
    fusion = ("fusion=concat",) if "metadata" in encoders else SHALLOW  # the latter reads sequences
    chosen = [f"encoder/{modality}={name}" for modality, name in encoders.items()]
    words = ("data.modalities=text+video+audio+metadata", f"modalities={'+'.join(('text', *encoders))}", *chosen)
    run = train(*words, *fusion, *SHORT)
    found = checked(tmp_path / "model", run.folder)
    assert found["largest_difference"] < 1e-4
    assert np.isfinite(found["largest_difference"])
