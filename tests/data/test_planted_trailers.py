"""Write planted movies with trailers, and handle damaged and missing files."""

import hashlib

import numpy as np
import pytest

from gmu_lightning.data.planted import Planted, generate
from gmu_lightning.data.readers.arrays import numbers
from gmu_lightning.data.store import Store
from gmu_lightning.movie import BadContent, UserError


def test_plots_and_posters_keep_their_published_bytes(tmp_path):
    folder, seen = generate(tmp_path / "made", 60, 1), hashlib.sha256()
    for path in sorted(folder.rglob("*.json*")):
        seen.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    assert seen.hexdigest() == "02f7453b5bc17340d58473563b0e4d43b6cf2f47237835b3afeb5a1481f89f12"


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"\x93NUMPY\x01\x00"])
def test_a_damaged_array_is_bad(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(BadContent) as caught:
        numbers(tmp_path / "a.npy")
    assert caught.value.kind == "bad_array"


def test_an_absent_file_is_named_and_its_movie_kept(tmp_path):
    folder = generate(tmp_path / "made", 60, 1, modalities=("text", "video", "metadata"))
    (folder / "video/0000002.npy").unlink()
    data = Planted(str(folder), modalities="text+video+metadata").load(("text", "video", "metadata"), Store(tmp_path / "store"))
    assert [(p.id, p.kind, p.action) for p in data.audit.problems] == [("0000002", "missing_video", "kept_absent")]
    movie = next(movie for movie in data.movies if movie.id == "0000002")
    assert set(movie.content) == {"text", "metadata"}
    assert np.isfinite(data.movies[0].content["video"].load()).all()


def test_unknown_modalities_are_refused():
    with pytest.raises(UserError, match="smell"):
        Planted(modalities="text+smell")
