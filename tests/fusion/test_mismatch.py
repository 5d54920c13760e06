"""A fusion that cannot take the chosen modalities is refused in a sentence with a way out."""

from __future__ import annotations

import pytest

from gmu_lightning.encoders.text.huggingface import HuggingFaceText
from gmu_lightning.encoders.vector import Vector
from gmu_lightning.fusion import GMU, MMBT, Concat, Fusion, SingleModality, mismatch, prefix_mismatch
from gmu_lightning.movie import MODALITIES

from ..installed import site


@pytest.mark.parametrize(("cls", "count"), [(SingleModality, 1), (GMU, 2), (GMU, 5), (Concat, 3)])
def test_accepted_number_of_modalities_is_no_mismatch(cls, count):
    assert mismatch(cls, "any", MODALITIES[:count]) is None


def test_single_modality_refuses_two_and_names_fitting_fusions():
    sentence = mismatch(SingleModality, "none", ("text", "image"))
    assert sentence.startswith("fusion=none takes exactly one modality and modalities=text+image names 2: choose one, or fusion=")
    offered = sentence.rpartition("=")[2].split(", ")
    assert {"concat", "gmu_hier", "mmbt"} <= set(offered) and "none" not in offered


def test_gate_with_one_modality_suggests_fusion_none():
    sentence = mismatch(GMU, "gmu_hier", ("text",))
    assert sentence == (
        "fusion=gmu_hier takes at least 2 modalities and modalities=text names 1: choose fusion=none, or more modalities"
    )


def test_mismatch_does_not_construct_the_fusion():
    class Pair(Fusion):
        fewest, most = 2, 2

        def __init__(self):
            raise AssertionError("the fusion was constructed")

    assert mismatch(Pair, "pair", MODALITIES[:2]) is None
    assert mismatch(Pair, "pair", MODALITIES[:3]).startswith(
        "fusion=pair takes at most 2 modalities and modalities=text+image+video names 3: choose fewer, or fusion="
    )


def test_missing_required_modality_is_named():
    assert mismatch(MMBT, "mmbt", ("image", "text")) is None
    assert mismatch(MMBT, "mmbt", ("image", "video")) == (
        "fusion=mmbt reads text and modalities=image+video has none: add it, or choose another fusion"
    )


def test_only_a_transformer_accepts_a_prefix():
    assert prefix_mismatch(MMBT, "mmbt", HuggingFaceText, "bert_base") is None
    assert prefix_mismatch(GMU, "gmu_hier", Vector, "vector") is None
    assert prefix_mismatch(MMBT, "mmbt", Vector, "vector") == (
        "fusion=mmbt puts tokens before the plot's in a transformer and encoder/text=vector is none: "
        "choose encoder/text=minilm or bert_base, or another fusion"
    )


def test_a_damaged_package_hides_no_choice(tmp_path):
    with site(tmp_path) as install:
        install("mine", files={"fusion/lost.yaml": "_target_: mine.Lost", "fusion/bare.yaml": "defaults: [mean]"}, code="")
        found = mismatch(SingleModality, "none", ("text", "image"))
    assert found is not None and "gmu_original" in found and "lost" not in found
