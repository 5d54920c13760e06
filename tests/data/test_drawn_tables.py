"""Tables of movies with a drawn split, a share of train, and missing modalities."""

from __future__ import annotations

import json
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gmu_lightning.data.files import Files
from gmu_lightning.data.mmimdb import MMIMDb
from gmu_lightning.data.moviescope import Moviescope
from gmu_lightning.data.planted import generate
from gmu_lightning.data.store import Store, column_key
from gmu_lightning.data.table import MovieTable
from gmu_lightning.encoders.text import BagOfWords
from gmu_lightning.movie import SPLITS, UserError

from .moviescope_files import damage, write

BOTH = ("text", "image")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("drawn") / "movies", movies=90, seed=3)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


def load(folder: Path, store: Store, modalities: tuple[str, ...] = BOTH, **options: Any) -> MovieTable:
    return MMIMDb(str(folder), **options).load(modalities, store)


def sizes(table: MovieTable) -> list[int]:
    return [len(table.rows(split)) for split in SPLITS]


def test_rows_and_contents_are_the_same_for_every_draw(folder, kept):
    published = load(folder, kept)
    drawn = ({"split": "random", "split_seed": 1}, {"train_share": 0.5}, {"missing": {"text": 0.4, "image": 0.4}})
    for options in drawn:
        table = load(folder, kept, **options)
        assert [movie.id for movie in table.movies] == [movie.id for movie in published.movies]
        assert table.digests == published.digests
        assert disagreeing_parts(table, published)


def disagreeing_parts(a: MovieTable, b: MovieTable) -> set[str]:
    return {part for part in a.fingerprint if a.fingerprint[part] != b.fingerprint[part]}


def test_each_option_changes_its_part_of_the_fingerprint(folder, kept):
    published = load(folder, kept)
    changed = partial(lambda **options: disagreeing_parts(load(folder, kept, **options), published))
    assert changed(split="random", split_seed=1) == {"movies"}
    assert changed(train_share=0.5) == {"movies"}
    assert changed(missing={"text": 0.4}) == {"text"}
    assert changed(missing={"text": 0.4, "image": 0.4, "splits": ["test"]}) == {"text", "image"}
    assert changed(missing={"text": 0.0, "seed": 4}) == set()
    one, other = (load(folder, kept, split="random", split_seed=seed) for seed in (1, 2))
    assert disagreeing_parts(one, other) == {"movies"}


def test_a_random_split_has_the_published_sizes_and_other_movies(folder, kept):
    published, table = load(folder, kept), load(folder, kept, split="random", split_seed=1)
    assert sizes(table) == sizes(published)
    assert not set(table.ids["test"]) <= set(published.ids["test"])
    assert sorted(chain.from_iterable(table.ids.values())) == sorted(chain.from_iterable(published.ids.values()))


def test_a_random_split_is_the_same_for_all_modalities(folder, kept, tmp_path):
    (folder / "dataset" / "0000003.jpeg").rename(tmp_path / "gone")
    try:
        options = {"split": "random", "split_seed": 1, "absent": "drop"}
        both, text = load(folder, kept, **options), load(folder, kept, ("text",), **options)
    finally:
        (tmp_path / "gone").rename(folder / "dataset" / "0000003.jpeg")
    assert {split: [id for id in ids if id != "0000003"] for split, ids in text.ids.items()} == both.ids


def test_the_split_seed_is_by_default_that_of_the_data(folder, kept):
    assert load(folder, kept, split="random", seed=5).ids == load(folder, kept, split="random", split_seed=5).ids


def test_problems_are_named_in_the_drawn_split_and_the_file_in_which_they_are(tmp_path, store):
    root = write(tmp_path / "moviescope", "full", movies=(8, 5, 5))
    damage(root, 0.3, np.random.default_rng(0))
    data = partial(Moviescope, str(root))
    published, table = data().load(("text", "video"), store), data(split="random", split_seed=1).load(("text", "video"), store)
    before = {(p.id, p.kind): p for p in published.audit.problems if p.action != "removed"}
    after = {(p.id, p.kind): p for p in table.audit.problems if p.action != "removed"}
    split_of = {id: split for split, ids in table.ids.items() for id in ids}
    assert after and before.keys() == after.keys()
    assert all(problem.split == split_of[id] and problem.file == before[id, kind].file for (id, kind), problem in after.items())
    assert any(problem.split != before[key].split for key, problem in after.items())


