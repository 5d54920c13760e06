"""Read Moviescope in both layouts, sound and damaged."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gmu_lightning.data.moviescope import Moviescope
from gmu_lightning.data.store import Store, prepared
from gmu_lightning.data.table import MovieTable
from gmu_lightning.encoders.metadata import TablePreparation
from gmu_lightning.encoders.temporal import SequencePreparation
from gmu_lightning.encoders.vector import VectorPreparation
from gmu_lightning.movie import MODALITIES, ArrayFile, Unusable, UserError

from .moviescope_files import damage, marker, save, write

ALL = ("text", "image", "video", "audio", "metadata")
TEACHING = ("text", "video", "audio")
PREPARATIONS = {
    "image": VectorPreparation("image"),
    "video": SequencePreparation("video", dtype="float16"),
    "audio": SequencePreparation("audio"),
    "metadata": TablePreparation(),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Eight whole movies in the full layout; what a test wants broken, it breaks itself."""
    return write(tmp_path / "moviescope")


def loaded(root: Path, store: Store, modalities: tuple[str, ...] = ALL, **arguments) -> MovieTable:
    return Moviescope(str(root), **arguments).load(modalities, store)


def array_of(data: MovieTable, modality: str, row: int = 0) -> np.ndarray:
    content = data.movies[row].content[modality]
    return content.load() if isinstance(content, ArrayFile) else content


def refused(root: Path, store: Store, modalities: tuple[str, ...] = ALL, **arguments) -> str:
    with pytest.raises(UserError) as error:
        loaded(root, store, modalities, **arguments)
    return str(error.value)


def mp4(root: Path, *ids: str) -> None:
    (root / "trailers").mkdir(exist_ok=True)
    for id in ids:
        (root / "trailers" / f"{id}.mp4").write_bytes(b"a trailer")


@pytest.mark.parametrize("suffix", [".p", ".npy", ".pt"])
def test_the_full_layout_has_all_modalities(tmp_path, store, suffix):
    data = loaded(write(tmp_path / "moviescope", suffix=suffix), store)
    assert data.layout.name == "full"
    assert data.ids == {"train": ["3015", "3016", "3017", "3018"], "val": ["3019", "3020"], "test": ["3021", "3022"]}
    shapes = {modality: array_of(data, modality).shape for modality in ALL[1:]}
    assert shapes["audio"][0] == 96
    assert {**shapes, "audio": None} == {"image": (4096,), "video": (200, 4096), "audio": None, "metadata": (312,)}
    assert data.movies[0].content["text"].startswith("Movie 3015 is")
    assert data.audit.problems == []


@pytest.mark.parametrize("suffix", [".p", ".npy", ".pt"])
def test_the_teaching_layout_has_text_video_and_audio(tmp_path, store, suffix):
    data = loaded(write(tmp_path / "moviescope", "teaching", suffix=suffix), store, TEACHING)
    assert data.layout.name == "teaching"
    assert array_of(data, "video").shape == (200, 4096)
    assert array_of(data, "audio").shape[0] == 96
    assert data.audit.problems == []


def test_genres_stand_in_the_published_order(root, store):
    assert len(Moviescope.published_genres) == 13
    every = list(reversed(Moviescope.published_genres))
    rows = [json.loads(line) for line in (root / "train.jsonl").read_text().splitlines()]
    rows[0]["label"] = every
    (root / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert loaded(root, store, ("text",)).vocabulary.names == Moviescope.published_genres


def test_the_folder_above_is_found_too(root, store):
    (root.parent / "store").mkdir()
    assert loaded(root.parent, store, ("text",)).ids["test"] == ["3021", "3022"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("moviscope", "does not exist, but {} holds moviescope: expected train.jsonl with dev.jsonl and test.jsonl"),
        ("moviescope/200F_VGG16", "the folder above it is: give data.root={}/moviescope"),
        ("other", "it holds a, b, c, d, e and 1 more"),
        ("other/a", "it is empty"),
        ("moviescope/train.jsonl", "the folder above it is"),
    ],
)
def test_a_wrong_root_names_expected_and_found_files(root, store, given, sentence):
    for name in "abcdef":
        (root.parent / "other" / name).mkdir(parents=True)
    assert sentence.format(root.parent) in refused(root.parent / given, store)


