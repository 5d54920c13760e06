"""Arguments of classes are checked against the types in their signatures."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gmu_lightning.config.checks import check_arguments, expected
from gmu_lightning.config.options import EvaluateConfig
from gmu_lightning.config.ranges import Count, Positive, Probability
from gmu_lightning.data.mmimdb import MMIMDb
from gmu_lightning.data.moviescope import Moviescope
from gmu_lightning.data.planted import Planted
from gmu_lightning.encoders.image import TinyConv
from gmu_lightning.encoders.metadata import MetadataMLP
from gmu_lightning.encoders.temporal import MeanPool, MelConv, TimeTransformer
from gmu_lightning.encoders.text.bag_of_words import BagOfWords
from gmu_lightning.encoders.text.huggingface import HuggingFaceText
from gmu_lightning.encoders.trailers.audio_transformer import HuggingFaceAudio
from gmu_lightning.encoders.trailers.preparations import FramePreparation, MelPreparation
from gmu_lightning.encoders.vector import Vector
from gmu_lightning.fusion import GMU, Bottleneck, Concat, MulTGMU, SelfGate
from gmu_lightning.losses import WeightedBCE
from gmu_lightning.movie import UserError
from gmu_lightning.optimisation import warmup


@pytest.mark.parametrize(
    ("made", "name", "value", "form"),
    [
        (BagOfWords, "mode", "max", "valid are mean, sum"),
        (BagOfWords, "min_count", 0, "give a whole number from 1 to"),
        (HuggingFaceText, "pool", "mena", "did you mean mean"),
        (HuggingFaceText, "max_tokens", 2, "give a whole number from 3 to"),
        (HuggingFaceText, "normalise", "unit", "valid are none, layer, batch, standardise"),
        (HuggingFaceText, "dropout", 1.0, "give a number from 0 on and below 1"),
        (HuggingFaceText, "lr", 0.0, "give a number above 0, or null"),
        (HuggingFaceAudio, "window", 0.0, "give a number above 0"),
        (FramePreparation, "rate", "fast", "give a number above 0"),
        (FramePreparation, "dtype", "int8", "valid are float32, float16"),
        (MelPreparation, "preset", "mel64", "did you mean mel96"),
        (TinyConv, "size", 4, "give a whole number from 8 to 1,024"),
        (TinyConv, "channels", [8], r"give a list of two numbers, such as \[16,32\]"),
        (MetadataMLP, "hidden", 0, "give a whole number from 1 to 65,536"),
        (MelConv, "channels", 0, "give a whole number from 1 to 65,536, or null"),
        (TimeTransformer, "stride", 0, "give a whole number from 1 to"),
        (MeanPool, "max_steps", 0, "give a whole number from 1 to"),
        (Vector, "dim", 2.5, "give a whole number from 1 to 65,536, or null"),
        (GMU, "gate_input", "all", "valid are self, concat"),
        (Concat, "head", "max", "did you mean maxout"),
        (Concat, "hidden", "maybe", "give true or false"),
        (SelfGate, "activation", "sigmoid", "valid are tanh, relu, gelu"),
        (Bottleneck, "bottlenecks", 0, "give a whole number from 1 to"),
        (MulTGMU, "attention_dropout", {"frames": 0.1}, "give probabilities by modality, such as {video: 0.0, audio: 0.0}"),
        (MulTGMU, "attention_dropout", {"video": 1.0}, "give probabilities by modality"),
        (WeightedBCE, "pos_weight", "log", "valid are none, sqrt, inverse"),
        (warmup, "decay", "step", "valid are constant, linear, cosine"),
        (warmup, "share", 1.0, "give a number from 0 on and below 1"),
        (MMIMDb, "plot", "shortest", "valid are longest, first, concat"),
        (Moviescope, "audio", "mel", "valid are auto, mel96, mel128, trailers"),
        (Moviescope, "leave_out", "year", r"give a list, such as data.leave_out=\[year\]"),
        (Planted, "movies", 10**8, "give a whole number from 6 to 1,000,000"),
    ],
)
def test_a_wrong_argument_is_named_with_the_expected_form(made, name, value, form):
    with pytest.raises(UserError, match=rf"^here\.{name}=.* (is not possible|does not exist): .*{form}"):
        check_arguments(made, {name: value}, "here")


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"split": "dev"}, "split=dev does not exist: valid are train, val, test"),
        ({"robustness": "maybe"}, "robustness=maybe is not possible: give true or false"),
        ({"robustness_seed": -1}, "robustness_seed=-1 is not possible: give a whole number from 0 on"),
        ({"robustness_seed": 1.5}, "robustness_seed=1.5 is not possible: give a whole number from 0 on"),
        ({"robustness_seed": True}, "robustness_seed=true is not possible: give a whole number from 0 on"),
        ({"robustness": False, "robustness_seed": "x"}, "robustness_seed=x is not possible: give a whole number from 0 on"),
    ],
)
def test_a_wrong_setting_of_an_evaluation_is_refused(wrong, sentence):
    with pytest.raises(UserError, match=f"^{sentence}"):
        EvaluateConfig.of({"split": "test", "robustness": True, "robustness_seed": 0} | wrong)


def test_arguments_without_a_checked_type_are_accepted():
    check_arguments(SimpleNamespace, {"anything": object()}, "here")
    check_arguments(MeanPool, {"preparation": {"_target_": "another.class"}}, "here")


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (Count, "a whole number from 1 to 1,000,000,000"),
        (Probability, "a number from 0 on and below 1"),
        (Positive | None, "a number above 0, or null"),
        (bool, "true or false"),
        (dict[str, Any], "a mapping"),
    ],
)
def test_a_type_is_described_in_words(hint, words):
    assert expected(hint) == words
