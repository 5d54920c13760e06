"""A hundred malformed tables: each ends in one sentence with file, place and cure, or loads with the fault in its audit."""

# ruff: noqa: E501  # a case is read in one line

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from gmu_lightning.data.files.dataset import Files
from gmu_lightning.data.store import Store
from gmu_lightning.movie import UserError

HEAD = "id,plot,genres,year"
WORDS = ("Drama", "Comedy", "War")
LINES = [f"m{n},Plot number {n},{WORDS[n % 3]}|{WORDS[(n + 1) % 3]},{1950 + n}" for n in range(30)]
GOOD = "\n".join([HEAD, *LINES, ""])
RECORDS = [dict(zip(HEAD.split(","), line.split(","), strict=True)) for line in LINES]
OBJECTS = "".join(json.dumps(record) + "\n" for record in RECORDS)
Case = tuple[str, str, bytes, str]  # words, name of the file, its bytes, sentence


def parquet(frame: pd.DataFrame) -> bytes:
    file = io.BytesIO()
    frame.to_parquet(file)
    return file.getvalue()


def with_line(text: str, at: int = 5) -> bytes:
    """Return the good table with another line in place of line `at` (line 1 is the header)."""
    lines = GOOD.split("\n")
    lines[at - 1] = text
    return "\n".join(lines).encode()


def with_head(head: str) -> bytes:
    return "\n".join([head, *LINES, ""]).encode()


def texts(word: str) -> bytes:
    return GOOD.replace("number", word).encode()


def encodings() -> Iterator[Case]:
    words = {
        "cp1252": "café", "latin-1": "Müller", "cp1250": "žluťoučký", "cp1251": "привет мир кино", "koi8-r": "привет мир кино",
        "iso8859-7": "καλημέρα κόσμε", "cp1253": "καλημέρα κόσμε", "gbk": "电影情节很好看", "gb18030": "电影情节很好看",
        "big5": "電影情節很好看", "shift_jis": "映画のあらすじ", "euc-jp": "映画のあらすじ", "euc-kr": "영화 줄거리", "cp1256": "مرحبا",
        "cp437": "café", "mac-roman": "café",
    }  # fmt: skip
    for encoding, word in words.items():
        data = GOOD.replace("number", word).encode(encoding)
        yield (
            encoding,
            "movies.csv",
            data,
            r"movies\.csv:2 is not UTF-8 but probably [A-Z0-9_-]+: type `iconv -f [A-Z0-9_-]+ -t UTF-8",
        )
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"):
        name = "UTF-32" if encoding == "utf-32" else "UTF-16"
        yield encoding, "movies.csv", GOOD.encode(encoding), rf"movies\.csv:1 is not UTF-8 but probably {name}: type `iconv"
        yield (
            f"{encoding} lines",
            "m.jsonl",
            OBJECTS.encode(encoding),
            rf"m\.jsonl:1 is not UTF-8 but probably {name}: type `iconv",
        )
    yield "one bad byte", "movies.csv", GOOD.encode().replace(b"number 7", b"number \xff7"), r"movies\.csv:9 is not UTF-8"
    yield "latin jsonl", "m.jsonl", OBJECTS.replace("number", "caf\xe9").encode("latin-1"), r"m\.jsonl:1 is not UTF-8"
    yield "packed latin", "m.csv.gz", gzip.compress(texts("é").decode().encode("latin-1")), r"type `gunzip -c .* \| iconv -f"
    yield "marked", "movies.csv", GOOD.encode("utf-8-sig"), ""


def quotes() -> Iterator[Case]:
    yield "never closed", "movies.csv", with_line('m3,"Plot,Drama,1950'), r"movies\.csv:5 opens a quote .* never closed: close it"
    yield "never closed at the end", "movies.csv", (GOOD + 'x,"y').encode(), r"movies\.csv:32 opens a quote .* never closed"
    yield "text behind", "movies.csv", with_line('m3,"Plot" more,Drama,1950'), r"movies\.csv:5 has text behind a closing quote"
    yield "backslash", "movies.csv", with_line('m3,"a \\"b\\" c",Drama,1950'), r"movies\.csv:5 has text behind a closing quote"
    yield "quoted header", "movies.csv", with_head('id,"plot,genres,year'), r"movies\.csv:1 opens a quote|only id"
    yield "quote inside", "movies.csv", with_line('m3,a "b" c,Drama,1950'), ""
    yield "doubled", "movies.csv", with_line('m3,"a ""b"" c",Drama,1950'), ""
    yield "line break", "movies.csv", with_line('m3,"a\nb",Drama,1950'), ""


