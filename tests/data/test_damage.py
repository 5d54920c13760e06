"""Find every damaged file of a store, name its entry, set it aside, and build it again with the same bits."""

from __future__ import annotations

import json
import logging
import multiprocessing
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gmu_lightning.data import integrity
from gmu_lightning.data.inventory import entries, listing, remove
from gmu_lightning.data.mmimdb.dataset import unpacked
from gmu_lightning.data.parts import Parts, read_part
from gmu_lightning.data.planted import Planted
from gmu_lightning.data.store import Store, content_digest, prepared
from gmu_lightning.data.verification import verify
from gmu_lightning.encoders.weights import remember_in, remembered
from gmu_lightning.features.columns import FeatureCache
from gmu_lightning.files import SEAL
from gmu_lightning.movie import UserError

from ..test_features import CONTENTS, CPU, TOKENS, Frames, Padded

MOVIES = 6
ALL = np.ones(MOVIES, bool)


class Costly(Padded):
    """Prepare rows as `Padded` does, and keep each in a file of its own."""

    fingerprint, costly = "costly", True


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a complete store, an archive, and the files whose hashes the store keeps."""
    folder = tmp_path_factory.mktemp("places")
    made = Planted(str(folder / "mmimdb"), movies=MOVIES)
    made.open(("text", "image"), Store(folder / "none"))
    with tarfile.open(folder / "mmimdb.tar", "w") as tar:
        tar.add(folder / "mmimdb", "mmimdb")
    for read in READERS.values():
        read(Store(folder / "store"), folder)
    return folder


def column(store: Store, places: Path, preparation: Padded | None = None) -> Any:
    digests = [content if content is None else content_digest(content) for content in CONTENTS[:MOVIES]]
    return prepared(store, "video", CONTENTS[:MOVIES], digests, ALL, preparation or Padded()).checked()


def column_bytes(store: Store, places: Path, preparation: Padded | None = None) -> list[bytes | None]:
    rows = map(column(store, places, preparation).row, range(MOVIES))
    return [None if row is None else row.tobytes() for row in rows]


def feature_bytes(store: Store, places: Path) -> list[bytes]:
    torch.manual_seed(0)
    found = FeatureCache(store, CPU).column(Frames(torch.nn.Linear(3, 3)), column(store, places), TOKENS)
    batch = found.batch(range(MOVIES))
    return [part.numpy().tobytes() for part in (batch.vector, batch.sequence, batch.mask)]


def part_bytes(store: Store, places: Path) -> list[bytes | None]:
    for built in entries(store.root):
        if built.kind == "columns":
            shutil.rmtree(built.folder)
    return column_bytes(store, places, Costly())


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "meta.json"}


def note(store: Store, places: Path) -> Any:
    remember_in(store.root / "weights")
    try:
        return remembered(["a question"], lambda: "its answer")
    finally:
        remember_in(None)


READERS: dict[str, Callable[[Store, Path], Any]] = {
    "columns": column_bytes,
    "parts": part_bytes,
    "features": feature_bytes,
    "unpacked": lambda store, places: folder_bytes(unpacked(places / "mmimdb.tar", store)),
    "planted": lambda store, _: folder_bytes(Planted(movies=MOVIES).open(("text",), store).root),
    "digests": lambda store, places: store.digests(sorted((places / "mmimdb/dataset").iterdir()), "here"),
    "weights": note,
}


def flipped(place: float) -> Callable[[bytes], bytes]:
    """Return a function that changes one bit, at a share of the file's length."""

    def flip(data: bytes) -> bytes:
        at = round(place * (len(data) - 1))
        return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]

    return flip


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "truncated": lambda data: data[: len(data) // 2],
    "emptied": lambda data: b"",
    "longer": lambda data: data + b"\0",
    "a bit near its begin": flipped(0.03),
    "a bit in the middle": flipped(0.5),
    "a bit near its end": flipped(0.97),
    "garbage of its size": lambda data: np.random.default_rng(0).bytes(len(data)),
    "removed": lambda data: None,
}
FILES = {
    "columns": ("values.bin", "index.npz", "meta.json"),
    "features": ("vectors.npy", "values.bin", "index.npz", "meta.json"),
    "unpacked": ("split.json", "dataset/0000001.json", "dataset/0000001.jpeg", "meta.json"),
    "planted": ("split.json", "truth.jsonl", "dataset/0000002.json", "dataset/0000002.jpeg", "meta.json"),
    "parts": (".npz",),
    "digests": (".json",),
    "weights": (".json",),
}
CASES = [(kind, name, damage) for kind, names in FILES.items() for name in names for damage in DAMAGES]
ALONE = ("digests", "weights")  # kinds whose entry is a single file


@dataclass(frozen=True)
class Copy:
    """A copy of the store, to be damaged."""

    store: Store
    places: Path

    def entry(self, kind: str) -> Path:
        """Return the first entry of a kind; the store of these tests has one of each."""
        return next(path for path in sorted((self.store.root / kind).glob("[!.]*")) if not path.name.endswith(".damaged"))

    def file(self, kind: str, name: str) -> Path:
        entry = self.entry(kind)
        if kind == "parts":
            return sorted(entry.glob("*.npz"))[1]
        return entry if kind in ALONE else entry / name

    def read(self, kind: str) -> Any:
        return READERS[kind](self.store, self.places)