def test_a_missing_root_is_an_error_with_advice(store):
    with pytest.raises(UserError, match=r"data=moviescope needs data.root=PATH"):
        Moviescope(None).load(ALL, store)


def test_features_precede_trailers_and_posters_with_a_warning(root, store):
    mp4(root, "3015")
    data = loaded(root, store)
    assert [type(data.movies[0].content[m]) for m in ("image", "video", "audio")] == [ArrayFile] * 3
    assert data.warnings[:3] == (
        f"sources: {root} holds several sources of image: PosterFeatures is read, Raw_Poster is not; data.image chooses.",
        f"sources: {root} holds several sources of video: 200F_VGG16 is read, trailers is not; data.video chooses.",
        f"sources: {root} holds several sources of audio: Melspectrogram is read, MelgramPorcessed, trailers is not; "
        "data.audio chooses.",
    )


def test_other_modalities_are_ignored_without_a_warning(root, store):
    mp4(root, "3015")
    (root / "Metadata_matrices" / "train_ids.pickle").write_bytes(b"broken")
    (root / "200F_VGG16" / "3015.p").unlink()
    data = loaded(root, store, ("text",))
    assert set(data.movies[0].content) == {"text"}
    assert not [warning for warning in data.warnings if warning.startswith("sources")]
    assert data.audit.problems == []


def test_a_chosen_source_is_read(root, store):
    mp4(root, *(str(id) for id in range(3015, 3023)))
    data = loaded(root, store, ("image", "video", "audio"), image="posters", video="trailers", audio="mel128")
    content = data.movies[0].content
    assert content["image"] == root / "Raw_Poster" / "3015.jpg"
    assert content["video"] == root / "trailers" / "3015.mp4"
    assert array_of(data, "audio").shape == (128, 4 * 6)
    same = loaded(root, store, ("video", "audio"), video="trailers", audio="trailers").movies[0].content
    assert same["video"] == same["audio"] == root / "trailers" / "3015.mp4"


def test_a_folder_without_a_file_of_its_kind_is_not_chosen(root, store):
    for path in (root / "200F_VGG16").iterdir():
        path.unlink()
    (root / "200F_VGG16" / "README.md").write_text("moved")
    mp4(root, "3015", "3019", "3021")
    assert loaded(root, store, ("video",)).movies[0].content["video"].name == "3015.mp4"


def test_the_published_suffix_precedes_others(root, store):
    for suffix in (".npy", ".pt"):
        save(root / "200F_VGG16" / f"3015{suffix}", np.zeros((200, 4096), np.float16))
    assert loaded(root, store, ("video",)).movies[0].content["video"].path.suffix == ".p"


def test_a_modality_without_files_is_an_error_with_places(tmp_path, store):
    root = write(tmp_path / "moviescope", "teaching")
    assert refused(root, store, ("text", "image")) == (
        f"data.root={root} has no PosterFeatures/<id>.p or Raw_Poster/<id>.jpeg: modalities with image need one."
    )
    assert refused(root, store, ("text", "metadata")) == (
        f"data.root={root} has no Metadata_matrices, metadata.csv or metadata.jsonl: modalities with metadata need one."
    )
    assert "has no trailers/<id>.mp4: modalities with video with data.video=trailers need one" in refused(
        root, store, ("video",), video="trailers"
    )
    assert "has no 200F_VGG16/<id>.p or trailers/<id>.mp4" in refused(root, store, ("video",), layout="full")


