"""The closing lines of a sweep: verdict, movies, the best setting's command, and one command for more seeds."""

from __future__ import annotations

import shlex
from itertools import product
from typing import Any

import pytest

from gmu_lightning.files import write_json
from gmu_lightning.report.closing import closing, missing_seeds, movies_used
from gmu_lightning.report.comparison import compare
from gmu_lightning.report.reproduce import add_seeds
from gmu_lightning.report.sentences import summary
from gmu_lightning.report.settings import settings_of
from gmu_lightning.run import runs_under

ABSENT = (("fusion=mean", "modalities=text"), ("fusion=none", "modalities=text+image"))


def commands(sweep: Any, skipped: Any = ()) -> list[set[str]]:
    """Return the words of each command that adds seed 4 to every setting."""
    settings = settings_of(runs_under(sweep.folder))
    return [set(shlex.split(line)) for line in add_seeds(settings, [4], skipped).split(" && ")]


def jobs(words: set[str]) -> set[tuple[str, ...]]:
    """Return the (fusion, modalities) that a command trains."""
    values = {word.partition("=")[0]: word.partition("=")[2].split(",") for word in words}
    return set(product(values["fusion"], values["modalities"]))


def test_settings_of_a_cross_product_share_a_command(sweep):
    for fusion, modalities in product(("mean", "concat"), ("text+image", "image+text")):
        sweep.run(fusion, modalities=modalities)
    (words,) = commands(sweep)
    assert jobs(words) == set(product(("mean", "concat"), ("text+image", "image+text")))
    assert "seed=4" in words


def test_skipped_jobs_complete_a_cross_product(sweep):
    sweep.run("mean")
    sweep.run("none", modalities="text")
    assert [jobs(words) for words in commands(sweep)] == [{("mean", "text+image")}, {("none", "text")}]
    assert len(commands(sweep, [frozenset(pair) for pair in ABSENT])) == 1


def test_a_relative_folder_becomes_absolute_in_one_command(sweep):
    for fusion in ("mean", "concat"):
        sweep.run(fusion, typed=["data.root=movies"], data={"root": "/data/movies"})
    (words,) = commands(sweep)
    assert "data.root=/data/movies" in words


def test_skipped_jobs_match_as_they_were_typed(sweep):
    sweep.run("mean", typed=["data.root=movies"])
    sweep.run("none", modalities="text", typed=["data.root=movies"])
    skipped = [frozenset((*pair, "data.root=movies")) for pair in ABSENT]
    assert len(commands(sweep, skipped)) == 1


def test_settings_with_other_keys_have_their_own_command(sweep):
    sweep.run("mean")
    sweep.run("concat", typed=["fusion.head=maxout"], options={"head": "maxout"})
    first, second = commands(sweep)
    assert "fusion.head=maxout" in (first ^ second)


def test_paths_are_never_joined_by_a_comma(sweep):
    for name in ("a", "b"):
        sweep.run("mean", typed=[f"encoder.text.weights=/{name}"], encoder={"text": {"weights": f"/{name}"}})
    found = {word for words in commands(sweep) for word in words if "weights" in word}
    assert found == {"encoder.text.weights=/a", "encoder.text.weights=/b"}


def test_fewer_than_three_seeds_are_completed_first(sweep):
    sweep.run("mean", 1)
    sweep.run("mean", 2)
    sweep.run("concat", 2)
    seeds, why = missing_seeds(compare(runs_under(sweep.folder)))
    assert seeds == [1, 3]
    assert why == "Add the seeds that are missing: 3 of each setting are the least"


def test_decided_pairs_still_get_a_command(sweep):
    sweep.three_seeds("mean", skill=0.2)
    sweep.three_seeds("concat", skill=3.0)
    comparison = compare(runs_under(sweep.folder))
    assert comparison.pairs[0].claimed
    assert missing_seeds(comparison) == ([4, 5], "Add seeds to this sweep")


def test_the_seed_of_a_search_is_not_added(sweep):
    sweep.three_seeds("mean", skill=0.2)
    search = {"trials": 1, "space": {"lr": {"low": 0.1, "high": 1}}, "seed": 4, "monitor": "x", "settings": []}
    write_json(sweep.folder / "search/search.json", search)
    assert missing_seeds(compare(runs_under(sweep.folder)))[0] == [5, 6]


def test_open_pairs_set_the_number_of_seeds(sweep, monkeypatch):
    sweep.three_seeds("mean")
    sweep.three_seeds("concat", skill=1.02)
    comparison = compare(runs_under(sweep.folder))
    (pair,) = comparison.pairs
    for needed, seeds in ((6, [4, 5, 6]), (21, [4, 5]), (None, [4, 5])):
        monkeypatch.setitem(pair.__dict__, "needed", needed)
        assert missing_seeds(comparison)[0] == seeds
    monkeypatch.setitem(pair.__dict__, "needed", 5)
    assert missing_seeds(comparison)[1] == "Add seeds to see 1 of 1 difference that cannot be claimed yet"


def test_closing_holds_verdict_and_both_commands(sweep):
    for fusion in ("mean", "concat"):
        sweep.three_seeds(fusion, skill=0.5 + len(fusion) / 10)
    comparison = compare(runs_under(sweep.folder))
    lines = closing(comparison)
    assert f"Verdict: {summary(comparison)}" in " ".join(lines)
    assert max(len(line) for line in lines if not line.startswith("  ")) < 80
    rerun, more = (shlex.split(line) for line in lines if line.startswith("  "))
    assert {f"fusion={comparison.settings[0].fusion}", "seed=1,2,3"} <= set(rerun)
    assert "seed=4,5" in more or "-m" in more


@pytest.mark.parametrize(
    ("problems", "words"),
    [
        ([], "2,400 used (1,600 train, 400 val, 400 test), none lost."),
        (
            [("a", "removed"), ("a", "removed"), ("b", "kept")],
            "2,400 used (1,600 train, 400 val, 400 test), 1 lost: audit.json in each run names them.",
        ),
    ],
)
def test_movies_used_and_lost_are_counted(sweep, problems, words):
    run = sweep.run("mean")
    found = [
        {"id": movie, "file": "", "split": "train", "kind": "bad_array", "action": action, "detail": ""}
        for movie, action in problems
    ]
    write_json(run / "audit.json", audit(1600) | {"problems": found})
    assert movies_used([run]) == words


def test_unequal_movies_are_a_range(sweep):
    runs = [sweep.run("mean"), sweep.run("concat")]
    for run, train in zip(runs, (1590, 1600), strict=True):
        write_json(run / "audit.json", audit(train))
    assert movies_used(runs) == "2,390 to 2,400 used, none lost."


def audit(train: int) -> dict[str, Any]:
    return {
        "layout": "raw",
        "movies": {"train": train, "val": 400, "test": 400},
        "genres": {split: {} for split in ("train", "val", "test")},
        "problems": [],
        "counts": {},
    }
