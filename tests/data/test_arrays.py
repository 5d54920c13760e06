"""Read arrays in untrusted files as data."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from gmu_lightning.data.readers.arrays import frames, log_mel, melgram, poster_vector, read_array, read_ids, unpickle
from gmu_lightning.movie import BadContent

from .moviescope_files import MakesAMarker, python2_ids, python2_pickle, save

PROTOCOLS = range(6)
EXAMPLE = np.random.default_rng(0).normal(size=(3, 4))


def refused(data: bytes) -> BadContent:
    with pytest.raises(BadContent) as error:
        unpickle(data)
    return error.value


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", "<i8", "bool"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_pickled_by_any_protocol_are_read(protocol, dtype, order):
    array = np.asarray(EXAMPLE, dtype=dtype, order=order)
    assert np.array_equal(unpickle(pickle.dumps(array, protocol)), array)


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f8", "<i4"])
def test_arrays_that_python_2_pickled_are_read(dtype):
    array = EXAMPLE.astype(dtype)
    data = python2_pickle(array)
    assert np.array_equal(pickle.loads(data, encoding="latin1"), array)
    assert np.array_equal(unpickle(data), array)


def test_text_protocol_of_python_2_is_read():
    made = b"cnumpy.core.multiarray\n_reconstruct\np1\n(cnumpy\nndarray\np2\n(I0\ntS'b'\ntRp4\n"
    dtype = b"cnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
    data = made + b"(I1\n(I2\nt" + dtype + b"I00\nS'\\x00\\x00\\x80?\\x00\\x00\\xc0\\xbf'\ntb."
    assert unpickle(data).tolist() == [1.0, -1.5]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_containers_of_numbers_and_strings_are_read(protocol):
    content = {"a": [np.float32(1.5), np.int64(3)], b"k": (1, 2.5, None, True), 3015: "é"}
    assert unpickle(pickle.dumps(content, protocol)) == content


def test_names_of_old_and_new_numpy_are_the_same():
    data = pickle.dumps(EXAMPLE, 2)
    assert b"numpy._core" in data
    assert np.array_equal(unpickle(data.replace(b"numpy._core", b"numpy.core")), EXAMPLE)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_pickle_that_runs_code_is_refused(tmp_path, protocol):
    error = refused(pickle.dumps([EXAMPLE, MakesAMarker(tmp_path / "marker")], protocol))
    assert (error.kind, error.detail) == ("refused_pickle", f"it names {os.mkdir.__module__}.mkdir, which is no array")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"(S'true'\nios\nsystem\n.", "os.system"),
        (b"(cos\nsystem\nS'true'\no.", "os.system"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "os.system"),
        (b"cnumpy\nload\n(S'x'\ntR.", "numpy.load"),
        (b"cnumpy.core.multiarray\nfromfile\n(S'x'\ntR.", "numpy.core.multiarray.fromfile"),
        (b"c__builtin__\neval\n(S'1'\ntR.", "__builtin__.eval"),
        (b"ccollections\nOrderedDict\n)R.", "collections.OrderedDict"),
    ],
)
def test_names_outside_arrays_are_refused(data, named):
    error = refused(data)
    assert (error.kind, error.detail) == ("refused_pickle", f"it names {named}, which is no array")


@pytest.mark.parametrize("array", [np.array([1, None], dtype=object), np.zeros(2, [("a", "f4")])])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_of_objects_and_records_are_refused(array, protocol):
    assert refused(pickle.dumps(array, protocol)).kind == "refused_pickle"


RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
F4 = b"cnumpy\ndtype\n(S'f4'\nI0\nI1\ntR"


@pytest.mark.parametrize(
    "data",
    [
        RECONSTRUCT + b"(cnumpy\nndarray\n(I1000000000000\ntS'b'\ntR.",
        RECONSTRUCT + b"(" + F4 + b"(I0\ntS'b'\ntR.",
        RECONSTRUCT + b"(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I1000000000000\nt" + F4 + b"I00\nS''\ntb.",
        RECONSTRUCT + b"(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I-1\nt" + F4 + b"I00\nS''\ntb.",
        RECONSTRUCT + b"(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I1\nt" + F4 + b"I00\n(lp1\ntb.",
        b"cnumpy.core.multiarray\nscalar\n(" + F4 + b"S'\\x00'\ntR.",
        b"cnumpy.core.multiarray\nscalar\n(" + F4 + b"S'12345678'\ntR.",
        b"cnumpy\nndarray\n((I1000000000000\nttR.",
        b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.",
        b"r\xff\xff\xff\x7f.",
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"abc.",
        b"\x8e" + struct.pack("<Q", 1 << 40) + b"abc.",
        b"S'x'\n(S'a'\nI1\ndb.",
        b"",
        b"\x93NUMPY",
    ],
)
def test_a_false_size_or_type_is_a_bad_array(data):
    assert refused(data).kind == "bad_array"


def test_a_small_pickle_cannot_fill_the_memory():
    text = b"X" + struct.pack("<I", 1000) + b"x" * 1000 + b"q\x01"
    encode = b"c_codecs\nencode\nh\x01X\x06\x00\x00\x00latin1\x86R"
    assert "more of its bytes" in refused(b"\x80\x02" + text + b"](" + encode * 100 + b"e.").detail


def test_a_claimed_length_allocates_no_memory():
    tracemalloc.start()
    refused(b"\x80\x05\x96" + struct.pack("<Q", 1 << 28) + b"abc.")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 22


def test_nested_tuples_are_not_hashed():
    assert refused(b"\x80\x02})" + b"2\x86" * 60 + b"K\x01s.").kind == "bad_array"


def test_deeply_nested_lists_are_a_bad_array(tmp_path):
    path = tmp_path / "deep.p"
    path.write_bytes(b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".")
    with pytest.raises(BadContent, match="holds list, expected an array"):
        read_array(path)


@pytest.mark.parametrize("suffix", [".p", ".pkl", ".pickle", ".npy", ".pt", ".PT"])
def test_the_suffix_determines_the_format(tmp_path, suffix):
    path = tmp_path / f"3015{suffix}"
    if suffix == ".PT":
        torch.save(torch.from_numpy(EXAMPLE), path)
    else:
        save(path, EXAMPLE)
    assert np.array_equal(read_array(path), EXAMPLE)


@pytest.mark.parametrize("suffix", [".p", ".npy", ".pt"])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_a_bad_array(tmp_path, suffix, part):
    path = tmp_path / f"3015{suffix}"
    save(path, np.random.default_rng(1).normal(size=(30, 40)))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(BadContent) as error:
        read_array(path)
    assert error.value.kind == "bad_array"


@pytest.mark.parametrize("suffix", [".p", ".npy", ".pt"])
def test_no_format_runs_code(tmp_path, suffix):
    path = tmp_path / f"3015{suffix}"
    save(path, MakesAMarker(tmp_path / "marker"))
    with pytest.raises(BadContent) as error:
        read_array(path)
    assert error.value.kind == "refused_pickle"
    assert not (tmp_path / "marker").exists()


def test_an_npy_header_allocates_no_memory(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (1 << 34,)})
    (tmp_path / "3015.npy").write_bytes(header.getvalue())
    with pytest.raises(BadContent, match="no NumPy file: mmap length is greater than file size"):
        read_array(tmp_path / "3015.npy")


def test_an_npy_header_that_is_no_python_is_a_bad_array(tmp_path):
    save(tmp_path / "3015.npy", EXAMPLE)
    (tmp_path / "3015.npy").write_bytes((tmp_path / "3015.npy").read_bytes().replace(b"}", b"L"))
    with pytest.raises(BadContent, match="no NumPy file"):
        read_array(tmp_path / "3015.npy")


def test_a_pt_of_half_precision_is_read(tmp_path):
    torch.save(torch.ones(2, 3, dtype=torch.bfloat16, requires_grad=True), tmp_path / "3015.pt")
    assert read_array(tmp_path / "3015.pt").tolist() == [[1.0] * 3] * 2


def test_a_pt_that_unpacks_to_more_is_a_bad_array(tmp_path):
    import zipfile

    torch.save(torch.zeros(100_000), tmp_path / "whole.pt")
    with (
        zipfile.ZipFile(tmp_path / "whole.pt") as whole,
        zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in whole.infolist():
            packed.writestr(entry.filename, whole.read(entry))
    with pytest.raises(BadContent, match="claims to hold"):
        read_array(tmp_path / "packed.pt")


def test_a_folder_named_like_an_array_is_a_bad_array(tmp_path):
    (tmp_path / "3015.p").mkdir()
    with pytest.raises(BadContent, match="cannot be read"):
        read_array(tmp_path / "3015.p")


def shaped(folder: Path, shape: tuple[int, ...], dtype: str = "float64") -> Path:
    path = folder / "3015.npy"
    np.save(path, np.arange(np.prod(shape)).reshape(shape).astype(dtype))
    return path


@pytest.mark.parametrize(
    ("read", "shape", "becomes"),
    [
        (frames, (1, 200, 4096), (200, 4096)),
        (frames, (200, 4096), (200, 4096)),
        (poster_vector, (1, 4096), (4096,)),
        (poster_vector, (4096,), (4096,)),
        (log_mel, (96, 1), (96, 1)),
        (log_mel, (96, 70), (96, 70)),
    ],
)
def test_published_shapes_become_one_in_float32(tmp_path, read, shape, becomes):
    array = read(shaped(tmp_path, shape))
    assert (array.shape, array.dtype) == (becomes, np.float32)
    assert array.ravel().tolist() == list(range(array.size))


@pytest.mark.parametrize(
    ("read", "shape"),
    [
        *((frames, shape) for shape in [(4096, 200), (199, 4096), (2, 200, 4096), (200 * 4096,)]),
        *((poster_vector, shape) for shape in [(4095,), (4096, 1), (2, 4096), ()]),
        *((log_mel, shape) for shape in [(70, 96), (96,), (96, 0), (1, 96, 70)]),
        *((melgram, shape) for shape in [(1, 3, 96, 5), (3, 128, 5), (2, 3, 128, 5), (1, 0, 128, 5), (1, 3, 128, 0)]),
    ],
)
def test_any_other_shape_is_a_bad_array(tmp_path, read, shape):
    with pytest.raises(BadContent, match=r"shape .* expected") as error:
        read(shaped(tmp_path, shape))
    assert error.value.kind == "bad_array"


@pytest.mark.parametrize(("clips", "joined"), [(1, 1), (3, 3), (4, 4), (6, 4)])
def test_the_first_four_clips_are_joined_in_time(tmp_path, clips, joined):
    clip = np.random.default_rng(2).normal(size=(1, clips, 128, 5)).astype(np.float32)
    np.save(tmp_path / "3015.npy", clip)
    array = melgram(tmp_path / "3015.npy")
    assert np.array_equal(array, np.concatenate([clip[0, n] for n in range(joined)], axis=1))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int16", "uint8", ">f4"])
def test_numbers_of_any_kind_become_float32(tmp_path, dtype):
    array = log_mel(shaped(tmp_path, (96, 2), dtype))
    assert array.dtype == np.float32
    assert array[1].tolist() == [2.0, 3.0]


@pytest.mark.parametrize("dtype", ["complex64", "U3", "bool"])
def test_an_array_without_numbers_is_a_bad_array(tmp_path, dtype):
    with pytest.raises(BadContent, match="expected numbers"):
        log_mel(shaped(tmp_path, (96, 2), dtype))


@pytest.mark.parametrize("odd", [np.nan, np.inf, 1e300])
def test_a_number_beyond_float32_is_a_bad_array(tmp_path, odd):
    array = np.zeros((96, 3))
    array[5, 1] = odd
    np.save(tmp_path / "3015.npy", array)
    with pytest.raises(BadContent, match="1 of 288 numbers are not finite"):
        log_mel(tmp_path / "3015.npy")


def ids(folder: Path, data: bytes) -> dict[str, int]:
    (folder / "train_ids.pickle").write_bytes(data)
    return read_ids(folder / "train_ids.pickle")


def test_ids_may_be_numbers_text_or_bytes(tmp_path):
    assert ids(tmp_path, pickle.dumps({3015: 0, "3016": np.int64(1), b"3017": 2})) == {"3015": 0, "3016": 1, "3017": 2}
    assert ids(tmp_path, python2_ids({"3015": 7})) == {"3015": 7}


@pytest.mark.parametrize("content", [[1, 2], {"3015": "0"}, {"3015": True}, {"3015": 1.0}, {3015: 0, "3015": 1}])
def test_ids_without_one_row_each_are_bad(tmp_path, content):
    with pytest.raises(BadContent) as error:
        ids(tmp_path, pickle.dumps(content))
    assert error.value.kind == "bad_array"
