from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gmu_lightning.data.planted import Planted, generate
from gmu_lightning.data.planted.content import (
    ASSURANCES,
    COLOURS,
    SINGLE_GENRES,
    STORIES,
    SWITCH_GENRES,
    draw,
    split_sizes,
)
from gmu_lightning.data.store import Store
from gmu_lightning.movie import UserError

LEVELS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("planted") / "sixty movies", movies=60, seed=1, levels=LEVELS)


@pytest.fixture(scope="module")
def truth(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "truth.jsonl").read_text().splitlines()]


def record(folder: Path, movie: str) -> dict:
    return json.loads((folder / "dataset" / f"{movie}.json").read_text())


def shown_confidence(row: dict, modality: str) -> int:
    return row["level"] + (row["switch"] == modality)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_seed_determines_the_bytes(tmp_path: Path, folder: Path) -> None:
    again = contents(generate(tmp_path / "again", movies=60, seed=1, levels=LEVELS))
    other = contents(generate(tmp_path / "other", movies=60, seed=2, levels=LEVELS))
    assert again == contents(folder)
    assert all(again[name] != other[name] for name in again if name.endswith(".jpeg"))


def test_the_layout_is_that_of_mm_imdb(folder: Path) -> None:
    splits = json.loads((folder / "split.json").read_text())
    assert {split: len(ids) for split, ids in splits.items()} == {"train": 40, "dev": 10, "test": 10}
    ids = [movie for split in splits.values() for movie in split]
    assert len(set(ids)) == 60
    assert all(len(movie) == 7 and movie.isdecimal() for movie in ids)
    assert {path.name for path in (folder / "dataset").iterdir()} == {f"{i}.{kind}" for i in ids for kind in ("json", "jpeg")}
    for movie in ids:
        content = record(folder, movie)
        assert set(content) == {"plot", "genres", "title", "year"}
        assert len(content["plot"]) == 1
        with Image.open(folder / "dataset" / f"{movie}.jpeg") as poster:
            assert (poster.format, poster.size, poster.mode) == ("JPEG", (64, 64), "RGB")


def test_splits_are_two_thirds_and_two_sixths() -> None:
    assert split_sizes(2400) == {"train": 1600, "val": 400, "test": 400}
    assert sum(split_sizes(61).values()) == 61


def test_truth_has_a_row_per_movie_in_split_order(folder: Path, truth: list[dict]) -> None:
    splits = json.loads((folder / "split.json").read_text())
    named = {"train": splits["train"], "val": splits["dev"], "test": splits["test"]}
    expected = [(movie, split) for split, ids in named.items() for movie in ids]
    assert [(row["id"], row["split"]) for row in truth] == expected
    assert all(set(row) == {"id", "split", "switch", "level", "claims"} for row in truth)


def test_labels_follow_the_switch_or_their_own_modality(folder: Path, truth: list[dict]) -> None:
    kinds = json.loads((folder / "genres.json").read_text())
    assert sorted(kinds.values()) == ["image"] * 2 + ["switch"] * 6 + ["text"] * 2
    for row in truth:
        told = {genre for genre, kind in kinds.items() if genre in row["claims"][row["switch"] if kind == "switch" else kind]}
        assert set(record(folder, row["id"])["genres"]) == told


def test_every_movie_has_a_genre_and_every_split_every_genre(folder: Path, truth: list[dict]) -> None:
    seen: dict[str, set[str]] = {"train": set(), "val": set(), "test": set()}
    for row in truth:
        genres = record(folder, row["id"])["genres"]
        assert genres
        seen[row["split"]].update(genres)
    assert all(genres == set(SWITCH_GENRES) | {*SINGLE_GENRES["text"], *SINGLE_GENRES["image"]} for genres in seen.values())


@pytest.mark.parametrize("seed", range(8))
def test_even_six_movies_train_on_every_genre(tmp_path: Path, seed: int) -> None:
    folder = generate(tmp_path / "six", movies=6, seed=seed)
    train = json.loads((folder / "split.json").read_text())["train"]
    assert len({genre for movie in train for genre in record(folder, movie)["genres"]}) == 10


