"""What strangers wrote is shown, and never acts on a terminal."""

from __future__ import annotations

import io
import sys

import pytest

from gmu_lightning.movie import Senseless, UserError
from gmu_lightning.visible import VisibleStream, drawable, guarded_streams, plain_streams, visible


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
def test_control_characters_are_shown(text, shown):
    assert visible(text) == shown


@pytest.mark.parametrize("kind", [UserError, Senseless])
def test_an_error_s_sentence_is_visible(kind):
    assert str(kind("genre \x1b[2J")) == r"genre \x1b[2J"


def test_a_dollar_begins_no_formula():
    assert drawable("$\\frac$\x1b") == "\\$\\frac\\$\\x1b"


def test_streams_are_guarded_inside_only(capsys):
    before = sys.stdout
    with guarded_streams():
        print("\x1b[31m")
        print("\x1b[32m", file=sys.stderr)
        with plain_streams():
            assert sys.stdout is before
    assert sys.stdout is before
    assert capsys.readouterr() == ("\\x1b[31m\n", "\\x1b[32m\n")


def test_a_stream_of_few_letters_shows_the_others():
    raw = io.BytesIO()
    stream = VisibleStream(io.TextIOWrapper(raw, "ascii"))
    stream.write("0.5 ± 0.1")
    stream.flush()
    assert raw.getvalue() == rb"0.5 \xb1 0.1"


def test_rich_draws_on_the_stream_itself():
    from rich.console import Console

    raw = io.StringIO()
    Console(file=VisibleStream(raw), force_terminal=True, color_system="standard").print("[red]red")
    assert "\x1b[31m" in raw.getvalue()
