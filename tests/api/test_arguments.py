"""Values of Python arrive in Hydra as they are, whatever characters they hold, alone and as values of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hypothesis import given, settings
from hypothesis import strategies as st

from gmu_lightning.api.arguments import arguments_of, check_arguments
from gmu_lightning.cli.command_line import escaped
from gmu_lightning.movie import UserError
from tests.cli.test_command_line import AWKWARD

PARSER = OverridesParser.create()
TEXTS = [
    *AWKWARD,
    *("", "null", "NULL", "???", "true", "False", "inf", "-inf", "NaN", "1", "-1", "1e3", "1_000", "0x10", ".5", "5.", "None"),
    *(
        "a=b",
        "=",
        ",",
        ":",
        "|",
        ";",
        "[]",
        "{}",
        "()",
        "a\nb",
        "\n",
        "a\tb",
        "\\n",
        "\\,",
        "'\\''",
        '"',
        "''",
        "'a",
        "a'",
        "\\'\\",
    ),
    *(
        "A boy, a dog and the sea.",
        'He said "go", then (quietly) left = gone',
        "{0}",
        "%s",
        "@x",
        "a@b:c",
        "plot #1",
        "日本語 テキスト",
    ),
    *("a\u2028b", "emoji 🎬", "x" * 250, "fusion=mean", "-m", "--help", "gmu_original", "text+image", "400/100/100", "a b"),
]
NUMBERS = [0, -3, 10**12, 0.1, 1e-05, 1e22, -2.5e-300, True, False, None]


def parsed(key: str, value: Any, swept: bool = False) -> Override:
    """Return what Hydra reads of an option, after the command's own escaping."""
    (argument,) = arguments_of({key: value}, swept)
    return PARSER.parse_override(escaped(argument))


def tried(values: Sequence[Any]) -> list[Any]:
    """Return the values of a sweep's jobs, each read from the override that Hydra writes for its job."""
    override = parsed("fusion.words", values, swept=True)
    if not override.is_sweep_override():
        return [override.value()]
    words = override.sweep_string_iterator()
    return [PARSER.parse_override(f"fusion.words={word}").value() for word in words]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("key", ["fusion.words", "data.root", "hydra.run.dir", "encoder.text.name", "+new.key"])
def test_a_text_arrives_unchanged(key, text):
    override = parsed(key, text)
    assert not override.is_sweep_override()
    assert (type(override.value()), override.value()) == (str, text)


@settings(deadline=None, derandomize=True, database=None, max_examples=400)
@given(st.text(alphabet=" ab1.e\\'\"=,()[]{}:~é$%#\n\t-+/@|nulNUL?*"))
def test_any_text_arrives_unchanged(text):
    value = parsed("fusion.words", text).value()
    assert (type(value), value) == (str, text)


@settings(deadline=None, derandomize=True, database=None, max_examples=400)
@given(st.lists(st.text(alphabet=" ab1\\'\"=,()[]:~é$%\n"), min_size=1, max_size=4))
def test_any_texts_are_swept_unchanged(texts):
    assert tried(texts) == texts


@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_arrives_with_its_type(number):
    value = parsed("fusion.words", number).value()
    assert (type(value), value) == (type(number), number)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float64(0.25), 0.25),
        (np.int32(7), 7),
        (np.bool_(True), True),
        (np.array([1, 2]), [1, 2]),
        (pd.Series(["a", "b c"]), ["a", "b c"]),
        (Path("a b/c"), "a b/c"),
        ((1, 2), [1, 2]),
        (range(2), [0, 1]),
        ([], []),
        ([["a,b", None], [True, 0.5]], [["a,b", None], [True, 0.5]]),
        ([{"a": "x: y", "b-c": 1}], [{"a": "x: y", "b-c": 1}]),
        ({}, {}),
    ],
    ids=str,
)
def test_values_of_other_libraries_and_lists_arrive(value, expected):
    def plain(found: Any) -> Any:
        if isinstance(found, QuotedString):
            return found.text
        if isinstance(found, dict):
            return {str(key): plain(one) for key, one in found.items()}
        return [plain(one) for one in found] if isinstance(found, list) else found

    assert plain(parsed("fusion.words", value)._value) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["concat", "a,b", None, 0.5], ["concat", "a,b", None, 0.5]),
        (range(1, 4), [1, 2, 3]),
        (np.linspace(0, 1, 3), [0.0, 0.5, 1.0]),
        (("only",), ["only"]),
        ([["csv", "wandb"]], [["csv", "wandb"]]),
    ],
)
def test_lists_ranges_and_arrays_are_swept(values, expected):
    assert tried(values) == expected


def test_mappings_hold_keys_and_choices():
    options = {
        "fusion": "mean",
        "encoder": {"text": "minilm", "image": {"freeze": "none"}},
        "encoder/audio": {"dropout": 0.5},
        "trainer": {"max_epochs": 3},
        "hydra": {"launcher": "processes", "sweeper": {"max_batch_size": 2}},
        "trainer.threads": 1,
        "experiment": None,
    }
    assert arguments_of(options) == [
        *("fusion=mean", "encoder/text=minilm", "encoder.image.freeze=none", "encoder.audio.dropout=0.5"),
        *("trainer.max_epochs=3", "hydra/launcher=processes", "hydra.sweeper.max_batch_size=2"),
        *("trainer.threads=1", "experiment=null"),
    ]


def test_a_path_is_typed_as_in_a_shell():
    assert arguments_of({"data.root": "my movies, 2"}) == ["data.root=my movies, 2"]
    assert arguments_of({"data": {"root": Path("~/movies")}}) == ["data.root=~/movies"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"seed": {1, 2}}, "seed is a set: give text, a number, a path, True, False, None, or a list of them"),
        ({"fusion": []}, "fusion=[] gives no value to try: give at least one, or leave fusion out"),
        ({"data.root": ["a", "b"]}, "data.root takes one path, and not ['a', 'b']: give one, and train once for each path"),
        ({"--help": True}, "--help is no key of an option: give one like fusion, trainer.max_epochs or encoder/text"),
        ({"fusion=mean seed": 1}, "fusion=mean seed is no key of an option: give one like"),
        ({"data.columns": [{"a b": 1}]}, "data.columns is a dict: give text"),
    ],
)
def test_what_cannot_be_typed_is_refused(options, reason):
    with pytest.raises(UserError) as refused:
        arguments_of(options, swept=True)
    assert str(refused.value).startswith(reason)


@pytest.mark.parametrize("text", ["a\0b", "a\udcffb", "\ud800"])
def test_bytes_that_no_argument_holds_are_refused(text):
    with pytest.raises(UserError, match=r"zero byte|not UTF-8"):
        check_arguments(arguments_of({"data.root": text}))