def ragged() -> Iterator[Case]:
    for words, line in {
        "short": "m3,Plot", "long": "m3,Plot,Drama,1950,x", "comma in text": "m3,Plot, with comma,Drama,1950", "one cell": "m3",
        "other separator": "m3;Plot;Drama;1950",
    }.items():  # fmt: skip
        yield words, "movies.csv", with_line(line), "broken_row"
    yield "all short", "movies.csv", "\n".join([HEAD, "a,b", "c,d"]).encode(), r"no row that can be read: line 2, it has 2 cells"
    yield "all long", "movies.csv", with_head("id,plot"), r"no row that can be read: line 2, it has 4 cells, the header 2: quote"
    yield "empty cells behind", "movies.csv", with_line("m3,Plot,Drama,1950,,,"), ""
    yield "blank lines", "movies.csv", GOOD.replace("\n", "\n\n").encode(), ""
    yield "carriage returns", "movies.csv", GOOD.replace("\n", "\r\n").encode(), ""
    yield "old carriage returns", "movies.csv", GOOD.replace("\n", "\r").encode(), ""
    yield "semicolons", "movies.csv", GOOD.replace(",", ";").encode(), ""
    yield "tabs", "movies.tsv", GOOD.replace(",", "\t").encode(), ""
    yield "commas in a tsv", "movies.tsv", GOOD.encode(), ""
    yield "huge cell", "movies.csv", with_line(f"m3,{'x' * 3_000_000},Drama,1950"), ""
    yield "huge number", "movies.csv", with_line(f"m3,x,Drama,{'9' * 5000}"), ""
    yield "zero bytes", "movies.csv", with_line("m3,a\0b,Drama,1950"), ""


def headers() -> Iterator[Case]:
    yield (
        "twice",
        "movies.csv",
        with_head("id,plot,plot,genres"),
        r"movies\.csv:1 has two columns named plot: give each its own name",
    )
    yield "twice but for blanks", "movies.csv", with_head("id,plot , plot,genres"), r"two columns named plot"
    yield "no header", "movies.csv", "\n".join(LINES).encode(), r"has no column for text .* name it"
    yield (
        "no text",
        "movies.csv",
        with_head("id,a,genres,year"),
        r"movies\.csv has no column for text .*as in data\.columns\.text=NAME",
    )
    yield (
        "no labels",
        "movies.csv",
        with_head("id,plot,a,year"),
        r"movies\.csv has no column of labels, only id, plot, a, year: name",
    )
    yield "header alone", "movies.csv", HEAD.encode(), r"movies\.csv has no row that can be read"
    yield "empty", "movies.csv", b"", r"movies\.csv is empty: expected a header"
    yield "blanks alone", "movies.csv", b"\n \n,,\n", r"movies\.csv is empty|has no row"
    yield "empty name", "movies.csv", with_head("id,plot,genres,"), ""
    yield "first without name", "movies.csv", with_head(",plot,genres,year"), ""


def formats() -> Iterator[Case]:
    for words, start in {
        "xlsx": b"PK\x03\x04",
        "xls": b"\xd0\xcf\x11\xe0",
        "parquet": b"PAR1",
        "page": b"<!DOCTYPE html>",
    }.items():
        yield f"{words} as csv", "movies.csv", start + b"x" * 100, r"movies\.csv is no CSV file \(it is .*\): give a \.csv, \.tsv"
    yield "pointer", "movies.csv", b"version https://git-lfs.github.com/spec/v1\noid x\n", r"Git LFS pointer"
    yield (
        "packed without suffix",
        "movies.csv",
        gzip.compress(GOOD.encode()),
        r"movies\.csv is no CSV file \(it is packed by gzip",
    )
    yield "plain with gz", "movies.csv.gz", GOOD.encode(), r"movies\.csv\.gz is not packed by gzip"
    yield (
        "cut gz",
        "movies.csv.gz",
        gzip.compress(GOOD.encode())[:-30],
        r"movies\.csv\.gz ends too early: copy or download it again",
    )
    yield "other suffix", "movies.xlsx", b"PK\x03\x04", r"movies\.xlsx is no table that is read here: give a \.csv"
    yield "no suffix", "movies", GOOD.encode(), r"movies is no table that is read here"
    yield "csv as parquet", "m.parquet", GOOD.encode(), r"m\.parquet cannot be read as Parquet .*: write it again"
    yield "cut parquet", "m.parquet", parquet(pd.DataFrame(RECORDS))[:-200], r"m\.parquet cannot be read as Parquet"
    yield "flipped parquet", "m.parquet", b"PAR1" + b"\xff" * 500 + b"PAR1", r"m\.parquet cannot be read as Parquet"
    yield "empty parquet", "m.parquet", b"", r"m\.parquet cannot be read as Parquet \(it is empty\)"
    yield "parquet without rows", "m.parquet", parquet(pd.DataFrame({"id": [], "plot": [], "genres": []})), r"has no row"
    yield "binary", "movies.csv", bytes(range(256)) * 4, r"movies\.csv:\d+ is not UTF-8"


