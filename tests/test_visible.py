"""Control characters in foreign text are shown as escapes, so that they cannot act on a terminal."""

from __future__ import annotations

import io
import sys

import pytest

from gmu_lightning.movie import IncompatibleChoices, UserError
from gmu_lightning.visible import VisibleStream, drawable, first_line, guarded_streams, plain_streams, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\rb\x00\x07", r"a\rb\x00\x07"),
        ("\x9b2J", r"\x9b2J"),
        ("\u202egnp\u2066", r"\u202egnp\u2066"),
        ("half \udc80", r"half \udc80"),
        ("two\nlines\tof Ärger, हिन्दी, 日本", "two\nlines\tof Ärger, हिन्दी, 日本"),
    ],
)
def test_control_characters_become_escapes(text, shown):
    assert visible(text) == shown


@pytest.mark.parametrize(
    ("error", "line"), [(ValueError("bad\nmore"), "bad"), (ValueError("\n bad"), "bad"), (KeyError(), "KeyError")]
)
def test_an_error_is_quoted_by_its_first_line_or_its_class(error, line):
    assert first_line(error) == line


@pytest.mark.parametrize("kind", [UserError, IncompatibleChoices])
def test_error_sentences_have_visible_characters(kind):
    assert str(kind("genre \x1b[2J")) == r"genre \x1b[2J"


def test_dollar_signs_are_escaped_for_matplotlib():
    assert drawable("$\\frac$\x1b") == "\\$\\frac\\$\\x1b"


def test_streams_are_guarded_only_inside_the_context(capsys):
    before = sys.stdout
    with guarded_streams():
        print("\x1b[31m")
        print("\x1b[32m", file=sys.stderr)
        with plain_streams():
            assert sys.stdout is before
    assert sys.stdout is before
    assert capsys.readouterr() == ("\\x1b[31m\n", "\\x1b[32m\n")


def test_ascii_stream_shows_other_characters_as_escapes():
    raw = io.BytesIO()
    stream = VisibleStream(io.TextIOWrapper(raw, "ascii"))
    stream.write("0.5 ± 0.1")
    stream.flush()
    assert raw.getvalue() == rb"0.5 \xb1 0.1"


def test_rich_colours_pass_a_visible_stream():
    from rich.console import Console

    raw = io.StringIO()
    Console(file=VisibleStream(raw), force_terminal=True, color_system="standard").print("[red]red")
    assert "\x1b[31m" in raw.getvalue()
