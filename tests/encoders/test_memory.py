"""Facts about weights that are slow to find out are remembered until anything that determines them changes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from gmu_lightning.encoders import timm_network, weights
from gmu_lightning.encoders.image import TimmImage
from gmu_lightning.encoders.weights import remember_in, remembered
from gmu_lightning.movie import UserError


@pytest.fixture
def place(tmp_path) -> Iterator[Path]:
    """Return an empty folder in which answers are remembered until the test ends."""
    remember_in(tmp_path / "memory")
    forget()
    yield tmp_path / "memory"
    remember_in(None)
    forget()


def forget() -> None:
    """Clear the caches of this process."""
    for asked in (timm_network._recipe, timm_network._width, weights._sha256):
        asked.cache_clear()


class Question:
    """Return an answer, and count the calls."""

    def __init__(self, answer: object):
        self.answer, self.asked = answer, 0

    def __call__(self) -> object:
        self.asked += 1
        return self.answer


def test_each_question_is_answered_once(place):
    question = Question({"size": [1, 2], "crop": 0.875})
    answers = [remembered(["size", "a"], question) for _ in range(2)]
    assert answers == [{"size": [1, 2], "crop": 0.875}] * 2 and question.asked == 1
    remembered(["size", "b"], question)
    assert question.asked == 2


def test_answers_are_written_only_to_a_writable_folder(place):
    question = Question(7)
    for folder, read_only in ((None, False), (place, True)):
        remember_in(folder, read_only)
        assert [remembered(["n"], question) for _ in range(2)] == [7, 7]
    assert question.asked == 4 and not place.exists()


def test_a_read_only_folder_is_read(place):
    question = Question(7)
    remembered(["n"], question)
    remember_in(place, read_only=True)
    assert remembered(["n"], question) == 7 and question.asked == 1


@pytest.mark.parametrize("damage", ["", "{", '{"what": ["another"], "answer": 0}'])
def test_a_damaged_answer_is_replaced(place, damage):
    question = Question(7)
    remembered(["n"], question)
    (file,) = place.iterdir()
    whole = file.read_text()
    file.write_text(damage)
    assert remembered(["n"], question) == 7 and question.asked == 2
    assert file.read_text() == whole


def test_an_error_is_not_remembered(place):
    def fail() -> int:
        raise UserError("no such network")

    with pytest.raises(UserError):
        remembered(["n"], fail)
    assert remembered(["n"], Question(7)) == 7


def test_a_folder_that_cannot_be_written_is_ignored(tmp_path, place):
    (tmp_path / "file").write_text("")
    remember_in(tmp_path / "file" / "below")
    assert remembered(["n"], Question(7)) == 7


def test_a_remembered_recipe_equals_the_recipe_of_timm(place, image_folder, monkeypatch):
    folder = str(image_folder("resnet50"))
    fresh, width = TimmImage(folder).source.recipe, TimmImage(folder).dim
    fingerprint = TimmImage(folder).preparation.fingerprint
    forget()
    monkeypatch.setattr(timm_network, "_recipe_fields", lambda *_: pytest.fail("timm was asked again"))
    monkeypatch.setattr(timm_network, "_created", lambda *_: pytest.fail("the network was made again"))
    again = TimmImage(folder)
    assert again.source.recipe == fresh and again.dim == width
    assert again.preparation.fingerprint == fingerprint


def test_a_changed_config_gives_another_recipe(place, image_folder, tmp_path):
    folder = shutil.copytree(image_folder("resnet50"), tmp_path / "resnet")
    assert TimmImage(str(folder)).preparation.size == (64, 64)
    forget()
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"]["input_size"] = [3, 96, 80]
    (folder / "config.json").write_text(json.dumps(config))
    assert TimmImage(str(folder)).preparation.size == (96, 80)


def test_a_large_file_is_hashed_once_until_it_changes(place, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "WORTH_REMEMBERING", 0)
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"one")
    first = weights.sha256(file)
    forget()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "file_digest", lambda _: pytest.fail("the file was read again"))
        assert weights.sha256(file) == first
    file.write_bytes(b"two")
    assert weights.sha256(file) != first