def objects() -> Iterator[Case]:
    def with_object(line: str) -> bytes:
        lines = OBJECTS.split("\n")
        lines[4] = line
        return "\n".join(lines).encode()

    for words, line in {
        "no JSON": "{plot: x}", "cut": '{"id": "x", "plot', "list": "[1, 2]", "number": "3", "null": "null", "text": '"x"',
        "Python": "{'id': 'x'}", "deep": '{"a": ' + "[" * 100_000,
    }.items():  # fmt: skip
        yield f"{words} on a line", "m.jsonl", with_object(line), "broken_row"
    yield (
        "no object at all",
        "m.jsonl",
        b"[1]\n[2]\n",
        r"m\.jsonl holds no record \(line 1 is a list and no object\): expected an object",
    )
    yield "empty lines", "m.jsonl", b"\n\n", r"m\.jsonl holds no record \(it is empty\)"
    yield "array of numbers", "m.json", b"[1, 2]", r"m\.json holds no object: expected an array of objects"
    yield "broken array", "m.json", b'[{"id": 1}', r"m\.json is not JSON"
    yield "array as lines", "m.json", json.dumps(RECORDS).encode(), ""
    yield "labels are a number", "m.jsonl", with_object('{"id": "x", "plot": "p", "genres": [1, 2]}'), "broken_row"
    yield "labels are an object", "m.jsonl", with_object('{"id": "x", "plot": "p", "genres": {"a": 1}}'), "broken_row"
    yield "id is a list", "m.jsonl", with_object('{"id": ["x"], "plot": "p", "genres": "Drama"}'), "broken_row"
    yield "text is an object", "m.jsonl", with_object('{"id": "x", "plot": {"a": 1}, "genres": "Drama|War"}'), "missing_plot"


def contents() -> Iterator[Case]:
    yield "same id", "movies.csv", with_line("m0,again,Drama,1950"), "duplicate_id"
    yield "no id", "movies.csv", with_line(",x,Drama,1950"), "broken_row"
    yield (
        "all ids equal",
        "movies.csv",
        GOOD.replace("\nm", "\nsame").replace("same", "x,").encode(),
        r"no row that can be read|header",
    )
    yield "no text in a row", "movies.csv", with_line("m3,,Drama|War,1950"), "missing_plot"
    yield "no label in a row", "movies.csv", with_line("m3,x,,1950"), "no_genre"
    yield (
        "no label at all",
        "movies.csv",
        "\n".join([HEAD, *(f"m{n},x {n},,1" for n in range(30))]).encode(),
        r"no movie of train has a genre",
    )
    yield (
        "a label for each",
        "movies.csv",
        "\n".join([HEAD, *(f"m{n},x {n},L{n},1" for n in range(30))]).encode(),
        r"30 different labels",
    )
    yield "two separators", "movies.csv", with_line('m3,x,"Drama;War",1950'), r"separated by `\|` .* or by `;` .*: choose one"
    yield "two rows", "movies.csv", "\n".join([HEAD, *LINES[:2]]).encode(), r"no movie|lists no movie|val"
    yield "invisible text", "movies.csv", with_line("m3,\u200b\u2060,Drama|War,1950"), "missing_plot"
    yield (
        "split unknown",
        "movies.csv",
        GOOD.replace(",year", ",split").encode(),
        r"movies\.csv:2 has split=1950, expected train, val",
    )


CASES = [case for group in (encodings, quotes, ragged, headers, formats, objects, contents) for case in group()]


def test_there_are_at_least_a_hundred():
    assert len(CASES) >= 100


@pytest.mark.parametrize(("name", "data", "sentence"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_malformed_table_ends_in_a_sentence_or_in_the_audit(tmp_path, name, data, sentence):
    path = tmp_path / name
    path.write_bytes(data)
    if sentence == "" or sentence.replace("_", "").isalpha():
        table = Files(str(path)).load(("text",), Store(tmp_path / "store"))
        kinds = {problem.kind: problem for problem in table.audit.problems if problem.kind != "shared_plot"}
        assert set(kinds) == ({sentence} if sentence else set())
        if sentence:
            assert kinds[sentence].file.startswith(f"{name}:")
            assert kinds[sentence].detail
        return
    with pytest.raises(UserError, match=sentence) as raised:
        Files(str(path)).load(("text",), Store(tmp_path / "store"))
    text = str(raised.value)
    assert str(Path(path)) in text or name in text
    assert "\n" not in text
