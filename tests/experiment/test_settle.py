"""A composed configuration is pruned to the chosen modalities, and nothing in it is left to be decided."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
import yaml

from gmu_lightning.experiment import hardware
from gmu_lightning.experiment.conf import conf_folder
from gmu_lightning.experiment.settle import modalities_of, near, settle, words
from gmu_lightning.movie import Senseless, UserError
from gmu_lightning.run import identity

CHOICES = {
    "data": "mmimdb",
    "fusion": "gmu_hier",
    "experiment": None,
    "encoder/text": "minilm",
    "encoder/image": "tiny",
    "hydra/launcher": "basic",
}


def choice(group: str, name: str, **changes: Any) -> dict[str, Any]:
    return yaml.safe_load((conf_folder() / group / f"{name}.yaml").read_text()) | changes


def composed(text: dict[str, Any] | None = None, image: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """Frozen MiniLM and a frozen EfficientNet, unless told otherwise."""
    config = {
        "modalities": "text+image",
        "seed": 3,
        "monitor": "val/ap_micro",
        "data": choice("data", "mmimdb"),
        "encoder": {
            "text": text or choice("encoder/text", "minilm"),
            "image": image or choice("encoder/image", "efficientnet_lite0"),
        },
        "scheduler": choice("scheduler", "auto"),
        "trainer": choice("trainer", "default"),
        "optimizer": choice("optimizer", "adamw"),
    }
    return config | changes


def settled(text: dict[str, Any] | None = None, image: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    return settle(composed(text, image, **changes), CHOICES)


def decided(config: dict[str, Any]) -> dict[str, Any]:
    """What `auto` became, all but the encoders'."""
    return {
        "share": config["scheduler"]["share"],
        "decay": config["scheduler"]["decay"],
        "epochs": config["trainer"]["max_epochs"],
        "clip": config["trainer"]["gradient_clip_val"],
        "tokens": config["data"]["token_budget"],
    }


FROZEN = {"share": 0.0, "decay": "constant", "epochs": 25, "clip": None, "tokens": None}
FINE_TUNED = {"share": 0.1, "decay": "linear", "epochs": 5, "clip": 1.0, "tokens": 2048}


def test_only_the_chosen_modalities_are_left_in_their_order():
    assert list(settled(modalities="image")["encoder"]) == ["image"]
    assert list(settled(modalities="image+text")["encoder"]) == ["image", "text"]


def test_choices_are_pruned_to_what_a_run_is_made_of():
    assert settled(modalities="text")["choices"] == {"data": "mmimdb", "fusion": "gmu_hier", "encoder/text": "minilm"}


def test_what_was_composed_is_left_as_it_was():
    config = composed(modalities="text")
    before = deepcopy(config)
    settle(config, CHOICES)
    assert config == before


def test_an_encoder_that_is_not_chosen_makes_no_other_run():
    other = choice("encoder/image", "tiny", dim=999)
    assert identity(settled(modalities="text")) == identity(settled(image=other, modalities="text"))
    assert identity(settled()) != identity(settled(image=other))


def test_frozen_encoders_are_standardised_and_train_for_25_epochs_at_one_rate():
    config = settled()
    assert decided(config) == FROZEN
    for encoder in config["encoder"].values():
        assert (encoder["normalise"], encoder["dropout"]) == ("standardise", 0.5)


def test_encoders_from_scratch_are_layer_normalised_and_train_as_long():
    config = settled(choice("encoder/text", "tiny"), choice("encoder/image", "tiny"))
    assert decided(config) == FROZEN
    for encoder in config["encoder"].values():
        assert (encoder["normalise"], encoder["dropout"]) == ("layer", 0.0)


@pytest.mark.parametrize("freeze", ["none", 4])
def test_fine_tuned_text_warms_up_and_trains_briefly_in_batches_of_like_length(freeze):
    config = settled(choice("encoder/text", "minilm", freeze=freeze))
    assert decided(config) == FINE_TUNED
    assert (config["encoder"]["text"]["normalise"], config["encoder"]["text"]["dropout"]) == ("layer", 0.0)
    assert (config["encoder"]["image"]["normalise"], config["encoder"]["image"]["dropout"]) == ("standardise", 0.5)


def test_fine_tuned_posters_alone_need_no_budget_of_tokens():
    assert decided(settled(image=choice("encoder/image", "resnet50", freeze="none"))) == FINE_TUNED | {"tokens": None}


@pytest.fixture
def machine(monkeypatch, tmp_path) -> Callable[..., None]:
    """A CPU with such flags, beside a GPU or not."""

    def pretend(*flags: str, gpu: bool = False) -> None:
        monkeypatch.setattr(hardware, "_said_of_cpu", lambda key: " ".join(flags))
        monkeypatch.setattr(hardware, "GPU_NODES", [str(tmp_path)] if gpu else [])

    return pretend