def test_a_plot_shows_confidence_and_claims_of_text(folder: Path, truth: list[dict]) -> None:
    for row in truth:
        (plot,) = record(folder, row["id"])["plot"]
        assert sum(plot.count(phrase) for phrase in ASSURANCES) == shown_confidence(row, "text")
        told = {genre for genre, (_, deeds) in STORIES.items() if any(deed in plot for deed in deeds)}
        assert told == set(row["claims"]["text"])


def test_a_poster_shows_confidence_and_claims_of_image(folder: Path, truth: list[dict]) -> None:
    for row in truth:
        with Image.open(folder / "dataset" / f"{row['id']}.jpeg") as poster:
            pixels = np.asarray(poster, dtype=int)
        white = (pixels[60] > 200).all(axis=1).sum()
        assert round(white / 55 * (LEVELS - 1)) == shown_confidence(row, "image")
        shown = {genre for genre, colour in COLOURS.items() if holds_a_square(np.abs(pixels - colour).max(axis=2) < 25)}
        assert shown == set(row["claims"]["image"])


def holds_a_square(mask: np.ndarray, edge: int = 5) -> bool:
    return bool(np.lib.stride_tricks.sliding_window_view(mask, (edge, edge)).all(axis=(2, 3)).any())


def test_no_two_movies_share_a_plot_or_a_poster(tmp_path: Path) -> None:
    folder = generate(tmp_path / "many", movies=300, seed=0)
    plots = {record(folder, path.stem)["plot"][0] for path in (folder / "dataset").glob("*.json")}
    posters = {path.read_bytes() for path in (folder / "dataset").glob("*.jpeg")}
    assert len(plots) == len(posters) == 300


@pytest.mark.parametrize("modalities", [("text", "image"), ("text", "video", "audio")])
def test_only_all_modalities_together_reveal_the_switch(modalities: tuple[str, ...]) -> None:
    plan = draw(6000, modalities, levels=6, rng=np.random.default_rng(0))
    assert (plan.confidence.argmax(axis=1) == plan.switch).all()
    for m in range(len(modalities)):
        for confidence in (1, 2, 3, 4):  # only the two extremes reveal the switch
            told = plan.switch[plan.confidence[:, m] == confidence] == m
            assert told.mean() == pytest.approx(1 / len(modalities), abs=0.05)


def test_no_movie_is_drawn_without_a_genre() -> None:
    plan = draw(3000, ("text", "image"), levels=4, rng=np.random.default_rng(0))
    assert plan.labels.shape == (3000, 10)
    assert plan.labels.any(axis=1).all()


def test_a_false_claim_is_independent_of_the_true_one() -> None:
    plan = draw(6000, ("text", "image"), levels=6, rng=np.random.default_rng(0))
    is_switch = np.array([kind == "switch" for kind in plan.kinds.values()])
    truth = plan.labels[:, is_switch]
    lie = plan.claims[np.arange(6000), 1 - plan.switch][:, is_switch]
    assert np.corrcoef(truth.ravel(), lie.ravel())[0, 1] == pytest.approx(0, abs=0.03)


def test_interrupted_generation_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "movies", movies=60, seed=1)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_still_to_be_filled(tmp_path: Path, folder: Path) -> None:
    store, empty = Store(tmp_path / "store"), tmp_path / "empty"
    empty.mkdir()
    assert Planted(str(empty), movies=12).pending(store) == f"12 movies to be generated in {empty}"
    assert Planted(str(folder)).pending(store) is None


def test_only_an_empty_folder_is_filled(tmp_path: Path) -> None:
    target = tmp_path / "a = (b), c"
    target.mkdir()
    generate(target, movies=12, seed=1)
    before = contents(target)
    with pytest.raises(UserError, match="already holds something"):
        generate(target, movies=12, seed=2)
    assert contents(target) == before


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"movies": 5}, "data.movies=5 is too few"),
        ({"seed": -1}, "data.seed=-1"),
        ({"levels": 1}, "choose 2 to 11"),
        ({"levels": 12}, "choose 2 to 11"),
        ({"modalities": ("text", "smell")}, "cannot be planted"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path: Path, wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        generate(tmp_path / "movies", **{"movies": 60, "seed": 1, **wrong})
    assert list(tmp_path.iterdir()) == []