@pytest.fixture
def copy(places: Path, tmp_path: Path) -> Copy:
    shutil.copytree(places / "store", tmp_path / "store", copy_function=shutil.copy)
    return Copy(Store(tmp_path / "store"), places)


def damage(path: Path, how: str) -> None:
    data = DAMAGES[how](path.read_bytes())
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.fixture(scope="module")
def expected(places: Path) -> dict[str, Any]:
    """Return what each reader reads from a sound store."""
    return {kind: read(Store(places / "store"), places) for kind, read in READERS.items() if kind != "parts"}


@pytest.mark.parametrize(("kind", "name", "how"), [case for case in CASES if case[0] != "parts"])
def test_damage_is_named_and_mended(copy, expected, caplog, kind, name, how):
    entry, file = copy.entry(kind), copy.file(kind, name)
    damage(file, how)
    gone = kind in ALONE and how == "removed"  # a missing list is no damage
    (line,) = verify(copy.store.root).damaged or [f"damaged: {kind}/{entry.name} ("] * gone
    assert line.startswith(f"damaged: {kind}/{entry.name} (")
    assert copy.read(kind) == expected[kind]
    found = warnings(caplog)
    assert len(found) == (not gone) and all(entry.name in line for line in found)
    assert verify(copy.store.root).damaged == []
    set_aside = [e.folder.name for e in entries(copy.store.root) if e.folder.name.endswith(".damaged")]
    assert set_aside == ([] if kind in ALONE else [f"{entry.name}.damaged"])
    assert copy.read(kind) == expected[kind]
    assert len(warnings(caplog)) == len(found)


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_part_is_named_and_made_again(copy, expected, caplog, how):
    file, kept = copy.file("parts", ""), copy.entry("parts")
    sound = read_part(file)
    damage(file, how)
    assert copy.read("parts") == expected["columns"]
    assert np.array_equal(read_part(file), sound)
    named = [line for line in warnings(caplog) if line.startswith(f"parts/{kept.name} of ") and "damaged in 1 of its" in line]
    harmless = ("removed", "longer", "a bit near its begin", "a bit near its end")  # dates in the archive belong to no row
    assert len(named) == 1 or how in harmless


@pytest.mark.parametrize("rows", [5, 5555])  # of a large row, numpy would stop before the checksum
def test_no_changed_byte_of_a_part_changes_its_row(tmp_path, rows):
    parts, row = Parts(tmp_path), np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    parts.get("part", lambda: row)
    file = tmp_path / "part.npz"
    data, broken = file.read_bytes(), 0
    places = [*range(300), *range(len(data) - 200, len(data))]  # the headers, and the list of contents
    for at in places:
        file.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])  # a shape (5, 3) becomes (4, 3)
        try:
            assert np.array_equal(read_part(file), row)
        except integrity.BrokenEntry:
            broken += 1
    assert broken > len(places) / 2


def test_no_changed_byte_of_a_meta_file_changes_its_content(copy):
    folder = copy.entry("features")
    file, meta = folder / "meta.json", integrity.read_meta(folder)
    data, broken = file.read_bytes(), 0
    for at in range(len(data)):
        file.write_bytes(data[:at] + bytes([data[at] ^ (1, 32, 128)[at % 3]]) + data[at + 1 :])
        try:
            assert integrity.read_meta(folder) == meta
        except integrity.BrokenEntry:
            broken += 1
    assert broken > len(data) * 3 / 4


@pytest.mark.parametrize("kind", [kind for kind in FILES if kind not in (*ALONE, "parts")])
def test_damage_in_a_read_only_store_is_one_sentence(copy, kind):
    entry = copy.entry(kind)
    damage(copy.file(kind, FILES[kind][0]), "a bit in the middle")
    reading = Copy(Store(copy.store.root, read_only=True), copy.places)
    with pytest.raises(
        UserError, match=rf"{kind}/{entry.name} of store\.dir=.* is damaged \(.*\), and this store cannot be written"
    ):
        reading.read(kind)
    assert entry.exists() and not list(copy.store.root.glob("*/*.damaged"))


def without_checksums(folder: Path) -> None:
    """Make an entry one of an older version."""
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({key: meta[key] for key in meta if key not in (SEAL, integrity.FILES)}))


@pytest.mark.parametrize("kind", ["columns", "features", "unpacked"])
def test_an_entry_of_an_older_version_is_used(copy, expected, caplog, kind):
    without_checksums(copy.entry(kind))
    assert copy.read(kind) == expected[kind]
    assert warnings(caplog) == []
    assert str(verify(copy.store.root)).endswith("damaged 0, 1 of an older version without checksums")


