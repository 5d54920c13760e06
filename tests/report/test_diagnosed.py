"""Diagnoses in comparison.json, in comparison.md and on the page: numbers, sentences, commands, and files that are damaged."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from gmu_lightning.report.comparison import compare
from gmu_lightning.report.diagnosed import diagnoses_of
from gmu_lightning.report.diagnosis import of_setting
from gmu_lightning.report.page.movies import ExampleMovies
from gmu_lightning.report.page.write import page
from gmu_lightning.report.scoring import ScoredSetting
from gmu_lightning.report.sentences import as_json, markdown
from gmu_lightning.report.settings import settings_of
from gmu_lightning.run import Run

from .made_runs import GENRES, write_diagnosis
from .page_reader import Tables, charts


@pytest.fixture
def diagnosed(sweep) -> list[Run]:
    """Return a gated setting whose three runs are diagnosed, another fusion without diagnoses, and a modality alone."""
    runs = [*sweep.rivals(), *sweep.three_seeds("none", 0.4, modalities="text")]
    for run in runs[:3]:
        write_diagnosis(run)
    return runs


def section(text: str) -> str:
    """Return the page's section on diagnoses."""
    return text[text.index('<section id="diagnoses">') :].partition("</section>")[0]


def test_comparison_json_holds_the_combined_diagnoses(diagnosed):
    (row,) = as_json(compare(diagnosed))["diagnoses"]
    expected = of_setting(diagnosed[:3])
    assert expected is not None
    assert (row["name"], row["runs"], row["movies"], row["over_seeds"]) == ("gmu_original text+image", 3, 80, True)
    assert row["costs"]["gates_permuted/f1_micro"] == expected.costs["gates_permuted/f1_micro"]._asdict()
    assert row["measures"]["shapley/image/ap_micro"]["mean"] == pytest.approx(0.4, abs=0.01)
    assert row["information_bits"]["Drama"]["unique"] == pytest.approx({"text": 0.0, "image": 0.2})


def test_sentences_and_their_basis_stand_in_comparison_md(diagnosed):
    found = compare(diagnosed)
    (row,) = as_json(found)["diagnoses"]
    text = markdown(found)
    assert row["sentences"][0].startswith("gmu_original text+image: permuting the gates among movies costs ")
    part = text[text.index("## Diagnoses") :]
    assert all(f"- {sentence}." in part for sentence in row["sentences"])
    assert "intervals over 80 test movies and 3 seeds" in part
    assert "## Diagnoses" not in markdown(compare(diagnosed[3:]))


def test_the_page_shows_costs_values_and_sentences(diagnosed):
    found = compare(diagnosed)
    text = page(found, diagnosed, ExampleMovies())
    (row,) = Tables(text).rows("cost: gates of other movies")
    of = of_setting(diagnosed[:3])
    assert of is not None
    cost = of.costs["gates_permuted/f1_micro"]
    assert float(row["cost: gates of other movies"][1]) == pytest.approx(100 * cost.mean)
    assert row["cost: gates of other movies"][0] == f"{100 * cost.mean:.1f} [{100 * cost.low:.1f}, {100 * cost.high:.1f}]"
    assert float(row["micro AP by image"][1]) == pytest.approx(100 * of.shapley("image", "ap_micro").mean)
    assert row["diagnosed seeds"][0] == "3 of 3"
    (bits,) = [row for row in Tables(text).rows("only image") if row["genre"][0] == "Drama"]
    assert (bits["all modalities"][0], bits["shared"][0], bits["only image"][0]) == ("0.300", "0.100", "0.200")
    assert "<li>gmu_original text+image: permuting the gates among movies costs" in section(text)
    assert "<li>Permuting the gates among movies costs" in section(text)
    assert "Intervals over 80 test movies and 3 seeds." in section(text)
    (chart,) = [chart for chart in charts(text) if "Shapley" in chart.about]
    drawn = {bar.title.split(": ")[0]: bar.value for bar in chart.bars}
    labels = diagnosed[0].predictions("test").labels.sum(axis=0)
    assert len(drawn) == 2 * len(GENRES)
    for genre, movies in zip(GENRES, labels, strict=True):
        for m, interval in of.shapley_of(genre).items():
            assert np.isclose(drawn[f"{genre} ({movies}), {m}"], 100 * interval.mean, atol=chart.across.pixel)


def test_without_diagnoses_the_page_names_one_command(diagnosed):
    rest = diagnosed[3:]
    text = section(page(compare(rest), rest, ExampleMovies()))
    assert "<table" not in text
    assert text.count("Not measured yet.") == 1
    folders = ",".join(str(run.folder) for run in rest[:3])
    assert re.findall(r'data-copy="(.*?)"', text) == [f"python -m gmu_lightning.evaluate run={folders} diagnose=true"]


def test_undiagnosed_seeds_have_a_command(diagnosed, sweep):
    runs = [*diagnosed[:3], sweep.run("gmu_original", 4, 2.0)]
    text = section(page(compare(runs), runs, ExampleMovies()))
    assert "3 of 4" in text
    assert re.findall(r'data-copy="(.*?)"', text) == [f"python -m gmu_lightning.evaluate run={runs[3].folder} diagnose=true"]


def test_one_modality_has_no_section(diagnosed):
    assert 'id="diagnoses"' not in page(compare(diagnosed[6:]), diagnosed[6:], ExampleMovies())


def test_a_damaged_diagnosis_leaves_the_comparison_whole(diagnosed):
    (diagnosed[1] / "evaluate/1/diagnosis.json").write_text('{"split": "<b>"}')
    found = compare(diagnosed)
    (row,) = as_json(found)["diagnoses"]
    assert "diagnosis.json is damaged" in row["problem"]
    assert len(as_json(found)["settings"]) == 3
    assert "the diagnoses cannot be read, for" in markdown(found)
    text = section(page(found, diagnosed, ExampleMovies()))
    assert "Diagnoses that cannot be read: gmu_original text+image: " in text and "<b>" not in text


def test_a_fusion_without_gates_has_empty_cells(diagnosed):
    write_diagnosis(diagnosed[3])
    text = page(compare(diagnosed), diagnosed, ExampleMovies())
    rows = {row["setting"][0]: row for row in Tables(text).rows("cost: gates of other movies")}
    assert rows["concat text+image"]["cost: gates of other movies"] == ("", None)
    assert rows["concat text+image"]["cost: additive (EMAP)"][0]
    assert rows["concat text+image"]["diagnosed seeds"][0] == "1 of 3"


def test_splits_have_rows_of_their_own(sweep):
    runs = []
    for seed in (1, 2):
        of = {"split": "random", "split_seed": seed}
        runs += [sweep.run("gmu_original", n, 1 + seed, typed=[f"data.split_seed={seed}"], data=of) for n in (1, 2)]
    for run in runs[1:]:
        write_diagnosis(run)
    (setting,) = {one.name for one in compare(runs[:2]).settings}
    together = replace(settings_of(runs[:2])[0], finished=runs, of_finished=[run.config for run in runs])
    found = diagnoses_of([ScoredSetting.of(together)])
    assert [one.name for one in found] == [f"{setting} (random 1)", f"{setting} (random 2)"]
    assert [(one.combined.runs, one.runs, list(one.others)) for one in found if one.combined] == [(1, 2, runs[:1]), (2, 2, [])]
