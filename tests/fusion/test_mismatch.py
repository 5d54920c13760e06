"""Why a fusion cannot take so many modalities, in a sentence with the way out."""

from __future__ import annotations

import pytest

from gmu_lightning.encoders.text import HuggingFaceText
from gmu_lightning.encoders.vector import Vector
from gmu_lightning.fusion import GMU, MMBT, Alone, Concat, Fusion, mismatch, prefix_mismatch
from gmu_lightning.movie import MODALITIES


@pytest.mark.parametrize(("cls", "count"), [(Alone, 1), (GMU, 2), (GMU, 5), (Concat, 3)])
def test_a_number_that_it_takes_is_no_mismatch(cls, count):
    assert mismatch(cls, "any", MODALITIES[:count]) is None


def test_none_with_two_says_to_choose_one():
    sentence = mismatch(Alone, "none", ("text", "image"))
    assert sentence == ("fusion=none takes exactly one modality and modalities=text+image names 2: choose one, or another fusion")


def test_the_fusions_that_would_do_are_named():
    sentence = mismatch(Alone, "none", ("text", "image"), ["mean", "gmu_hier"])
    assert sentence.endswith("names 2: choose one, or fusion=mean, gmu_hier")


def test_a_gate_with_one_says_which_fusion_takes_one():
    sentence = mismatch(GMU, "gmu_hier", ("text",))
    assert sentence == (
        "fusion=gmu_hier takes at least 2 modalities and modalities=text names 1: choose fusion=none, or more modalities"
    )


def test_only_what_the_class_declares_is_asked():
    class Pair(Fusion):
        fewest, most = 2, 2

        def __init__(self):
            raise AssertionError("it was made")

    assert mismatch(Pair, "pair", MODALITIES[:2]) is None
    assert mismatch(Pair, "pair", MODALITIES[:3]) == (
        "fusion=pair takes at most 2 modalities and modalities=text+image+video names 3: choose fewer, or another fusion"
    )


def test_a_modality_it_cannot_do_without_is_named():
    assert mismatch(MMBT, "mmbt", ("image", "text")) is None
    assert mismatch(MMBT, "mmbt", ("image", "video")) == (
        "fusion=mmbt reads text and modalities=image+video has none: add it, or choose another fusion"
    )


def test_only_a_transformer_reads_tokens_before_its_words():
    assert prefix_mismatch(MMBT, "mmbt", HuggingFaceText, "bert_base") is None
    assert prefix_mismatch(GMU, "gmu_hier", Vector, "vector") is None
    assert prefix_mismatch(MMBT, "mmbt", Vector, "vector") == (
        "fusion=mmbt puts tokens before the plot's in a transformer and encoder/text=vector is none: "
        "choose encoder/text=minilm or bert_base, or another fusion"
    )
