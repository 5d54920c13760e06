"""Sentences keep their places in any text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmu_lightning.explanation.sentences import sentences
from gmu_lightning.explanation.words import words_of

CASES = {
    "A boy runs. A dog barks! Why?": ["A boy runs. ", "A dog barks! ", "Why?"],
    "Mr. Smith met J. R. Jones at 5 p.m. sharp. He left.": ["Mr. Smith met J. R. Jones at 5 p.m. sharp. ", "He left."],
    '"Run!" he cried. "Why?" She smiled.': ['"Run!" he cried. ', '"Why?" ', "She smiled."],
    "Wait... what? It was I. She left.": ["Wait... what? ", "It was I. ", "She left."],
    "One line\nand its rest.\n\nAnother part\n": ["One line\nand its rest.\n\n", "Another part\n"],
    "Zwei 😀 Sätze. Né à Paris 🎬! Ende": ["Zwei 😀 Sätze. ", "Né à Paris 🎬! ", "Ende"],
    "你好。再见！": ["你好。", "再见！"],
    "no end": ["no end"],
    " \n\t": [],
    "": [],
}


@pytest.mark.parametrize("text", CASES)
def test_text_is_split_into_its_sentences(text):
    assert [text[start:end] for start, end in sentences(text)] == CASES[text]


@given(st.text(alphabet="aB. !?\"\n…。😀'’IMr", max_size=80))
def test_sentences_joined_are_the_text(text):
    found = sentences(text)
    assert "".join(text[start:end] for start, end in found) == (text if text.strip() else "")
    assert all(text[start:end].strip() for start, end in found)


@pytest.mark.parametrize(
    "text", ["Don't stop, the CAFÉ is cafe\u0301 style!", "🎬 İstanbul'da ÇOK", "Ὀδυσσεύς ΟΔΟΣ", "हिन्दी में"], ids=range(4)
)
def test_words_keep_their_places_in_the_text(text):
    words = words_of(text)
    assert words
    assert [text[word.start : word.end] for word in words] == [word.word for word in words]
    assert all(word.word.strip() == word.word for word in words)
