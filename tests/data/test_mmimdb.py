"""Find MM-IMDb by its root, and load it in each layout."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest

from gmu_lightning.data.mmimdb import MMIMDb
from gmu_lightning.data.mmimdb.dataset import find_mmimdb
from gmu_lightning.data.store import Store
from gmu_lightning.data.table import MovieTable
from gmu_lightning.movie import UserError


def jsonl(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for n, split in enumerate(("train", "dev", "test")):
        (folder / f"{split}.jsonl").write_text(json.dumps({"id": str(n), "text": "A plot.", "img": None, "label": ["Drama"]}))
    return folder


def loaded(root: Path, store: Store, **arguments: object) -> MovieTable:
    return MMIMDb(str(root), **arguments).load(("text", "image"), store)


def test_folder_parent_and_archive_give_the_same_data(tmp_path, write_raw, store):
    raw = write_raw(tmp_path / "a (copy), of = it" / "any name")
    archive = tmp_path / "mmimdb small.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(raw, "mmimdb")
    found = [loaded(root, store) for root in (raw, raw.parent, archive)]
    assert {data.layout.name for data in found} == {"raw"}
    assert found[0].fingerprint == found[1].fingerprint == found[2].fingerprint
    assert found[0].ids == {"train": ["0000001", "0000002", "0000003"], "val": ["0000004"], "test": ["0000005", "0000006"]}


def test_a_tilde_is_the_home_folder(raw, store, monkeypatch):
    monkeypatch.setenv("HOME", str(raw.parent))
    assert find_mmimdb("~/mmimdb", "auto", store) == {"raw": raw}


def test_auto_prefers_raw_to_hdf5_to_jsonl_and_warns(raw, store):
    jsonl(raw)
    layout = MMIMDb(str(raw)).open(("text",), store)
    assert layout.name == "raw"
    assert layout.warnings == (f"layouts: {raw} holds several layouts: raw is read, jsonl is not.",)
    (raw / "multimodal_imdb.hdf5").write_bytes(b"")
    assert list(find_mmimdb(str(raw), "auto", store)) == ["raw", "hdf5", "jsonl"]
    (raw / "split.json").unlink()
    assert list(find_mmimdb(str(raw), "auto", store)) == ["hdf5", "jsonl"]


def test_the_chosen_layout_is_read(raw, store):
    jsonl(raw)
    data = MMIMDb(str(raw), layout="jsonl").load(("text",), store)
    assert data.layout.name == "jsonl"
    assert data.ids == {"train": ["0"], "val": ["1"], "test": ["2"]}
    assert data.warnings == ()


def test_the_hdf5_file_itself_may_be_the_root(tmp_path, store):
    file = tmp_path / "renamed.hdf5"
    file.write_bytes(b"")
    assert find_mmimdb(str(file), "auto", store) == {"hdf5": file}


def test_a_missing_root_is_an_error_with_advice(store):
    with pytest.raises(UserError, match=r"data=mmimdb needs data.root=PATH"):
        MMIMDb(None).open(("text",), store)


@pytest.mark.parametrize(
    ("root", "sentence"),
    [
        ("mmimbd", "does not exist, but {} holds mmimdb: expected split.json beside a folder dataset"),
        ("mmimdb/dataset", "the folder above it is: give data.root={}/mmimdb"),
        ("mmimdb/split.json", "it is a file, and neither a .tar.gz, a .tar nor an .hdf5"),
        ("other", "it holds a, b, c, d, e and 1 more"),
        ("other/a", "it is empty"),
    ],
)
def test_a_wrong_root_names_expected_and_found_files(raw, store, root, sentence):
    for name in "abcdef":
        (raw.parent / "other" / name).mkdir(parents=True)
    with pytest.raises(UserError) as error:
        MMIMDb(str(raw.parent / root)).open(("text",), store)
    assert sentence.format(raw.parent) in str(error.value)


def test_two_data_sets_below_the_root_are_an_error(tmp_path, write_raw, store):
    write_raw(tmp_path / "root" / "one")
    write_raw(tmp_path / "root" / "two")
    with pytest.raises(UserError, match=r"holds several data sets \(one, two\)"):
        MMIMDb(str(tmp_path / "root")).open(("text",), store)


def test_an_archive_is_pending_until_it_is_unpacked(raw, tmp_path, store):
    archive = tmp_path / "mmimdb.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(raw, "mmimdb")
    data = MMIMDb(str(archive))
    assert data.pending(store) == f"unpack {archive} once"
    data.open(("text",), store)
    assert data.pending(store) is None
    assert MMIMDb(str(raw)).pending(store) is None


def test_an_archive_in_another_layout_is_an_error(raw, tmp_path, store):
    archive = tmp_path / "mmimdb.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(raw, "mmimdb")
    with pytest.raises(UserError, match="an archive is read as raw"):
        MMIMDb(str(archive), layout="jsonl").open(("text",), store)


def test_the_plot_option_chooses_the_plot(raw, store):
    texts = {plot: loaded(raw, store, plot=plot).contents("text")[0] for plot in ("longest", "first", "concat")}
    assert texts["longest"] == "The long plot of 0000001."
    assert texts["first"] == "Movie 0000001."
    assert texts["concat"] == f"{texts['first']} {texts['longest']}"


def test_the_label_policy_selects_movies_and_labels(raw, store):
    path = raw / "dataset" / "0000002.json"
    path.write_text(json.dumps({"plot": ["A plot."], "genres": ["Drama", "News"]}))
    keep23, mmbt = loaded(raw, store), loaded(raw, store, label_policy="mmbt")
    assert keep23.ids["train"] == ["0000001", "0000002", "0000003"]
    assert mmbt.ids["train"] == ["0000001", "0000003"]
    assert "News" not in keep23.vocabulary.names + mmbt.vocabulary.names
    loaded(raw, store, strict=True).raise_if_strict()


def test_kept_and_removed_are_the_ids_of_the_split_file(raw, store):
    (raw / "dataset" / "0000001.json").write_text("{")
    (raw / "dataset" / "0000005.jpeg").unlink()
    report = loaded(raw, store).report()
    assert report["layout"] == "raw"
    assert report["movies"] == {"train": 2, "val": 1, "test": 2}
    assert report["counts"]["broken_json"] == report["counts"]["missing_image"] == 1
    assert sum(report["movies"].values()) + sum(p["action"] == "removed" for p in report["problems"]) == 6


@pytest.mark.skipif("GMU_MMIMDB" not in os.environ, reason="GMU_MMIMDB names no MM-IMDb")
def test_the_real_movies_read_without_a_loss(store):
    data = loaded(Path(os.environ["GMU_MMIMDB"]), store)
    assert data.layout == "raw"
    assert not {p.kind for p in data.audit.problems if p.action == "removed"}
    assert set(data.vocabulary.names) <= set(MMIMDb.published_genres)
    assert data.vocabulary.names[0] == "Drama"
    assert all(data.labels[data.rows(split)].any() for split in ("train", "val", "test"))
