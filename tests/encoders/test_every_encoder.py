"""Every choice of encoder/<modality> in the folders of conf, with a small network of the same architecture."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from gmu_lightning.encoders.base import Encoder
from gmu_lightning.encoders.image import TimmImage
from gmu_lightning.encoders.image_transformer import HuggingFaceImage
from gmu_lightning.encoders.text.huggingface import HuggingFaceText
from gmu_lightning.encoders.trailers.audio_transformer import HuggingFaceAudio

CONF = Path(__file__).parents[2] / "conf" / "encoder"
CHOICES = sorted(path.relative_to(CONF).as_posix() for path in CONF.glob("*/*.yaml"))
FAMILIES = {name: name for name in ("distilbert", "roberta", "modernbert")}
RESOLVED = {"normalise": "layer", "dropout": 0.0}


@cache
def node_of(choice: str) -> dict[str, Any]:
    """Return the node of a choice such as `text/bow.yaml`, with the base file that it shares with others."""
    modality, name = choice.removesuffix(".yaml").split("/")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF.parent), version_base="1.3"):
        node = OmegaConf.to_container(compose(f"encoder/{modality}/{name}"), resolve=False)
    return node["encoder"][modality]


@pytest.fixture
def encoder_of(text_folder, image_folder, vision_folder, sound_folder) -> Callable[..., Encoder]:
    def make(choice: str, **changes) -> Encoder:
        node = deepcopy(node_of(choice)) | RESOLVED | changes
        node["lr"] = None
        target = node.pop("_target_")
        cls = get_class(target)
        if cls is HuggingFaceText:
            tower = node["pool"] == "projection"
            stem = Path(choice).stem
            node["name"] = str(vision_folder(stem) if tower else text_folder(FAMILIES.get(stem, "bert")))
            node["max_tokens"] = 24 if stem == "clip" else node["max_tokens"]
        if cls is HuggingFaceImage:
            node["name"] = str(vision_folder(Path(choice).stem))
        if cls is TimmImage:
            node["name"] = str(image_folder(node["name"].split(".")[0]))
        if cls is HuggingFaceAudio:
            node |= {"name": str(sound_folder("ast")), "window": 1.0}
        inner = node.get("preparation")
        if inner and "name" in inner:
            inner["name"] = str(image_folder(inner["name"].split(".")[0]))
        return instantiate(node | {"_target_": target})

    return make


@pytest.fixture
def contents_of(plots, posters, trailers) -> Callable[[str], list]:
    draw = np.random.default_rng(0).normal
    frames, mels = ([draw(size=(length, 5)) for length in (1, 40, 13)] for _ in range(2))
    contents = {"text": plots, "image": posters, "video": frames, "audio": [mel.T for mel in mels]}
    contents["metadata"] = [{"year": 1994, "country": "USA"}, {"year": 2001}, {"year": 1972, "country": "France"}]
    special = {"text/vector.yaml": list(draw(size=(3, 5))), "image/vector.yaml": list(draw(size=(3, 5)))}

    def of(choice: str) -> list:
        if Path(choice).stem.startswith(("trailer", "ast")):
            return trailers
        return special.get(choice, contents[choice.split("/", maxsplit=1)[0]])

    return of


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_passes_the_checks_of_encoders(choice, check_encoder, encoder_of, contents_of):
    check_encoder(lambda: encoder_of(choice), contents_of(choice))


@pytest.mark.parametrize("choice", CHOICES)
def test_yaml_has_common_settings_and_freezes_pretrained(choice, encoder_of):
    node = node_of(choice)
    common = {"freeze", "unfreeze_at_epoch", "lr", "normalise", "dropout", "modality_dropout"}
    assert common <= set(node)
    assert node["normalise"] == node["dropout"] == "auto"
    assert encoder_of(choice).pretrained == (node["freeze"] == "all")
    assert isinstance(node["lr"], float | None) or node["lr"] == "auto"


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_has_the_modality_of_its_folder(choice, encoder_of):
    assert encoder_of(choice).modality == choice.split("/")[0]


def test_fingerprints_are_the_same_in_another_process(encoder_of, tmp_path):
    choices = [choice for choice in CHOICES if not choice.endswith(("bert_large.yaml", "resnet152.yaml"))]
    encoders = [encoder_of(choice) for choice in choices]
    (tmp_path / "encoders.pickle").write_bytes(pickle.dumps(encoders))
    program = "import pickle, sys\nfor e in pickle.load(open(sys.argv[1], 'rb')): print(e.fingerprint, e.preparation.fingerprint)"
    command = [sys.executable, "-c", program, str(tmp_path / "encoders.pickle")]
    there = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONHASHSEED": "7"})
    here = [f"{e.fingerprint} {e.preparation.fingerprint}" for e in encoders]
    assert there.stdout.splitlines() == here


def test_constructing_encoders_imports_no_network_library(text_folder):
    program = (
        "import sys; import gmu_lightning.encoders.image_transformer, gmu_lightning.encoders.text\n"
        "import gmu_lightning.encoders.temporal\n"
        "import gmu_lightning.encoders.metadata, gmu_lightning.encoders.trailers\n"
        "from gmu_lightning.encoders.text.huggingface import HuggingFaceText\n"
        "HuggingFaceText(sys.argv[1], max_tokens=8).check()\n"
        "assert not {'transformers', 'timm', 'sklearn', 'av'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(text_folder())], check=True)