@pytest.mark.parametrize("flag", ["avx512_bf16", "amx_bf16"])
def test_a_text_encoder_is_trained_in_bfloat16_where_the_cpu_multiplies_it(machine, flag):
    machine("fma", flag)
    assert settled(choice("encoder/text", "minilm", freeze="none"))["trainer"]["precision"] == "bf16-mixed"


def test_all_else_is_trained_in_float32(machine):
    machine("avx512_bf16")
    for config in (
        settled(),
        settled(choice("encoder/text", "tiny")),
        settled(image=choice("encoder/image", "resnet50", freeze=2)),
    ):
        assert config["trainer"]["precision"] == "32-true"


def test_a_text_encoder_is_trained_in_float32_where_bfloat16_was_not_shown_to_hold(machine):
    text = choice("encoder/text", "minilm", freeze="none")
    machine("fma", "avx512f")
    assert settled(text)["trainer"]["precision"] == "32-true"
    machine("avx512_bf16", gpu=True)
    assert settled(text)["trainer"]["precision"] == "32-true"
    assert settled(text, trainer=choice("trainer", "default", accelerator="cpu"))["trainer"]["precision"] == "bf16-mixed"


def test_a_precision_that_was_said_is_kept_and_one_that_is_none_is_an_error(machine):
    machine("avx512_bf16")
    text = choice("encoder/text", "minilm", freeze="none")
    assert settled(text, trainer=choice("trainer", "default", precision="32-true"))["trainer"]["precision"] == "32-true"
    with pytest.raises(UserError, match=r"trainer\.precision=bf16_mixed is none .*: did you mean bf16-mixed"):
        settled(text, trainer=choice("trainer", "default", precision="bf16_mixed"))


def test_a_fine_tuned_encoder_that_is_not_chosen_decides_nothing():
    assert decided(settled(choice("encoder/text", "minilm", freeze="none"), modalities="image")) == FROZEN


def test_an_encoder_that_unfreezes_later_is_fine_tuned():
    config = settled(choice("encoder/text", "minilm", unfreeze_at_epoch=2))
    assert decided(config) == FINE_TUNED
    assert (config["encoder"]["text"]["normalise"], config["encoder"]["text"]["dropout"]) == ("layer", 0.0)


def test_what_was_said_is_kept():
    text = choice("encoder/text", "minilm", freeze="none", normalise="batch", dropout=0.3)
    config = composed(text)
    config["trainer"] |= {"max_epochs": 7, "gradient_clip_val": None}
    config["scheduler"] |= {"share": 0.0}
    config["data"] |= {"token_budget": 512}
    found = settle(config, CHOICES)
    assert decided(found) == {"share": 0.0, "decay": "linear", "epochs": 7, "clip": None, "tokens": 512}
    assert (found["encoder"]["text"]["normalise"], found["encoder"]["text"]["dropout"]) == ("batch", 0.3)


def test_nothing_is_left_to_be_decided_and_settling_again_changes_nothing():
    config = settled(choice("encoder/text", "minilm", freeze=2))
    assert "auto" not in [value for node in ("data", "scheduler") for key, value in config[node].items() if key != "layout"]
    assert "auto" not in [config["trainer"][key] for key in ("max_epochs", "gradient_clip_val", "precision")]
    assert settle(config, CHOICES) == config


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("txt+image", r"modalities=txt\+image names 'txt', which is no modality: did you mean text\? valid are text, image,"),
        ("text,image", "names 'text,image', which is no modality: .* joined by \\+"),
        ("text+", "names '', which is no modality: valid are text, image, video, audio, metadata"),
        ("text+image+text", r"names a modality twice: each stands once, joined by \+"),
    ],
)
def test_modalities_that_are_none_are_an_error_that_names_the_near_ones(word, sentence):
    with pytest.raises(UserError, match=sentence):
        modalities_of(word)


def test_modalities_keep_the_order_they_were_given_in():
    assert modalities_of("image+metadata+text") == ("image", "metadata", "text")


def test_a_modality_without_an_encoder_is_an_error_that_names_those_with_one():
    with pytest.raises(Senseless, match="names video, which has no encoder: choose among text, image"):
        settled(modalities="text+video")


@pytest.mark.parametrize("seed", [-1, 1.5, "one", None, True, 2**64, float("nan")])
def test_a_seed_is_a_whole_number_from_0_on(seed):
    with pytest.raises(UserError, match=r"seed=\S+ is no seed: give a whole number from 0 on"):
        settled(seed=seed)