def test_a_random_split_of_unlabelled_movies_is_refused(raw, store):
    for movie in ("0000005", "0000006"):
        (raw / "dataset" / f"{movie}.json").write_text(json.dumps({"plot": ["A plot."], "genres": []}))
    with pytest.raises(UserError, match=r"data\.split=random draws .* no movie of test .* has a genre"):
        load(raw, store, split="random")


def test_a_share_of_train_keeps_val_test_and_the_genres(folder, kept):
    whole, third = load(folder, kept), load(folder, kept, train_share=0.3)
    assert sizes(third) == [18, *sizes(whole)[1:]]
    assert (third.ids["val"], third.ids["test"]) == (whole.ids["val"], whole.ids["test"])
    assert third.vocabulary == whole.vocabulary
    assert set(third.ids["train"]) < set(load(folder, kept, train_share=0.6).ids["train"])
    assert third.report()["movies"]["train"] == 18


def test_the_audit_omits_movies_outside_the_share(folder, kept, tmp_path):
    unreadable = [folder / "dataset" / f"{movie}.jpeg" for movie in load(folder, kept).ids["train"]]
    for path in unreadable:
        path.rename(tmp_path / path.name)
    try:
        table = load(folder, kept, ("text",), train_share=0.5)
    finally:
        for path in unreadable:
            (tmp_path / path.name).rename(path)
    named = {problem.id for problem in table.audit.problems if problem.kind == "missing_image"}
    assert named == set(table.ids["train"])


def test_drawn_absences_are_counted_apart_from_problems(folder, kept):
    table = load(folder, kept, missing={"text": 0.5, "image": 0.2, "splits": ["train", "test"]})
    train, _, test = sizes(table)
    assert table.report()["missing"] == {
        "train": {"text": train // 2, "image": train // 5},
        "test": {"text": test // 2, "image": test // 5},
    }
    assert table.report()["counts"] == load(folder, kept).report()["counts"]
    lost = table.lost
    assert {split: len(found) for split, found in lost.items()} == {"train": 42, "test": 10}
    assert all(movie in table.ids[split] for split in lost for movie in lost[split])
    assert all(len(modalities) == 1 for found in lost.values() for modalities in found.values())


def test_a_preparation_learns_from_contents_that_are_left(folder, kept):
    table = load(folder, kept, missing={"text": 0.5})
    allowed = table.learned_from("text")
    assert allowed.sum() == 30 and not (allowed & table.taken("text")).any()
    preparation = BagOfWords(dim=4).preparation
    whole = load(folder, kept)
    keys = {column_key("text", t.digests["text"], t.learned_from("text"), preparation) for t in (table, whole)}
    assert len(keys) == 2


def test_missing_contents_leave_no_trace_in_the_table(folder, kept, tmp_path):
    options = {"missing": {"text": 0.4, "image": 0.4}}
    before = load(folder, kept, **options)
    changed = {}
    for found in before.lost.values():
        for movie, (modality,) in found.items():
            path = folder / "dataset" / f"{movie}.{'json' if modality == 'text' else 'jpeg'}"
            changed[path] = path.read_bytes()
            if modality == "text":
                path.write_text(json.dumps(json.loads(path.read_text()) | {"plot": ["The same other plot."]}))
            else:
                Image.new("RGB", (5, 5)).save(path)
    try:
        after = load(folder, kept, **options)
    finally:
        for path, content in changed.items():
            path.write_bytes(content)
    assert after.fingerprint == before.fingerprint
    assert after.report() == before.report()
    assert after.lost == before.lost


def test_shares_of_a_table_are_drawn_by_the_split_seed(tmp_path, store):
    rows = [{"id": f"m{n}", "plot": f"plot {n} of {n % 3}", "genres": f"g{n % 3}", "kind": "a"} for n in range(60)]
    path = tmp_path / "movies.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = [
        Files(str(path), leave_out=["kind"], **draw).load(("text",), store).ids for draw in ({}, {"split_seed": 0}, {"seed": 2})
    ]
    assert found[0] == found[1] != found[2]
    assert found[2] == Files(str(path), leave_out=["kind"], split_seed=2).load(("text",), store).ids
    path.write_text("".join(json.dumps(row | {"split": SPLITS[n % 3]}) + "\n" for n, row in enumerate(rows)))
    with pytest.raises(UserError, match=r"data\.split_seed=2 draws nothing, because column split of .* has the splits"):
        Files(str(path), leave_out=["kind"], split_seed=2).load(("text",), store)
