"""A resolved configuration has the chosen modalities alone, and values in place of `auto`."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import cache
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from gmu_lightning.config import hardware
from gmu_lightning.config.checks import near
from gmu_lightning.config.groups import conf_folder
from gmu_lightning.config.identity import identity, run_slug
from gmu_lightning.config.resolve import modalities_of, resolve
from gmu_lightning.config.schema import RunConfig
from gmu_lightning.movie import IncompatibleChoices, UserError

CHOICES = {
    "data": "mmimdb",
    "fusion": "gmu_hier",
    "experiment": None,
    "encoder/text": "minilm",
    "encoder/image": "tiny",
    "hydra/launcher": "basic",
}


@cache
def node_of_choice(group: str, name: str) -> dict[str, Any]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        node = OmegaConf.to_container(compose(f"{group}/{name}"), resolve=False)
    for part in group.split("/"):
        node = node[part]
    return node


def choice(group: str, name: str, **changes: Any) -> dict[str, Any]:
    return deepcopy(node_of_choice(group, name)) | changes


def composed(text: dict[str, Any] | None = None, image: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """Return a composed configuration, by default with a frozen MiniLM and a frozen EfficientNet."""
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
        "training": choice("training", "none"),
        "trainer": choice("trainer", "default"),
        "optimizer": choice("optimizer", "adamw"),
        "fusion": choice("fusion", "gmu_hier"),
        "loss": choice("loss", "bce"),
        "store": {"dir": "outputs/store"},
    }
    return config | changes


def resolved(text: dict[str, Any] | None = None, image: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    config = resolve(composed(text, image, **changes), CHOICES)
    RunConfig.of(config)
    return config


def defaults_of(config: dict[str, Any]) -> dict[str, Any]:
    """Return the values that replaced `auto`, except those of encoders."""
    return {
        "share": config["scheduler"]["share"],
        "decay": config["scheduler"]["decay"],
        "epochs": config["trainer"]["max_epochs"],
        "clip": config["trainer"]["gradient_clip_val"],
        "tokens": config["data"]["token_budget"],
    }


FROZEN = {"share": 0.0, "decay": "constant", "epochs": 25, "clip": None, "tokens": None}
FINE_TUNED = {"share": 0.1, "decay": "linear", "epochs": 5, "clip": 1.0, "tokens": 2048}


def test_the_chosen_modalities_are_left_in_their_order():
    assert list(resolved(modalities="image")["encoder"]) == ["image"]
    assert list(resolved(modalities="image+text")["encoder"]) == ["image", "text"]


def test_choices_of_other_modalities_are_removed():
    assert resolved(modalities="text")["choices"] == {"data": "mmimdb", "fusion": "gmu_hier", "encoder/text": "minilm"}


def test_resolving_leaves_the_composed_configuration_unchanged():
    config = composed(modalities="text")
    before = deepcopy(config)
    resolve(config, CHOICES)
    assert config == before


def test_an_unused_encoder_does_not_change_the_identity():
    other = choice("encoder/image", "tiny", dim=999)
    assert identity(resolved(modalities="text")) == identity(resolved(image=other, modalities="text"))
    assert identity(resolved()) != identity(resolved(image=other))


def with_loss(loss: str, task: str | None = None, monitor: str = "val/ap_micro", **changes: Any) -> dict[str, Any]:
    """Return the resolved configuration with `loss=LOSS`; `changes` are options of the loss."""
    data = choice("data", "mmimdb", **({"task": task} if task else {}))
    config = composed(data=data, loss=choice("loss", loss) | changes, monitor=monitor)
    found = resolve(config, CHOICES | {"loss": loss})
    RunConfig.of(found)
    return found


@pytest.mark.parametrize(("task", "expected"), [(None, "bce"), ("multilabel", "bce"), ("multiclass", "cross_entropy")])
def test_the_default_loss_is_that_of_the_task(task, expected):
    found = with_loss("auto", task)
    assert found["loss"] == choice("loss", expected)
    assert found["choices"]["loss"] == expected
    assert identity(found) == identity(with_loss(expected, task))


def test_options_of_the_default_loss_are_kept_or_refused():
    assert with_loss("auto", pos_weight="inverse")["loss"] == choice("loss", "bce", pos_weight="inverse")
    with pytest.raises(UserError, match=r"loss.pos_weight=inverse is an option of loss=bce, and data.task=multiclass trains"):
        with_loss("auto", "multiclass", pos_weight="inverse")
    assert with_loss("cross_entropy", "multiclass", class_weight="sqrt")["loss"]["class_weight"] == "sqrt"


def test_accuracy_is_a_monitor_of_single_labels_only():
    assert with_loss("auto", "multiclass", "val/accuracy")["monitor"] == "val/accuracy"
    with pytest.raises(UserError, match="monitor=val/accuracy is no score of the val split"):
        with_loss("auto", "multilabel", "val/accuracy")


def test_an_unknown_task_is_refused_with_the_tasks():
    with pytest.raises(UserError, match=r"data.task=multclass does not exist: did you mean multiclass"):
        with_loss("auto", "multclass")


def test_defaults_with_frozen_encoders():
    config = resolved()
    assert defaults_of(config) == FROZEN
    for encoder in config["encoder"].values():
        assert (encoder["normalise"], encoder["dropout"]) == ("standardise", 0.5)


def test_defaults_with_encoders_trained_from_scratch():
    config = resolved(choice("encoder/text", "tiny"), choice("encoder/image", "tiny"))
    assert defaults_of(config) == FROZEN
    for encoder in config["encoder"].values():
        assert (encoder["normalise"], encoder["dropout"]) == ("layer", 0.0)


@pytest.mark.parametrize("fusion", ["bottleneck", "late_transformer_vectors", "mult_gmu"])
def test_defaults_with_a_fusion_of_transformers(fusion):
    config = resolved(fusion=choice("fusion", fusion))
    assert defaults_of(config) == FROZEN | {"share": 0.1, "decay": "linear", "epochs": 12}
    assert [config["encoder"][m]["dropout"] for m in ("text", "image")] == [0.25, 0.5]


@pytest.mark.parametrize("freeze", ["none", 4])
def test_defaults_with_a_fine_tuned_text_encoder(freeze):
    config = resolved(choice("encoder/text", "minilm", freeze=freeze))
    assert defaults_of(config) == FINE_TUNED
    assert (config["encoder"]["text"]["normalise"], config["encoder"]["text"]["dropout"]) == ("layer", 0.0)
    assert (config["encoder"]["image"]["normalise"], config["encoder"]["image"]["dropout"]) == ("standardise", 0.5)


def test_a_fine_tuned_image_encoder_has_no_token_budget():
    assert defaults_of(resolved(image=choice("encoder/image", "resnet50", freeze="none"))) == FINE_TUNED | {"tokens": None}


@pytest.fixture
def machine(monkeypatch, tmp_path) -> Callable[..., None]:
    """Return a function that simulates a CPU with these flags, with or without a GPU."""

    def pretend(*flags: str, gpu: bool = False) -> None:
        monkeypatch.setattr(hardware, "_cpuinfo", lambda key: " ".join(flags))
        monkeypatch.setattr(hardware, "GPU_NODES", [str(tmp_path)] if gpu else [])

    return pretend


@pytest.mark.parametrize("flag", ["avx512_bf16", "amx_bf16"])
def test_text_is_fine_tuned_in_bfloat16_on_a_cpu_that_has_it(machine, flag):
    machine("fma", flag)
    assert resolved(choice("encoder/text", "minilm", freeze="none"))["trainer"]["precision"] == "bf16-mixed"


def test_other_runs_are_trained_in_float32(machine):
    machine("avx512_bf16")
    for config in (
        resolved(),
        resolved(choice("encoder/text", "tiny")),
        resolved(image=choice("encoder/image", "resnet50", freeze=2)),
    ):
        assert config["trainer"]["precision"] == "32-true"


def test_text_is_fine_tuned_in_float32_on_other_machines(machine):
    text = choice("encoder/text", "minilm", freeze="none")
    machine("fma", "avx512f")
    assert resolved(text)["trainer"]["precision"] == "32-true"
    machine("avx512_bf16", gpu=True)
    assert resolved(text)["trainer"]["precision"] == "32-true"
    assert resolved(text, trainer=choice("trainer", "default", accelerator="cpu"))["trainer"]["precision"] == "bf16-mixed"


def test_a_typed_precision_is_kept(machine):
    machine("avx512_bf16")
    text = choice("encoder/text", "minilm", freeze="none")
    assert resolved(text, trainer=choice("trainer", "default", precision="32-true"))["trainer"]["precision"] == "32-true"


def test_an_unused_fine_tuned_encoder_changes_no_default():
    assert defaults_of(resolved(choice("encoder/text", "minilm", freeze="none"), modalities="image")) == FROZEN


def test_an_encoder_that_unfreezes_later_counts_as_fine_tuned():
    config = resolved(choice("encoder/text", "minilm", unfreeze_at_epoch=2))
    assert defaults_of(config) == FINE_TUNED
    assert (config["encoder"]["text"]["normalise"], config["encoder"]["text"]["dropout"]) == ("layer", 0.0)


def test_typed_values_are_kept():
    text = choice("encoder/text", "minilm", freeze="none", normalise="batch", dropout=0.3)
    config = composed(text)
    config["trainer"] |= {"max_epochs": 7, "gradient_clip_val": None}
    config["scheduler"] |= {"share": 0.0}
    config["data"] |= {"token_budget": 512}
    found = resolve(config, CHOICES)
    assert defaults_of(found) == {"share": 0.0, "decay": "linear", "epochs": 7, "clip": None, "tokens": 512}
    assert (found["encoder"]["text"]["normalise"], found["encoder"]["text"]["dropout"]) == ("batch", 0.3)


def test_no_auto_is_left_and_resolving_again_changes_no_value():
    config = resolved(choice("encoder/text", "minilm", freeze=2))
    assert "auto" not in [value for node in ("data", "scheduler") for key, value in config[node].items() if key != "layout"]
    assert "auto" not in [config["trainer"][key] for key in ("max_epochs", "gradient_clip_val", "precision")]
    assert resolve(config, CHOICES) == config


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("txt+image", r"modalities=txt\+image names 'txt', which is no modality: did you mean text\? valid are text, image,"),
        ("text,image", "names 'text,image', which is no modality: .* joined by \\+"),
        ("text+", "names '', which is no modality: valid are text, image, video, audio, metadata"),
        ("text+image+text", r"names a modality twice: each stands once, joined by \+"),
    ],
)
def test_an_unknown_or_repeated_modality_is_refused(word, sentence):
    with pytest.raises(UserError, match=sentence):
        modalities_of(word)


def test_modalities_keep_their_typed_order():
    assert modalities_of("image+metadata+text") == ("image", "metadata", "text")


def test_a_modality_without_an_encoder_is_refused():
    with pytest.raises(IncompatibleChoices, match="names video, which has no encoder: choose among text, image"):
        resolved(modalities="text+video")


@pytest.mark.parametrize("seed", [-1, 1.5, "one", None, True, 2**64])
def test_a_seed_is_a_whole_number_from_0_on(seed):
    with pytest.raises(UserError, match=r"seed=\S+ is not possible: give a whole number from 0 on and below 2\^64, such as 1"):
        resolved(seed=seed)


@pytest.mark.parametrize(
    ("group", "values", "sentence"),
    [
        ("trainer", {"max_epochs": 0}, r"trainer\.max_epochs=0 is not possible: give a whole number from 1 to"),
        ("trainer", {"max_epochs": "few"}, r"trainer\.max_epochs=few is not possible: give a whole number from 1 to"),
        ("trainer", {"accelerator": "tpu"}, r"trainer\.accelerator=tpu does not exist: .* valid are auto, cpu, gpu, cuda, mps"),
        ("trainer", {"check_val_every_n_epoch": 2}, r"trainer\.check_val_every_n_epoch is set by every run itself: leave it out"),
        ("data", {"batch_size": 2.5}, r"data\.batch_size=2\.5 is not possible: give a whole number from 1"),
        ("data", {"workers": -1}, r"data\.workers=-1 is not possible: give a whole number from 0 to 256"),
        ("data", {"limit": "10/5"}, r"data\.limit=10/5 is not possible: .* as 100, or for each, as 400/100/100"),
        ("data", {"strict": "yes"}, r"data\.strict=yes is not possible: give true or false"),
        ("data", {"absent": "keeep"}, r"data\.absent=keeep does not exist: did you mean keep\? valid are keep, drop"),
        ("optimizer", {"lr": True}, r"optimizer\.lr=true is not possible: give a number from 0 on"),
        ("optimizer", {"lr": float("inf")}, r"optimizer\.lr=inf is no finite number"),
        ("optimizer", {"betas": [0.9, float("nan")]}, r"optimizer\.betas=\[0\.9, nan\] is no finite number"),
        (
            "trainer",
            {"gradient_clip_val": -1},
            r"trainer\.gradient_clip_val=-1 is not possible: give a number from 0 on, or null",
        ),
        ("trainer", {"threads": 0}, r"trainer\.threads=0 is not possible: give a whole number from 1 to 1,024, or null"),
        ("trainer", {"profiler": "simpel"}, r"trainer\.profiler=simpel does not exist: did you mean simple\? .*, or null"),
        ("trainer", {"precision": "bf16_mixed"}, r"trainer\.precision=bf16_mixed does not exist: did you mean bf16-mixed"),
        ("store", {"dir": "s", "worker": 2}, r"store\.worker is no setting: did you mean workers\?"),
        ("fusion", "gmu", r"fusion=gmu chooses nothing: did you mean"),
        ("fusion", None, r"fusion=null chooses nothing: .*valid are"),
        ("fusion", {"_target_": None}, r"fusion\._target_=null names no class: give its dotted name"),
    ],
)
def test_a_value_out_of_range_is_named_with_the_expected_form(group, values, sentence):
    with pytest.raises(UserError, match=sentence):
        resolved(**{group: composed()[group] | values if isinstance(values, dict) else values})


@pytest.mark.parametrize("monitor", ["test/f1_micro", "train/loss", "ap_micro", "val/loss", "val/f1_mikro"])
def test_the_monitor_is_a_score_of_val(monitor):
    with pytest.raises(UserError, match=r"monitor=\S+ is no score of the val split: give one like val/ap_micro"):
        resolved(monitor=monitor)


@pytest.mark.parametrize("freeze", ["half", -1, 1.5, True, None, "²"])
def test_freeze_is_all_none_or_a_number_of_layers(freeze):
    with pytest.raises(
        UserError, match=r"encoder\.text\.freeze=\S+ is not possible: give all, none, or a number of first layers"
    ):
        resolved(choice("encoder/text", "minilm", freeze=freeze))


@pytest.mark.parametrize(("freeze", "read"), [("all", "all"), ("none", "none"), (3, 3), ("3", 3), (0, 0)])
def test_a_number_of_layers_may_be_typed_as_text(freeze, read):
    assert resolved(choice("encoder/text", "minilm", freeze=freeze))["encoder"]["text"]["freeze"] == read


def test_an_unfamiliar_word_is_answered_with_the_valid_ones():
    assert near("zzz", ["text", "image"]) == "valid are text, image"


def test_a_slug_has_the_fusion_the_modalities_and_the_seed():
    assert run_slug(resolved(), CHOICES) == "gmu_hier-text+image-seed3"


def test_a_slug_of_an_invalid_configuration_is_no_path():
    assert run_slug({"modalities": "../text image", "seed": 1}, {"fusion": None}) == "fusion-.._text_image-seed1"


def test_torch_accepts_the_largest_seed():
    torch.Generator().manual_seed(resolved(seed=2**64 - 1)["seed"])


def test_the_learning_rate_of_an_encoder_is_finite():
    with pytest.raises(UserError, match=r"encoder\.text\.lr=nan is no finite number"):
        resolved(choice("encoder/text", "minilm", lr=float("nan")))


def with_draws(**changes: Any) -> dict[str, Any]:
    """Return a resolved configuration with these options of the data."""
    return resolved(data=choice("data", "mmimdb", **changes))


def missing(**changes: Any) -> dict[str, Any]:
    return {"missing": {"text": 0, "image": 0, "splits": ["train", "val", "test"], "seed": 0} | changes}


def test_data_as_published_have_the_identity_of_runs_before_draws():
    older = with_draws()
    for key in ("split", "split_seed", "train_share", "missing"):
        del older["data"][key]
    same = (with_draws(), with_draws(split_seed=3), with_draws(train_share=1), with_draws(**missing(seed=4, splits=["val"])))
    assert {identity(config) for config in same} == {identity(older)}
    assert RunConfig.of(older).data.drawn == ""


def test_every_draw_has_an_identity_of_its_own():
    draws = [{}, {"train_share": 0.3}, {"split": "random"}, *({"split": "random", "split_seed": n} for n in (1, 2))]
    draws += [missing(image=0.7), missing(image=0.3), missing(image=0.7, seed=1), missing(image=0.7, splits=["train"])]
    assert len({identity(with_draws(**draw)) for draw in draws}) == len(draws)
    assert identity(with_draws(**missing(image=0.7, splits=["test", "train"]))) == identity(
        with_draws(**missing(image=0.7, splits=["train", "test"]))
    )


def test_a_random_split_records_its_seed_and_the_published_one_none():
    assert with_draws(split="random", seed=4)["data"]["split_seed"] == 4
    assert with_draws(split="random", seed=4, split_seed=0)["data"]["split_seed"] == 0
    assert with_draws(split_seed=3)["data"]["split_seed"] is None


def test_a_run_on_other_data_leaves_its_draws_out():
    drawn = RunConfig.of(with_draws(split="random", split_seed=1, train_share=0.5, **missing(text=0.3)))
    assert drawn.data.drawn == "split=random split_seed=1, train_share=0.5, missing.text=0.3 in train, val, test"
    assert drawn.as_published.identity == identity(with_draws())
