"""Find files of movies in several spellings, and only inside the data set's folder."""

from __future__ import annotations

from pathlib import Path
from unicodedata import normalize

import pytest

from gmu_lightning.data.readers.media import POSTERS, Folder, Ids, NamedFiles, one_form
from gmu_lightning.movie import BadContent


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a data set's folder with one poster, and another poster outside it."""
    (tmp_path / "outside.jpg").write_bytes(b"jpeg")
    (tmp_path / "data" / "my img").mkdir(parents=True)
    (tmp_path / "data" / "my img" / "1.jpg").write_bytes(b"jpeg")
    return tmp_path / "data"


def named(root: Path, name: str) -> str:
    return NamedFiles(root).find(name).relative_to(root).as_posix()


@pytest.mark.parametrize("id", ["1001", "0001001", "tt0001001", "TT1001", " 1001 ", "1001.0"])
def test_spellings_of_an_id_have_one_form(id):
    assert one_form(id) == "1001"


def test_an_id_is_found_under_one_other_spelling():
    names = Ids(["0001001", "tt7", "07", "caf" + normalize("NFD", "é")])
    assert names.find("1001") == "0001001"
    assert names.find("tt7") == "tt7"
    assert names.find("7") is None
    assert names.find(normalize("NFC", "café")) == normalize("NFD", "café")


def test_a_name_that_is_another_id_is_not_taken():
    assert Ids(["0001"], ids=["1", "0001"]).find("1") is None
    assert Ids(["0001"], ids=["1"]).find("1") == "0001"


def test_a_folder_prefers_the_first_suffix_in_any_case(tmp_path):
    for name in ("1.JPG", "2.png", "2.Jpeg", "0003.WebP", "4.txt"):
        (tmp_path / name).write_bytes(b"")
    folder = Folder(tmp_path, POSTERS)
    found = {id: folder.name(id) for id in "12345"}
    assert found == {"1": "1.JPG", "2": "2.Jpeg", "3": "0003.WebP", "4": None, "5": None}


def test_the_first_missing_file_names_one_that_is_near(tmp_path):
    (tmp_path / "1001_mel.npy").write_bytes(b"")
    folder = Folder(tmp_path, (".npy",))
    with pytest.raises(BadContent, match=r"^no such file \(1001_mel.npy is there\)$"):
        folder.content("1001", "audio")


@pytest.mark.parametrize(
    "name",
    [
        *(
            "my img/1.jpg",
            "my img\\1.jpg",
            "my%20img/1.jpg",
            "My Img/1.JPG",
            "my img/1.jpeg",
            "./my img//1.jpg",
            " my img/1.jpg ",
        ),
        *("data/my img/1.jpg", "ROOT/my img/1.jpg", "file://ROOT/my%20img/1.jpg", ".\\my%20img\\1.png"),
    ],
)
def test_a_record_names_its_poster_in_many_ways(root, name):
    assert named(root, name.replace("ROOT", str(root))) == "my img/1.jpg"


def test_an_absolute_path_may_go_through_a_link_to_the_folder(root):
    link = root.parent / "link"
    link.symlink_to(root)
    assert named(root, f"{link}/my img/1.jpg") == "my img/1.jpg"
    assert named(link, f"{root}/my img/1.jpg") == "my img/1.jpg"


@pytest.mark.parametrize(("there", "typed"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_name_in_another_unicode_form_is_found(root, there, typed):
    poster = root / normalize(there, "é") / normalize(there, "ü.png")
    poster.parent.mkdir()
    poster.write_bytes(b"png")
    assert NamedFiles(root).find(normalize(typed, "é/ü.png")) == poster


def test_an_ambiguous_name_finds_no_file(root):
    for name in ("A.jpg", "a.JPG"):
        (root / name).write_bytes(b"jpeg")
    with pytest.raises(BadContent, match="no such file"):
        NamedFiles(root).find("a.jpg")


@pytest.mark.parametrize(
    "name", ["../outside.jpg", "..\\outside.jpg", "%2e%2e/outside.jpg", "OUTSIDE", "file://OUTSIDE", "C:\\1.jpg"]
)
def test_files_outside_the_folder_are_not_read(root, name):
    with pytest.raises(BadContent, match="points outside"):
        NamedFiles(root).find(name.replace("OUTSIDE", str(root.parent / "outside.jpg")))


@pytest.mark.parametrize(
    "record",
    [
        {"img": None, "image": "my img/1.jpg"},
        {"img": "", "poster": ["none.jpg", "my img/1.jpg"]},
        {"img": "none.jpg", "poster_path": {"path": "my img/1.jpg"}},
    ],
)
def test_the_key_that_holds_a_poster_is_read(root, record):
    assert NamedFiles(root).poster(record) == root / "my img" / "1.jpg"


def test_an_inaccessible_file_is_unreadable_not_missing(root, monkeypatch):
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    folder, names = Folder(root / "my img", POSTERS), NamedFiles(root)
    monkeypatch.setattr(Path, "is_file", refuse)
    for find in (lambda: folder.content("1", "image"), lambda: names.find("my img/1.jpg")):
        with pytest.raises(BadContent, match=r"^cannot be read: Permission denied$") as bad:
            find()
        assert bad.value.kind == "unreadable_image"
