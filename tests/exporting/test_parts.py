"""The parts of an export: made-up movies with fixed bytes, a configuration without places, and licences of every preset."""

from __future__ import annotations

import numpy as np
import pytest

from gmu_lightning.config.groups import choices_of, node_of
from gmu_lightning.encoders.trailers.decoder_pool import frames, release, sound
from gmu_lightning.encoders.weights import named_in
from gmu_lightning.exporting.licences import UNKNOWN, licence_of
from gmu_lightning.exporting.made_movies import FRAMES, RATE, SECONDS, clip, poster
from gmu_lightning.files import is_place
from gmu_lightning.prediction.hub import is_hub_name
from gmu_lightning.prediction.probe import read, written


def test_every_preset_has_a_licence():
    found = set()
    for modality in ("text", "image", "video", "audio"):
        for choice in choices_of(f"encoder/{modality}"):
            named = named_in(node_of(f"encoder/{modality}", choice), f"encoder.{modality}")
            if named is not None:
                found.add(named[0])
    assert len(found) > 8
    assert [name for name in sorted(found) if licence_of(name).name == UNKNOWN] == []
    assert licence_of("somebody/else").name == UNKNOWN


def test_a_clip_has_the_same_bytes_each_time_and_is_decoded(tmp_path):
    a, b = clip(tmp_path / "a.mkv", 1), clip(tmp_path / "b.mkv", 1)
    assert a.read_bytes() == b.read_bytes()
    assert a.read_bytes() != clip(tmp_path / "c.mkv", 2).read_bytes()
    try:
        assert len(list(frames(a, float(FRAMES), 10.0))) >= SECONDS * FRAMES - 1
        heard = np.concatenate(list(sound(a, RATE, 10.0)))
    finally:
        release()
    assert np.abs(heard).max() > 0.1


@pytest.mark.parametrize("n", range(3))
def test_contents_are_read_as_they_were_written(n, tmp_path):
    for content in ("A plot.", {"bytes": 1994}, poster(n)):
        assert read(written(content), tmp_path / "file") == content
    array = np.arange(6, dtype=np.float32).reshape(2, 3) * (n + 1)
    assert read(written(array), tmp_path / "file").tolist() == array.tolist()
    file = clip(tmp_path / "clip.mkv", n)
    again = read(written(file), tmp_path / "copy")
    assert again.suffix == ".mkv"
    assert again.read_bytes() == file.read_bytes()


@pytest.mark.parametrize("entry", [{"array": "AAAA", "shape": [9]}, {"bytes": "no base64!"}])
def test_a_damaged_content_is_an_error(entry, tmp_path):
    with pytest.raises(ValueError):
        read(entry, tmp_path / "file")


@pytest.mark.parametrize(
    ("value", "expected"),
    [("/data/movies", True), ("~/x", True), ("./x", True), ("a/b", False), ("sum", False), (3, False), (None, False)],
)
def test_places_are_told_from_names(value, expected):
    assert is_place(value) is expected


def test_names_of_the_hub_are_told_from_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert is_hub_name("ada/movies")
    for typed in ("runs/movies", "movies", "/ada/movies", "./ada/movies", "~/movies", "a/b/c", "ada/mo vies"):
        assert not is_hub_name(typed)