@pytest.mark.parametrize(
    ("group", "values", "sentence"),
    [
        ("trainer", {"max_epochs": 0}, r"trainer\.max_epochs=0 .* give a whole number from 1 on"),
        ("trainer", {"max_epochs": "few"}, r"trainer\.max_epochs=few .* give a whole number from 1 on"),
        ("trainer", {"accumulate_grad_batches": 0}, r"trainer\.accumulate_grad_batches=0 .* from 1 on"),
        ("data", {"batch_size": 2.5}, r"data\.batch_size=2\.5 .* from 1 on"),
        ("data", {"workers": -1}, r"data\.workers=-1 .* from 0 on"),
        ("optimizer", {"lr": "fast"}, r"optimizer\.lr=fast is no learning rate: give a number"),
        ("optimizer", {"lr": -1e-3}, r"optimizer\.lr=-0\.001 is no learning rate: give a number"),
        ("optimizer", {"lr": True}, r"optimizer\.lr=True is no learning rate: give a number"),
        ("optimizer", {"lr": float("nan")}, r"optimizer\.lr=nan is no finite number"),
        ("optimizer", {"lr": float("inf")}, r"optimizer\.lr=inf is no finite number"),
        ("optimizer", {"weight_decay": float("nan")}, r"optimizer\.weight_decay=nan is no finite number"),
        ("optimizer", {"betas": [0.9, float("inf")]}, r"optimizer\.betas=\[0\.9, inf\] is no finite number"),
        ("trainer", {"gradient_clip_val": float("nan")}, r"trainer\.gradient_clip_val=nan is no finite number"),
        ("data", {"seed": -1}, r"data\.seed=-1 is no seed"),
        ("data", {"seed": 2**64}, r"data\.seed=\d+ is no seed: .* below 2\^64"),
        ("trainer", {"gradient_clip_val": -1}, r"trainer\.gradient_clip_val=-1 is no norm"),
        ("data", {"token_budget": 0}, r"data\.token_budget=0 is no number of tokens"),
        ("trainer", {"threads": 0}, r"trainer\.threads=0 .* from 1 on, or null for all cores"),
        ("store", {"dir": "s", "max_gb": 0}, r"store\.max_gb=0 is no size"),
        ("store", {"dir": "s", "precision": "half"}, r"store\.precision=half is not known"),
        ("store", {"dir": "s", "workers": 0}, r"store\.workers=0 is no such number"),
        ("store", {"dir": "s", "blocks": "some"}, r"store\.blocks=some is neither true nor false"),
        ("fusion", {"bias": "maybe"}, r"fusion\.bias=maybe is neither true nor false"),
    ],
)
def test_what_counts_something_is_such_a_number(group, values, sentence):
    with pytest.raises(UserError, match=sentence):
        settled(**{group: composed().get(group, {}) | values})


@pytest.mark.parametrize("monitor", ["test/f1_micro", "train/loss", "ap_micro"])
def test_the_best_checkpoint_is_chosen_by_a_score_of_val(monitor):
    with pytest.raises(UserError, match=r"monitor=\S+ is no score of the val split: give one like val/ap_micro"):
        settled(monitor=monitor)


@pytest.mark.parametrize("freeze", ["half", -1, 1.5, True, None, "²"])
def test_freeze_is_all_none_or_a_number_of_layers(freeze):
    with pytest.raises(UserError, match=r"encoder\.text\.freeze=\S+ is none of all, none and a number of first layers"):
        settled(choice("encoder/text", "minilm", freeze=freeze))


@pytest.mark.parametrize(("freeze", "read"), [("all", "all"), ("none", "none"), (3, 3), ("3", 3), (0, 0)])
def test_a_number_of_layers_is_a_number_however_it_was_typed(freeze, read):
    assert settled(choice("encoder/text", "minilm", freeze=freeze))["encoder"]["text"]["freeze"] == read


def test_a_word_that_is_near_nothing_is_answered_with_the_valid_ones():
    assert near("zzz", ["text", "image"]) == "valid are text, image"


def test_words_name_the_fusion_the_modalities_and_the_seed():
    assert words(settled(), CHOICES) == "gmu_hier-text+image-seed3"


def test_words_of_what_cannot_be_settled_are_no_path():
    assert words({"modalities": "../text image", "seed": 1}, {"fusion": None}) == "fusion-.._text_image-seed1"


def test_the_largest_seed_is_one_that_torch_takes():
    torch.Generator().manual_seed(settled(seed=2**64 - 1)["seed"])


def test_a_rate_of_an_encoder_is_finite():
    with pytest.raises(UserError, match=r"encoder\.text\.lr=nan is no finite number"):
        settled(choice("encoder/text", "minilm", lr=float("nan")))