@pytest.mark.parametrize(
    ("split", "ids"), [("train", range(3015, 3019)), ("val", range(3019, 3021)), ("test", range(3021, 3023))]
)
def test_a_modality_missing_in_a_split_is_an_error(root, store, split, ids):
    for id in ids:
        (root / "200F_VGG16" / f"{id}.p").unlink()
    why = f"{len(ids)} of {len(ids)} as in 200F_VGG16/{ids[0]}.p, movie {ids[0]}: no such file"
    assert f"no movie of {split} has its video ({why})" in refused(root, store)


def test_a_movie_without_a_file_stays_and_is_named(root, store):
    (root / "200F_VGG16" / "3016.p").unlink()
    (root / "PosterFeatures" / "3020.p").unlink()
    data = loaded(root, store)
    assert [(p.id, p.file, p.split, p.kind, p.action) for p in data.audit.problems] == [
        ("3016", "200F_VGG16/3016.p", "train", "missing_video", "kept_absent"),
        ("3020", "PosterFeatures/3020.p", "val", "missing_image", "kept_absent"),
    ]
    assert set(data.movies[1].content) == {"text", "image", "audio", "metadata"}
    assert sum(len(ids) for ids in data.ids.values()) == 8


def test_absent_drop_removes_a_movie_without_a_file(root, store):
    (root / "200F_VGG16" / "3016.p").unlink()
    data = loaded(root, store, absent="drop")
    assert data.ids["train"] == ["3015", "3017", "3018"]
    removed = [(p.id, p.kind) for p in data.audit.problems if p.action == "removed"]
    assert removed == [("3016", "missing_video")]


def test_text_ids_are_read_and_broken_lines_removed(root, store):
    lines = (root / "train.jsonl").read_text().splitlines()
    lines[0] = lines[0].replace("3015", '"3015"', 1)
    (root / "train.jsonl").write_text("\n".join([*lines, "{", lines[1], '{"id": 9, "label": ["Drama"]}']) + "\n")
    data = loaded(root, store, ("text",))
    assert data.ids["train"] == ["3015", "3016", "3017", "3018", "9"]
    assert [(p.id, p.file, p.kind, p.action) for p in data.audit.problems] == [
        ("train.jsonl:5", "train.jsonl:5", "broken_json", "removed"),
        ("3016", "train.jsonl:6", "duplicate_id", "removed"),
        ("9", "train.jsonl:7", "missing_plot", "kept_absent"),
    ]


def test_an_id_with_a_parent_path_finds_no_file(root, store):
    save(root.parent / "secret.p", np.zeros((200, 4096), np.float16))
    with (root / "train.jsonl").open("a") as file:
        file.write(json.dumps({"id": "../../secret", "synopsis": "A plot.", "label": ["Drama"]}) + "\n")
    data = loaded(root, store, ("text", "video"))
    assert "video" not in data.movies[4].content


def test_val_is_another_name_of_dev_and_dev_of_val(root, store):
    for old in (root / "Metadata_matrices").glob("val_*"):
        old.rename(old.with_name(old.name.replace("val", "dev")))
    (root / "dev.jsonl").rename(root / "val.jsonl")
    assert len(loaded(root, store, ("metadata",)).ids["val"]) == 2


def test_a_matrix_row_is_its_movies(root, store):
    matrix = np.load(root / "Metadata_matrices" / "test_metadata.npy")
    data = loaded(root, store, ("metadata",))
    assert data.movies[-1].id == "3022"
    assert np.allclose(array_of(data, "metadata", -1), matrix[1])


@pytest.mark.parametrize("row", [-1, 4, 1 << 40])
def test_a_row_outside_the_matrix_is_absent_and_named(root, store, row):
    (root / "Metadata_matrices" / "train_ids.pickle").write_bytes(pickle.dumps({3015: 0, 3016: row, "3017": 2, "3018": 3}))
    data = loaded(root, store, ("metadata",))
    assert [(p.id, p.file, p.kind, p.detail) for p in data.audit.problems] == [
        ("3016", "Metadata_matrices/train_metadata.npy", "bad_array", f"its row is number {row} of a matrix with 4")
    ]


