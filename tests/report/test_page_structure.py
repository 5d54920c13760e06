"""The page's structure suits keyboards and screen readers: headings, captions, labels, and targets of links."""

from __future__ import annotations

import re
from base64 import b64encode
from collections import Counter
from hashlib import sha256
from itertools import pairwise

import pytest

from gmu_lightning.report.checklist.items import checklist
from gmu_lightning.report.comparison import Comparison, compare
from gmu_lightning.report.page.gates import movement_sentence
from gmu_lightning.report.page.movies import ExampleMovie, ExampleMovies, chosen_movies
from gmu_lightning.report.page.pairs import pair_matrix
from gmu_lightning.report.page.write import page
from gmu_lightning.report.sentences import pair_sentence
from gmu_lightning.run import Run, runs_under

from .made_runs import write_diagnosis
from .page_reader import Tables


@pytest.fixture
def text(compared) -> str:
    """Return a page with every kind of section but the search: gates, diagnoses, losses, movies, a failed and a skipped job."""
    compared.run("sum", 1).end("failed", "the disk is full")
    compared.run("max", 1).end("skipped", "fusion=max takes at least 2 modalities")
    runs = runs_under(compared.folder)
    write_diagnosis(next(run for run in runs if run.folder.name.startswith("gmu_original")))
    found = compare(runs)
    movies = ExampleMovies({movie: ExampleMovie("A plot.", None) for movie in chosen_movies(found)})
    return page(found, runs, movies, checklist(found, compared.folder))


def test_the_policy_allows_this_script_and_loads_nothing(text):
    tags = Tables(text).tags
    (policy,) = (attributes["content"] for tag, attributes in tags if tag == "meta" and "http-equiv" in attributes)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    own = b64encode(sha256(script.encode()).digest()).decode()
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert (rules["script-src"], rules["img-src"]) == (f"'sha256-{own}'", "data:")
    assert text.index("http-equiv") < text.index("<style") and not [a for _, names in tags for a in names if a.startswith("on")]


def test_headings_never_skip_a_level(text):
    levels = [int(level) for level in re.findall(r"<h(\d)", text)]
    assert levels[:2] == [1, 2]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_ids_are_unique_and_links_have_targets(text):
    tags = Tables(text).tags
    ids = Counter(attributes["id"] for _, attributes in tags if "id" in attributes)
    assert set(ids.values()) == {1}
    links = [attributes["href"] for tag, attributes in tags if tag == "a"]
    assert links[0] == "#summary"  # the skip link
    assert {link.removeprefix("#") for link in links} <= set(ids)


def test_tables_have_captions_and_scopes(text):
    tables = re.findall(r"<table.*?</table>", text, re.DOTALL)
    assert len(tables) > 10
    for table in tables:
        assert re.search(r"<caption[^>]*>.+?</caption>", table)
        assert all("scope=" in head for head in re.findall(r"<th\b[^>]*>", table))


def test_controls_and_scrolling_regions_have_names(text):
    for tag, attributes in Tables(text).tags:
        if attributes.get("role") == "group":
            assert attributes["aria-label"]
        if tag == "nav":
            assert attributes["aria-label"]
    assert all(re.search(r"<(select|input)", label) for label in re.findall(r"<label>.*?</label>", text))
    assert len(re.findall("<label>", text)) == len(re.findall(r"<(?:select|input)\b", text))
    named = re.findall(r'class="copy"[^>]*><span>Copy</span><span class="unseen"> (.*?)</span>', text)
    assert len(named) == len(re.findall(r'class="copy"', text))


def test_sections_are_listed_in_the_contents(text):
    sections = re.findall(r'<section id="(\w+)"><h2>(.*?)</h2>', text)
    assert re.findall(r'<li><a href="#(\w+)">(.*?)</a></li>', text) == sections
    assert [name for _, name in sections[:3]] == ["Summary", "Leaderboard", "Pairwise differences"]


def test_best_setting_s_command_is_in_the_summary(text):
    summary = text[text.index('id="summary"') : text.index('id="leaderboard"')]
    assert "fusion=gmu_original modalities=text+image seed=1,2,3</code>" in summary


def compared_pairs(runs: list[Run], **options: str) -> tuple[Comparison, dict]:
    found = compare(runs, **options)
    return found, pair_matrix(found)


def test_matrix_has_each_pair_once_with_its_claim(runs):
    found, matrix = compared_pairs(runs)
    cells = [cell for row in matrix["rows"] for cell in row["cells"] if cell]
    assert sorted(cell["pair"] for cell in cells) == list(range(len(found.pairs)))
    for row in matrix["rows"]:
        for column, cell in zip(matrix["columns"], row["cells"], strict=True):
            if cell:
                pair = found.pairs[cell["pair"]]
                mean, low, high = (f"{100 * value:.1f}".replace("-", "−") for value in pair.difference.interval)
                assert (row["name"], column) == (pair.a.name, pair.b.name)
                assert (cell["difference"], cell["ends"]) == (f"+{mean}", f"[{low}, {high}]")
                assert cell["kind"] == ("above" if pair.claimed else "open")


def test_matrix_against_a_setting_has_one_column(runs):
    found, matrix = compared_pairs(runs, against="concat")
    assert matrix["columns"] == [found.against] == ["concat text+image"]
    assert [(row["name"], row["cells"][0]["difference"][0]) for row in matrix["rows"]] == [
        ("gmu_original text+image", "+"),
        ("none text", "−"),
    ]


def test_cells_lead_to_their_sentences(runs):
    found = compare(runs)
    text = page(found, runs, ExampleMovies())
    for n, pair in enumerate(found.pairs):
        assert f'<a href="#pair-{n}">' in text
        words = re.search(rf'<li id="pair-{n}".*?<span class="words">(.*?)</span>', text)
        assert words[1] == f"{pair_sentence(pair)}.".replace("<", "&lt;")


def test_settings_with_few_seeds_have_their_commands(sweep):
    sweep.run("concat", 1)
    sweep.three_seeds("mean")
    runs = runs_under(sweep.folder)
    text = page(compare(runs), runs, ExampleMovies())
    heading = text.index("Commands for the missing seeds")
    block = text[heading : text.index("</code>", heading)]
    assert re.findall(r"fusion=(\w+) .*seed=([\d,]+)", block) == [("concat", "2,3")]
    assert 'class="few"' in text


def test_gates_are_said_to_move_by_their_deviation():
    assert movement_sentence({"a": 0.284, "b": 0.035}) == (
        "The mean gates of a (sd .284) change from movie to movie. The mean gates of b (sd .035) hardly change between movies."
    )
    many = {f"setting {n}": 0.1 * n for n in range(1, 5)}
    assert movement_sentence(many) == "The mean gates of 4 settings change from movie to movie (sd .100 to .400)."
    assert movement_sentence({}) == ""
