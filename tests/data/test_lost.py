"""Report the most frequent reason, with its first file, if many or all movies are lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gmu_lightning.data.audit import Problem
from gmu_lightning.data.mmimdb import MMIMDb
from gmu_lightning.data.moviescope import Moviescope
from gmu_lightning.data.store import Store, prepared
from gmu_lightning.data.table import MovieTable
from gmu_lightning.encoders.temporal import SequencePreparation
from gmu_lightning.movie import UserError

from .moviescope_files import write

IDS = {"train": [f"{n:07d}" for n in range(1, 13)], "dev": ["0000013", "0000014"], "test": ["0000015", "0000016"]}
NOT_READABLE = Path("/proc/self/mem")  # can be opened, but raises an input/output error
needs_proc = pytest.mark.skipif(not NOT_READABLE.exists(), reason="no /proc")


@pytest.fixture
def raw(tmp_path: Path, write_raw: Callable[..., Path]) -> Path:
    """Return the folder of sixteen sound movies."""
    return write_raw(tmp_path / "mmimdb", IDS)


def loaded(root: Path, modalities: tuple[str, ...] = ("text", "image"), **arguments: object) -> MovieTable:
    return MMIMDb(str(root), **arguments).load(modalities, Store(root.parent / "store"))


def faults(data: MovieTable) -> list[Problem]:
    return [problem for problem in data.audit.problems if problem.kind != "shared_image"]


def refused(root: Path, modalities: tuple[str, ...] = ("text", "image"), **arguments: object) -> UserError:
    with pytest.raises(UserError) as error:
        loaded(root, modalities, **arguments)
    return error.value


def records(root: Path) -> list[Path]:
    return sorted((root / "dataset").glob("*.json"))


def lines(root: Path, label: object = ("Drama",), end: str = "\n", **more: object) -> Path:
    root.mkdir()
    for n, split in enumerate(("train", "dev", "test")):
        rows = [json.dumps({"id": f"{n}{i}", "text": "A plot.", "label": label, **more}) for i in range(3)]
        (root / f"{split}.jsonl").write_bytes("".join(row + end for row in rows).encode())
    return root


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"title": "Amélie"}'.encode("cp1252"), "not UTF-8 (byte 0xe9 at 13): save it as UTF-8"),
        (b"{'plot': 'A plot.'}", "not JSON but a Python literal: write it with json.dumps"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
            "it is a Git LFS pointer, and git lfs pull fetches the file",
        ),
        (b"\n<!DOCTYPE html><html></html>", "it is an HTML page and not the file"),
        (b"", "it is empty"),
        (b'{"genres": "Drama, War"}', "genres is 'Drama, War', expected a list of strings"),
    ],
)
def test_losing_all_records_is_an_error_with_the_audit(raw, content, why):
    for path in records(raw):
        path.write_bytes(content)
    error = refused(raw)
    assert f"no movie is left in train, for all were removed (12 of 12 as in dataset/0000001.json, movie 0000001: {why})" in str(
        error
    )
    assert error.audit["counts"] == {"broken_json": 16}
    assert error.audit["movies"] == {"train": 0, "val": 0, "test": 0}


def test_the_most_frequent_reason_is_named(raw):
    first, *others = records(raw)
    first.write_bytes(b"")
    for path in others:
        path.unlink()
    why = "11 of 12 as in dataset/0000002.json, movie 0000002: no such file, so its genres are unknown"
    assert why in str(refused(raw))


def test_an_id_that_stands_in_two_splits_is_the_reason(raw):
    (raw / "split.json").write_text(json.dumps({**IDS, "dev": IDS["train"][:2]}))
    why = "2 of 2 as in split.json, movie 0000001: already in train, place 1"
    assert f"no movie is left in val, for all were removed ({why})" in str(refused(raw))


def test_genres_under_another_key_are_named(raw):
    for path in records(raw):
        path.write_text(json.dumps({"plot": "A plot.", "genre": ["Drama"]}))
    why = "12 of 12 as in dataset/0000001.json, movie 0000001: it has genre and no genres: rename the key to genres"
    assert f"no movie of train has a genre, so there is nothing to learn ({why})" in str(refused(raw, ("text",)))


def test_train_without_any_genre_is_an_error(raw):
    for id in IDS["train"]:
        (raw / f"dataset/{id}.json").write_text(json.dumps({"plot": "A plot.", "genres": []}))
    assert "no movie of train has a genre, so there is nothing to learn" in str(refused(raw, ("text",)))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_may_end_as_on_any_system(tmp_path, end):
    assert loaded(lines(tmp_path / "d", end=end), ("text",)).ids["train"] == ["00", "01", "02"]


def test_genres_may_be_objects_with_a_name(tmp_path):
    data = loaded(lines(tmp_path / "d", label=[{"id": 18, "name": "Drama"}]), ("text",))
    assert data.vocabulary.names == ("Drama",)


def test_a_json_array_is_refused_by_name(tmp_path):
    root = lines(tmp_path / "d")
    (root / "train.jsonl").write_text(json.dumps([{"id": "1", "label": ["Drama"]}], indent=1))
    assert "1 of 1 as in train.jsonl:1: a JSON array: expected an object on each line" in str(refused(root, ("text",)))


def test_a_list_of_plots_is_a_plot(tmp_path):
    root = lines(tmp_path / "d", text=None, plot=["Short.", "A long plot."])
    texts = [loaded(root, ("text",), plot=choice).movies[0].content["text"] for choice in ("longest", "first", "concat")]
    assert texts == ["A long plot.", "Short.", "Short. A long plot."]


def test_ids_of_the_split_file_may_lack_zeros_or_have_tt(raw):
    (raw / "split.json").write_text(json.dumps({split: [f"tt{int(id)}" for id in ids] for split, ids in IDS.items()}))
    data = loaded(raw)
    assert data.ids["val"] == ["tt13", "tt14"]
    assert faults(data) == []


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_a_modality_that_a_split_lacks_is_refused(raw, split):
    for id in IDS[split]:
        (raw / "dataset" / f"{id}.jpeg").unlink()
    name, ids = {"dev": "val"}.get(split, split), IDS[split]
    why = f"{len(ids)} of {len(ids)} as in dataset/{ids[0]}.jpeg, movie {ids[0]}: no such file"
    assert f"no movie of {name} has its image ({why})" in str(refused(raw))
    assert loaded(raw, ("text",)).warnings == ()
    MMIMDb(str(raw)).load(("text", "image"), Store(raw.parent / "store"), fitted=True)


def test_losing_over_a_tenth_of_movies_is_a_warning(raw):
    for path in records(raw)[:2]:
        path.rename(path.with_name(f"movie_{path.name}"))
    (warning,) = loaded(raw).warnings
    assert warning == (
        "lost_movies: 2 of 12 movies of train are left out (2 of 2 as in dataset/0000001.json, movie 0000001: "
        "no such file, so its genres are unknown (movie_0000001.json is there)), and audit.json names them"
    )


def test_losing_a_tenth_of_the_movies_is_no_warning(raw):
    records(raw)[0].unlink()
    assert loaded(raw).warnings == ()


def test_over_a_tenth_without_a_modality_is_a_warning(raw):
    for id in ("0000001", "0000002", "0000013"):
        (raw / "dataset" / f"{id}.jpeg").unlink()
    data = loaded(raw)
    data = data.stored({"image": np.array(["image" in movie.content for movie in data.movies])})
    assert [warning.partition(" (")[0] for warning in data.warnings] == [
        "missing_image: 2 of 12 movies of train lack image",
        "missing_image: 1 of 2 movies of val lack image",
    ]


def test_removals_by_choice_are_no_warning(raw):
    for id in ("0000001", "0000002", "0000013"):
        (raw / "dataset" / f"{id}.jpeg").unlink()
    data = loaded(raw, absent="drop")
    assert data.stored({"image": np.ones(len(data.movies), bool)}).warnings == ()
    assert [p.detail for p in faults(data)] == ["data.absent=drop: no such file"] * 3


@needs_proc
def test_a_poster_that_the_system_refuses_is_absent(raw):
    poster = raw / "dataset" / "0000001.jpeg"
    poster.unlink()
    poster.symlink_to(NOT_READABLE)
    data = loaded(raw)
    assert [(p.id, p.file, p.kind, p.action, p.detail) for p in faults(data)] == [
        ("0000001", "dataset/0000001.jpeg", "unreadable_image", "kept_absent", "cannot be read: Input/output error")
    ]
    assert "image" not in data.movies[0].content
    assert data.digests["image"][0] is None


@needs_proc
def test_lines_that_the_system_refuses_are_named(tmp_path):
    root = lines(tmp_path / "d")
    (root / "dev.jsonl").unlink()
    (root / "dev.jsonl").symlink_to(NOT_READABLE)
    assert "dev.jsonl cannot be read (Input/output error): check its permissions" in str(refused(root, ("text",)))


def test_a_folder_that_the_system_refuses_cannot_be_read(raw, monkeypatch):
    def refuse(folder: str) -> None:
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr("gmu_lightning.data.readers.media.os.scandir", refuse)
    assert f"{raw / 'dataset'} cannot be read (Permission denied): check its permissions" in str(refused(raw))


def test_an_unwritable_store_is_no_fault_of_the_file(raw, monkeypatch):
    def full(path: Path, value: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("gmu_lightning.data.store.write_json", full)
    with pytest.raises(UserError, match=r"the disk of store\.dir=.* is full: make room, or choose another"):
        loaded(raw)


def arrays(folder: Path, shape: tuple[int, ...]) -> MovieTable:
    root = write(folder / "moviescope")
    for path in list((root / "200F_VGG16").iterdir()):
        np.save(path.with_suffix(".npy"), np.zeros(shape, np.float32))
        path.unlink()
    return Moviescope(str(root)).load(("video",), Store(folder / "store"))


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        ((200, 768), r"shape \(200, 768\), expected \(200, 4096\)$"),
        ((4096, 200), r"shape \(4096, 200\), expected \(200, 4096\); it is transposed$"),
    ],
)
def test_arrays_of_another_network_are_left_out_of_fitting(tmp_path, shape, why):
    data = arrays(tmp_path, shape)
    preparation = SequencePreparation("video")
    store = Store(tmp_path / "store")
    with pytest.raises(UserError, match="no video of train can be used") as nothing:
        prepared(store, "video", data.contents("video"), data.digests["video"], data.in_train, preparation)
    data = data.noting("video", nothing.value.bad)
    with pytest.raises(UserError, match=why.removesuffix("$")) as refusal:
        data.require("video", ~data.in_train)
    assert "(4 of 4 as in 200F_VGG16/3015.npy, movie 3015: " in str(refusal.value)
    assert refusal.value.audit["counts"] == {"bad_array": 4}
