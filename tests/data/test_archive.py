"""Unpack untrusted archives once, completely, and only into their folder."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zlib
from pathlib import Path

import pytest

from gmu_lightning.data.mmimdb.dataset import Limits, is_unpacked, unpacked
from gmu_lightning.data.store import Store
from gmu_lightning.movie import UserError


def pack(folder: Path, archive: Path, mode: str = "w:gz", top: str = "mmimdb") -> Path:
    with tarfile.open(archive, mode) as tar:
        tar.add(folder, top)
    return archive


def with_member(archive: Path, member: tarfile.TarInfo, content: bytes = b"{}") -> Path:
    with tarfile.open(archive, "w:gz") as tar:
        member.size = len(content) if member.isreg() else 0
        tar.addfile(member, io.BytesIO(content))
    return archive


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "meta.json"
    }


def assert_nothing_stays(store: Store, tmp_path: Path) -> None:
    left = [path for path in store.root.rglob("*") if not path.name.endswith(".lock") and path.name != "unpacked"]
    assert left == []


@pytest.mark.parametrize(("name", "mode"), [("a.tar.gz", "w:gz"), ("b.tar", "w"), ("with space = (1).tgz", "w:gz")])
@pytest.mark.parametrize("top", ["mmimdb", "./x/mmimdb", "."])
def test_unpacked_files_equal_packed_ones(raw, tmp_path, store, name, mode, top):
    assert files(unpacked(pack(raw, tmp_path / name, mode, top), store)) == files(raw)


def test_an_archive_is_unpacked_again_only_if_changed(raw, tmp_path, store):
    archive = pack(raw, tmp_path / "a.tar.gz")
    assert not is_unpacked(archive, store)
    first = unpacked(archive, store)
    assert is_unpacked(archive, store)
    before = (first / "split.json").stat()
    assert (unpacked(archive, store) / "split.json").stat() == before
    os.utime(archive, ns=(1, 1))
    assert unpacked(archive, store) != first


def test_unknown_members_are_not_written(raw, tmp_path, store):
    (raw / "run.sh").write_text("echo")
    (raw / "dataset" / "0000001.exe").write_text("MZ")
    (raw / "dataset" / "._0000001.json").write_text("fork")
    found = files(unpacked(pack(raw, tmp_path / "a.tar.gz"), store))
    assert found.keys() == files(raw).keys() - {"run.sh", "dataset/0000001.exe", "dataset/._0000001.json"}


@pytest.mark.parametrize("name", ["../dataset/1.json", "/tmp/dataset/1.json", "mmimdb/dataset/../../../1.json"])
def test_a_member_that_climbs_out_is_refused_by_name(tmp_path, store, name):
    archive = with_member(tmp_path / "a.tar.gz", tarfile.TarInfo(name))
    with pytest.raises(UserError, match=f"member '{name}' points outside"):
        unpacked(archive, store)
    assert_nothing_stays(store, tmp_path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused_by_name(tmp_path, store, kind):
    member = tarfile.TarInfo("mmimdb/dataset/1.json")
    member.type, member.linkname = kind, "/etc/passwd"
    with pytest.raises(UserError, match=r"member 'mmimdb/dataset/1.json' is neither a plain file nor a folder"):
        unpacked(with_member(tmp_path / "a.tar.gz", member), store)


@pytest.mark.parametrize("mode", ["w:gz", "w"])
def test_a_truncated_archive_is_refused_and_leaves_no_file(raw, tmp_path, store, mode):
    whole = pack(raw, tmp_path / "whole.tar", mode).read_bytes()
    with tarfile.open(tmp_path / "whole.tar") as tar:
        last = tar.getmembers()[-1]
    content = last.offset_data + -(-last.size // 512) * 512  # after the last file, so that only the end mark is missing
    ends = [len(whole) // 3, len(whole) // 2, len(whole) - 5] if mode == "w:gz" else [700, 512 * 5, content // 2, content]
    for end in ends:
        archive = tmp_path / f"cut{end}.tar.gz"
        archive.write_bytes(whole[:end])
        with pytest.raises(UserError, match="truncated or damaged"):
            unpacked(archive, store)
    assert_nothing_stays(store, tmp_path)


def test_a_damaged_header_in_the_middle_is_no_silent_end(raw, tmp_path, store):
    archive = pack(raw, tmp_path / "a.tar", "w")
    with tarfile.open(archive) as tar:
        header = tar.getmembers()[4].offset
    damaged = bytearray(archive.read_bytes())
    damaged[header : header + 4] = b"\xff\xff\xff\xff"
    archive.write_bytes(damaged)
    with pytest.raises(UserError, match="truncated or damaged"):
        unpacked(archive, store)


def test_damaged_packed_bytes_are_noticed(raw, tmp_path, store):
    archive = pack(raw, tmp_path / "a.tar.gz")
    whole = archive.read_bytes()
    for place in (0, 40, len(whole) // 2, len(whole) - 6):  # mark, tables, data, checksum
        archive.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        with pytest.raises(UserError, match="truncated or damaged"):
            unpacked(archive, store)


def test_damage_within_a_file_is_noticed(raw, tmp_path, store):
    (raw / "dataset" / "0000001.json").write_bytes(bytes(200_000))
    content = pack(raw, tmp_path / "a.tar", "w").read_bytes()
    packer = zlib.compressobj(wbits=31)
    start = packer.compress(content[:100_000]) + packer.flush(zlib.Z_FULL_FLUSH)
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(start + b"\x07" * 100)  # a block of a type that does not exist
    with pytest.raises(UserError, match="truncated or damaged"):
        unpacked(archive, store)


def test_a_file_that_is_no_tar_is_refused(tmp_path, store):
    archive = tmp_path / "a.tar.gz"
    for content in (b"", b"PK\x03\x04" * 400, gzip.compress(b"hello" * 400)):
        archive.write_bytes(content)
        with pytest.raises(UserError, match="truncated or damaged"):
            unpacked(archive, store)


def test_an_archive_without_mm_imdb_is_refused(tmp_path, store):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "readme.txt").write_text("hello")
    with pytest.raises(UserError, match=r"no MM-IMDb: it lacks split.json"):
        unpacked(pack(tmp_path / "other", tmp_path / "a.tar.gz"), store)


def test_an_archive_of_two_data_sets_is_refused(raw, tmp_path, store):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.add(raw, "one")
        tar.add(raw, "two")
    with pytest.raises(UserError, match=r"several data sets \(one/, two/\)"):
        unpacked(tmp_path / "a.tar.gz", store)


def test_a_bomb_is_refused_before_it_fills_the_disk(raw, tmp_path, store):
    (raw / "padding.bin").write_bytes(bytes(5_000_000))  # outside the layout, but counted
    archive = pack(raw, tmp_path / "a.tar.gz")
    with pytest.raises(UserError, match="unpacks to more than 1,000,000 bytes"):
        unpacked(archive, store, Limits(ratio=1, floor=1_000_000))
    unpacked(archive, store, Limits(ratio=1, floor=6_000_000))


def test_too_large_files_and_too_many_members_are_refused(raw, tmp_path, store):
    (raw / "dataset" / "0000001.jpeg").write_bytes(bytes(3_000))
    archive = pack(raw, tmp_path / "a.tar.gz")
    with pytest.raises(UserError, match=r"member 'mmimdb/dataset/0000001.jpeg', as too large"):
        unpacked(archive, store, Limits(file=2_999))
    with pytest.raises(UserError, match="too large for MM-IMDb"):
        unpacked(archive, store, Limits(members=5))


@pytest.mark.parametrize(
    ("sparse_map", "sentence"),
    [(b"1\n99999999\n1\n", "neither a plain file nor a folder"), (b"many\n", "truncated or damaged")],
)
def test_a_sparse_member_is_refused(tmp_path, store, sparse_map, sentence):
    header = tarfile.TarInfo("mmimdb/dataset/1.json")
    header.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "mmimdb/dataset/1.json"}
    header.pax_headers["GNU.sparse.realsize"] = "100000000"
    archive = tmp_path / "a.tar.gz"
    with tarfile.open(archive, "w:gz", format=tarfile.PAX_FORMAT) as tar:
        header.size = 513
        tar.addfile(header, io.BytesIO(sparse_map.ljust(513, b"\0")))
    with pytest.raises(UserError, match=sentence):
        unpacked(archive, store)