def test_a_row_that_is_not_finite_is_absent_and_named(root, store):
    path = root / "Metadata_matrices" / "train_metadata.npy"
    matrix = np.load(path)
    matrix[1, 3:5] = np.nan, np.inf
    np.save(path, matrix)
    assert [p.detail for p in loaded(root, store, ("metadata",)).audit.problems] == [
        "2 of the 312 numbers in row 1 are not finite"
    ]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("train_metadata.npy", b"\x93NUMPY", "train_metadata.npy cannot be read (no NumPy file"),
        ("train_ids.pickle", b"cos\nsystem\n(S'true'\ntR.", "train_ids.pickle cannot be read (it names os.system"),
        ("val_ids.pickle", None, "Metadata_matrices has no val_ids.pickle or dev_ids.pickle"),
        ("test_metadata.npy", None, "Metadata_matrices has no test_metadata.npy"),
        (
            "test_metadata.npy",
            np.zeros((2, 300)),
            "train_metadata.npy has 312, val_metadata.npy has 312, test_metadata.npy has 300",
        ),
        ("test_metadata.npy", np.zeros(312), "test_metadata.npy holds float64 (312,), expected numbers, a row per movie"),
    ],
)
def test_damaged_matrices_are_an_error_in_a_sentence(root, store, name, content, sentence):
    path = root / "Metadata_matrices" / name
    if content is None:
        path.unlink()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    assert sentence in refused(root, store, ("metadata",))


def columns_of(data: MovieTable, modalities: tuple[str, ...], store: Store) -> tuple[MovieTable, dict[str, np.ndarray]]:
    """Return the table after storing all contents, and the movies that have each modality."""
    present = {"text": np.array([content is not None for content in data.contents("text")])}
    for modality in modalities[1:]:
        preparation = PREPARATIONS[modality]
        column = prepared(store, modality, data.contents(modality), data.digests[modality], data.in_train, preparation)
        data = data.noting(modality, column.bad)
        present[modality] = column.present
    return data, present


@pytest.mark.parametrize(("layout", "suffix"), [("full", ".p"), ("full", ".npy"), ("teaching", ".pt")])
def test_every_damage_is_named_and_no_movie_is_lost(tmp_path, store, layout, suffix):
    root = write(tmp_path / "moviescope", layout, (36, 12, 12), suffix=suffix)
    done = damage(root, 0.1, np.random.default_rng(7))
    modalities = ALL if layout == "full" else TEACHING
    assert {modality for _, modality in done} == set(modalities)
    assert len(done) >= 6 * len(modalities) - 2
    data = loaded(root, store, modalities)
    data, present = columns_of(data, modalities, store)
    ids = [movie.id for movie in data.movies]
    assert len(ids) == 60
    absent = {(id, m): "absent" for m in modalities for id, there in zip(ids, present[m], strict=True) if not there}
    assert set(absent) == set(done)
    found = sorted((p.id, p.kind, p.action) for p in data.audit.problems if p.kind != "shared_plot")
    assert found == sorted((id, kind, "kept_absent") for (id, _), kind in done.items())
    assert all((root / p.file).exists() for p in data.audit.problems if not p.kind.startswith("missing"))
    assert not marker(root).exists()


def test_an_unreadable_poster_is_named_by_its_path(root, store):
    (root / "Raw_Poster" / "3015.jpg").write_bytes(b"")
    Image.new("RGB", (4, 4)).save(root / "Raw_Poster" / "3016.png")
    data = loaded(root, store, ("image",), image="posters")
    data = data.noting("image", [Unusable(0, "unreadable_image", "is empty")])
    assert data.audit.problems[-1].file == "Raw_Poster/3015.jpg"


def test_moviescope_has_all_modalities():
    assert Moviescope.modalities == MODALITIES
