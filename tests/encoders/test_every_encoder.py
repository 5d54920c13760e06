"""Every choice of encoder/<modality>, found by listing the folders, on a small network of its own architecture."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from hydra.utils import get_class, instantiate

from gmu_lightning.encoders.base import Encoder
from gmu_lightning.encoders.image import TimmImage
from gmu_lightning.encoders.text import HuggingFaceText
from gmu_lightning.encoders.windows import HuggingFaceAudio

CONF = Path(__file__).parents[2] / "conf" / "encoder"
CHOICES = sorted(path.relative_to(CONF).as_posix() for path in CONF.glob("*/*.yaml"))
FAMILIES = {"distilbert": "distilbert", "roberta": "roberta"}
SETTLED = {"normalise": "layer", "dropout": 0.0}


@pytest.fixture
def encoder_of(text_folder, image_folder, sound_folder) -> Callable[..., Encoder]:
    def make(choice: str, **changes) -> Encoder:
        node = yaml.safe_load((CONF / choice).read_text()) | SETTLED | changes
        target = node.pop("_target_")
        cls = get_class(target)
        if cls is HuggingFaceText:
            node["name"] = str(text_folder(FAMILIES.get(Path(choice).stem, "bert")))
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
    special = {
        "text/vector.yaml": list(draw(size=(3, 5))),
        "image/vector.yaml": list(draw(size=(3, 5))),
    }

    def of(choice: str) -> list:
        if Path(choice).stem.startswith(("trailer", "ast")):
            return trailers
        return special.get(choice, contents[choice.split("/", maxsplit=1)[0]])

    return of


@pytest.mark.parametrize("choice", CHOICES)
def test_keeps_to_what_every_encoder_keeps_to(choice, check_encoder, encoder_of, contents_of):
    check_encoder(lambda: encoder_of(choice), contents_of(choice))


@pytest.mark.parametrize("choice", CHOICES)
def test_yaml_says_the_common_settings_and_freezes_what_is_pretrained(choice, encoder_of):
    node = yaml.safe_load((CONF / choice).read_text())
    common = {"freeze", "unfreeze_at_epoch", "lr", "normalise", "dropout", "modality_dropout"}
    assert common <= set(node)
    assert node["normalise"] == node["dropout"] == "auto"
    assert encoder_of(choice).pretrained == (node["freeze"] == "all")
    assert isinstance(node["lr"], float | None)


@pytest.mark.parametrize("choice", CHOICES)
def test_belongs_to_the_modality_of_its_folder(choice, encoder_of):
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


def test_importing_checking_and_constructing_loads_no_network_library(text_folder):
    program = (
        "import sys; import gmu_lightning.encoders.image, gmu_lightning.encoders.tiny, gmu_lightning.encoders.pooling\n"
        "import gmu_lightning.encoders.audio, gmu_lightning.encoders.metadata, gmu_lightning.encoders.windows\n"
        "import gmu_lightning.encoders.trailers, gmu_lightning.encoders.sound\n"
        "from gmu_lightning.encoders.text import HuggingFaceText\n"
        "HuggingFaceText(sys.argv[1], max_tokens=8).check()\n"
        "assert not {'transformers', 'timm', 'sklearn', 'av'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(text_folder())], check=True)
