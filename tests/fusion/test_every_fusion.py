"""Every choice in conf/fusion passes `check_fusion`, and every fusion class has a YAML."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import yaml

from gmu_lightning import fusion
from gmu_lightning.config.groups import choices_of, conf_folder
from gmu_lightning.fusion import Fusion
from gmu_lightning.movie import MODALITIES
from gmu_lightning.testing import check_fusion

CHOICES = choices_of("fusion")
COUNTS = (1, 2, 3, 5)
OPTIONS = [
    ("gmu_original", {"head": "maxout"}),
    ("none", {"head": "maxout", "maxout_hidden": 3, "maxout_pieces": 3}),
    ("concat", {"head": "maxout", "maxout_hidden": 3}),
    ("mult_gmu", {"variant": "softmax", "layers": 1, "heads": 1}),
    ("mult_gmu", {"variant": "hier", "bias": True, "layers": 1, "heads": 1}),
    ("bottleneck", {"layers": 2, "fusion_layer": 0, "bottlenecks": 1, "heads": 1}),
    ("late_transformer", {"layers": 1, "heads": 1}),
    ("late_transformer_vectors", {"head": "maxout", "layers": 1, "heads": 1}),
    ("gmu_softmax", {"gate_input": "concat"}),
    ("gmu_original", {"bias": False}),
    ("gmu_hier", {"bias": False}),
    ("moe", {"bias": False}),
    ("moe", {"tied": True}),
    ("moe", {"head": "maxout"}),
    ("late", {"head": "maxout", "maxout_hidden": 3}),
    ("mean", {"head": "maxout"}),
    ("sum", {"head": "maxout"}),
    ("max", {"head": "maxout"}),
    ("self_gate", {"join": "concat", "activation": "relu"}),
    ("self_gate", {"gate": False, "activation": "gelu", "bias": False}),
    ("none", {"hidden": False}),
    ("concat", {"hidden": False}),
    ("lmf", {"rank": 1}),
    ("lmf", {"head": "maxout"}),
    ("bottleneck", {"head": "maxout", "layers": 2, "fusion_layer": 1, "heads": 1}),
]


def node_of(choice: str) -> tuple[type[Fusion], dict[str, Any]]:
    """Return the class that a YAML names and the arguments that it gives."""
    node = yaml.safe_load((conf_folder() / "fusion" / f"{choice}.yaml").read_text())
    module, _, name = node.pop("_target_").rpartition(".")
    assert node.pop("_partial_") is True
    return getattr(importlib.import_module(module), name), node


def takes(cls: type[Fusion], count: int) -> bool:
    return cls.fewest <= count <= (cls.most or count)


ALLOWED = [(choice, count) for choice in CHOICES for count in COUNTS if takes(node_of(choice)[0], count)]
OF_FEATURES = [(choice, count) for choice, count in ALLOWED if node_of(choice)[0].needs != "tokens"]
OF_SEQUENCES = [choice for choice in CHOICES if node_of(choice)[0].needs == "sequence"]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def check(choice: str, count: int, options: dict[str, Any], sequences: Sequence[str] = MODALITIES) -> None:
    """Run `check_fusion` under `options` over the first `count` modalities; `sequences` come as sequences."""
    cls, arguments = node_of(choice)
    inputs = {"sequences": sequences} if cls.needs == "sequence" else {}
    check_fusion(lambda sizes: cls(**arguments | options | inputs, sizes=sizes), MODALITIES[:count], sequences)


@pytest.mark.parametrize(("choice", "count"), OF_FEATURES)
def test_every_choice_passes_check_fusion(choice, count):
    check(choice, count, {"dim": 8}, ("text", "video", "audio"))


@pytest.mark.parametrize("choice", OF_SEQUENCES)
@pytest.mark.parametrize("sequences", [(), ("image",), ("text", "image", "video")])
def test_any_modalities_may_be_sequences(choice, sequences):
    check(choice, 3, {"dim": 8}, sequences)


@pytest.mark.parametrize(("choice", "options"), OPTIONS)
def test_options_pass_check_fusion(choice, options):
    for count in COUNTS[:3]:
        if takes(node_of(choice)[0], count):
            check(choice, count, {"dim": 5} | options)


@pytest.mark.parametrize("choice", CHOICES)
def test_yaml_gives_every_argument_at_its_default(choice):
    cls, arguments = node_of(choice)
    parameters = dict(inspect.signature(cls).parameters)
    if parameters.pop("head", None):  # the class passes the arguments of its head on to Fusion
        parameters = dict(inspect.signature(Fusion).parameters) | parameters
    assert set(arguments) == set(parameters) - {"sizes", "sequences"}
    if cls is fusion.GMU:  # the paper's unit has no biases; for a fair comparison every YAML sets them
        assert (parameters["bias"].default, arguments.pop("bias")) == (False, True)
    for name, value in arguments.items():
        assert parameters[name].default in (value, inspect.Parameter.empty)


@pytest.mark.parametrize("choice", sorted({choice for choice, _ in OF_FEATURES}))
def test_hidden_and_gate_layers_have_biases_by_default(choice):
    cls, arguments = node_of(choice)
    inputs = {"sequences": ("video",)} if cls.needs == "sequence" else {}
    made = cls(**arguments | {"dim": 4} | inputs, sizes=dict.fromkeys(("text", "video")[: cls.most or 2], 3))
    linear = {name: layer for name, layer in made.named_modules() if isinstance(layer, torch.nn.Linear)}
    units = [layer for name, layer in linear.items() if set(name.split(".")) & {"hidden", "gate", "factors", "feed_forward"}]
    assert units
    assert all(layer.bias is not None for layer in units)


@pytest.mark.parametrize("choice", CHOICES)
def test_yaml_starts_with_its_equation(choice):
    assert (conf_folder() / "fusion" / f"{choice}.yaml").read_text().startswith("# ")


def test_every_public_fusion_has_a_yaml():
    def below(cls: type) -> set[type]:
        return {cls, *(deeper for child in cls.__subclasses__() for deeper in below(child))}

    public = {cls for cls in below(Fusion) - {Fusion} if cls.__module__.startswith("gmu_lightning.") and cls.__name__[0] != "_"}
    assert public == {node_of(choice)[0] for choice in CHOICES}
    assert {cls.__name__ for cls in public} <= set(fusion.__all__)