@pytest.mark.parametrize("how", ["truncated", "emptied", "longer", "garbage of its size", "removed"])
@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in ("columns", "features") for name in FILES[kind]])
def test_an_older_entry_that_cannot_be_opened_is_mended(copy, expected, caplog, kind, name, how):
    if name == "values.bin" and how.startswith("garbage"):
        pytest.skip("without a checksum, other numbers are as good as any")
    entry = copy.entry(kind)
    without_checksums(entry)
    damage(entry / name, how)
    assert copy.read(kind) == expected[kind]
    if not (how == "longer" and name != "values.bin"):
        (line,) = warnings(caplog)
        assert f"{kind}/{entry.name} of store.dir={copy.store.root} is damaged" in line


@pytest.mark.parametrize("kind", ["columns", "features"])
def test_another_meta_file_is_mended(copy, expected, caplog, kind):
    (copy.entry(kind) / "meta.json").write_text('{"dim": 3}')
    assert copy.read(kind) == expected[kind]
    assert "is damaged (it cannot be read: 'parameters')" in warnings(caplog)[0] if kind == "features" else warnings(caplog)


def test_lists_of_older_versions_are_made_again(copy, expected, caplog):
    digests, weights = copy.file("digests", ""), copy.file("weights", "")
    digests.write_text(json.dumps(json.loads(digests.read_text())["files"]))
    weights.write_text(json.dumps({"what": ["a question"], "answer": "another answer"}))
    assert [copy.read(kind) for kind in ALONE] == [expected[kind] for kind in ALONE]
    assert warnings(caplog) == []


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Yield a list that receives the names of files when their checksum is computed."""
    names: list[str] = []
    whole = integrity.file_checksum
    monkeypatch.setattr(integrity, "file_checksum", lambda path: (names.append(path.name), whole(path))[1])
    return names


def test_a_process_compares_an_entry_once(copy, compared):
    copy.read("features")
    assert sorted(compared) == ["index.npz", "index.npz", "index.npz", "values.bin", "values.bin", "vectors.npy"]
    compared.clear()
    copy.read("features")
    assert compared == []


def test_rows_that_nobody_reads_are_not_compared(copy, compared):
    digests = [content if content is None else content_digest(content) for content in CONTENTS[:MOVIES]]
    opened = prepared(copy.store, "video", CONTENTS[:MOVIES], digests, ALL, Padded())
    assert compared == ["index.npz"]
    opened.checked()
    assert sorted(compared) == ["index.npz", "index.npz", "values.bin"]


@pytest.mark.parametrize("kind", integrity.RAW)
def test_raw_files_are_compared_again_only_after_a_change(copy, compared, monkeypatch, kind):
    copy.read(kind)
    once = len(compared)
    monkeypatch.setattr(integrity, "_compared", {})  # as in another process
    copy.read(kind)
    assert len(compared) == once > MOVIES
    copy.file(kind, "split.json").touch()
    copy.read(kind)
    assert len(compared) == 2 * once


def test_two_processes_mend_an_entry_once(copy, expected):
    entry = copy.entry("columns")
    damage(entry / "values.bin", "a bit in the middle")
    context = multiprocessing.get_context("fork")
    ready, results = context.Barrier(2), context.Queue()

    def use(number: int) -> None:
        lines: list[str] = []
        logging.getLogger("gmu_lightning").addHandler(handler := logging.Handler(logging.WARNING))
        handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
        ready.wait()
        results.put((copy.read("columns"), lines))

    users = [context.Process(target=use, args=(number,)) for number in range(2)]
    for user in users:
        user.start()
    found = [results.get(timeout=60) for _ in users]
    for user in users:
        user.join()
    assert [rows for rows, _ in found] == [expected["columns"]] * 2
    assert len([line for _, lines in found for line in lines]) == 1
    assert verify(copy.store.root).damaged == []


def test_a_reader_keeps_its_rows_while_another_mends_the_entry(copy, expected):
    reading = column(copy.store, copy.places)
    damage(copy.entry("columns") / "index.npz", "removed")
    assert Copy(Store(copy.store.root), copy.places).read("columns") == expected["columns"]
    assert [None if reading.row(n) is None else reading.row(n).tobytes() for n in range(MOVIES)] == expected["columns"]


def test_an_entry_that_cannot_be_built_again_stays_damaged(copy, expected):
    entry = copy.entry("columns")
    damage(entry / "values.bin", "emptied")
    bad = Copy(Store(copy.store.root), copy.places)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Padded, "store", lambda *_: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(MemoryError):
            bad.read("columns")
    assert len(verify(copy.store.root).damaged) == 1
    assert copy.read("columns") == expected["columns"]


def test_damaged_entries_are_listed_and_removed(copy):
    entry = copy.entry("columns")
    damage(entry / "values.bin", "emptied")
    copy.read("columns")
    aside = f"{entry.name}.damaged"
    assert any(line.startswith(f"columns/{aside}  video") for line in listing(copy.store.root))
    assert remove(copy.store.root, [aside])[0].startswith(f"removed columns/{aside}")
    assert not any(aside in line for line in listing(copy.store.root))
