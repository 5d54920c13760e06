"""Tables, figure and summary of the experiment with missing modalities show its numbers."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from itertools import combinations

import pytest
from matplotlib.colors import to_hex

from gmu_lightning.movie import MODALITIES
from gmu_lightning.report.figures import COLOURS
from gmu_lightning.report.robustness import Robustness, figure, markdown, summary, write

SHARES = (0.0, 0.5, 1.0)
AT = {"text": (0.8, 0.65, 0.4), "image": (0.8, 0.7, 0.62), "all": (0.8, 0.5, 0.1)}


SCORES = ("f1_micro", "f1_macro", "ap_micro", "ap_macro")


def row(kind: str, f1: float, **what) -> dict:
    about = {"kind": kind, "modality": None, "share": None, "realised": None, "subset": None} | what
    scores = {score: f1 / 2**n for n, score in enumerate(SCORES)}
    return about | {"movies": 21, "movies_without_input": 2} | scores


def study(**changes) -> Robustness:
    """Return a study of text and image; 21 movies have a plot and 20 have a poster."""
    rows = [
        row("share", f1, modality=name, share=share, realised=10 / 21 if (name, share) == ("text", 0.5) else share)
        for name, values in AT.items()
        for share, f1 in zip(SHARES, values, strict=True)
    ]
    rows += [row("subset", f1, subset=name) for name, f1 in (("text", 0.62), ("image", 0.4), ("text+image", 0.8))]
    return replace(Robustness("a run", "val", 3, {"text": 21, "image": 20}, {"text": 0.0, "image": 0.3}, rows, []), **changes)


def five() -> Robustness:
    """Return a study of five modalities with nearly equal scores."""
    names = [*MODALITIES, "all"]
    rows = [
        row("share", 0.8 - 0.1 * share - 1e-4 * i, modality=name, share=share, realised=share)
        for i, name in enumerate(names)
        for share in SHARES
    ]
    every = ["+".join(chosen) for size in range(1, 6) for chosen in combinations(MODALITIES, size)]
    rows += [row("subset", 0.4 + 0.01 * n, subset=name) for n, name in enumerate(every)]
    return Robustness("a run", "test", 0, dict.fromkeys(MODALITIES, 21), dict.fromkeys(MODALITIES, 0.0), rows, [])


def test_summary_has_shares_and_best_subset():
    lines = summary(study()).splitlines()
    assert lines[0] == "val micro F1 without modalities, robustness_seed=3, trained with modality_dropout: image 0.3"
    assert [line.split() for line in lines[2:5]] == [
        ["text", "0.8000", "0.6500", "0.4000", "47.6", "%", "of", "21", "movies"],
        ["image", "0.8000", "0.7000", "0.6200", "50.0", "%", "of", "20", "movies"],
        ["all", "0.8000", "0.5000", "0.1000", "50.0", "%"],
    ]
    assert lines[5] == "best subset: text+image 0.8000; all modalities: 0.8000"


def test_summary_names_a_best_subset():
    rows = [r | {"f1_micro": 0.85} if r["subset"] == "text" else r for r in study().rows]
    assert summary(study(rows=rows)).endswith("best subset: text 0.8500; all modalities: 0.8000")


def test_summary_names_missing_modality_dropout():
    assert "trained without modality_dropout" in summary(study(modality_dropout={"text": 0.0, "image": 0.0}))


def test_markdown_has_all_scores_and_realised_shares():
    text = markdown(study())
    assert "| text | 0.8000 | 0.6500 (47.6 %) | 0.4000 | 21 |" in text
    assert "| image | 0.2000 | 0.1750 | 0.1550 | 20 |" in text
    subsets = text[text.index("| left |") :].splitlines()[2:]
    assert [line.split(" | ")[0] for line in subsets] == ["| text+image", "| text", "| image"]
    assert subsets[1] == "| text | 0.6200 | 0.3100 | 0.1550 | 0.0775 | 2 |"


def test_write_gives_tables_and_figures(tmp_path):
    write(study(), tmp_path)
    kinds = {f"robustness.{kind}" for kind in ("csv", "json", "md", "png", "svg")}
    assert {path.name for path in tmp_path.iterdir()} == {*kinds, "robustness_by_genre.csv"}
    with (tmp_path / "robustness.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    about, counts, scores = ["kind", "modality", "share", "realised", "subset"], ["movies", "movies_without_input"], list(SCORES)
    assert list(rows[0]) == about + counts + scores
    assert (rows[1]["share"], float(rows[1]["realised"]), rows[1]["subset"]) == ("0.5", 10 / 21, "")
    assert (rows[-1]["subset"], rows[-1]["modality"], rows[-1]["f1_micro"]) == ("text+image", "", "0.8")
    assert json.loads((tmp_path / "robustness.json").read_text()) == {
        "run": "a run",
        "split": "val",
        "seed": 3,
        "movies": 21,
        "had": {"text": 21, "image": 20},
        "modality_dropout": {"text": 0.0, "image": 0.3},
        "shares": [0.0, 0.5, 1.0],
        "realised": {
            "text": {"0": 0.0, "0.5": 10 / 21, "1": 1.0},
            "image": {"0": 0.0, "0.5": 0.5, "1": 1.0},
            "all": {"0": 0.0, "0.5": 0.5, "1": 1.0},
        },
    }


def test_lines_show_scores_at_realised_shares():
    panel, _ = figure(study()).axes
    lines = {to_hex(line.get_color()): line for line in panel.lines if line.get_marker() == "o"}
    for modality in ("text", "image"):
        assert lines[COLOURS[modality].lower()].get_ydata().tolist() == list(AT[modality])
    assert lines[COLOURS["text"].lower()].get_xdata() == pytest.approx([0, 1000 / 21, 100])
    assert {text.get_text() for text in panel.get_legend().get_texts()} == set(AT)


def test_modality_of_no_movie_has_no_line():
    rows = [r | {"realised": None} if r["modality"] == "image" else r for r in study().rows]
    without_images = study(rows=rows, had={"text": 21, "image": 0})
    panel, _ = figure(without_images).axes
    assert {text.get_text() for text in panel.get_legend().get_texts()} == {"text", "all"}
    assert summary(without_images).splitlines()[3].endswith(" - of 0 movies")


def test_bars_show_subsets_best_first():
    _, panel = figure(five()).axes
    names = [label.get_text() for label in panel.get_yticklabels()]
    assert (len(names), names[0], names[-1]) == (31, "+".join(MODALITIES), "text")
    assert [bar.get_width() for bar in panel.containers[0]] == pytest.approx([0.4 + 0.01 * n for n in range(30, -1, -1)])


@pytest.mark.parametrize("made", [study, five])
def test_figure_labels_do_not_overlap(made):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    drawn = figure(made())
    canvas = FigureCanvasAgg(drawn)
    canvas.draw()
    left, right = drawn.axes
    words = [
        *left.get_legend().get_texts(),
        *right.texts,
        *left.get_xticklabels(),
        *right.get_yticklabels(),
        left.xaxis.label,
        right.xaxis.label,
    ]
    boxes = [word.get_window_extent(canvas.get_renderer()) for word in words if word.get_text()]
    assert not [(a, b) for a, b in combinations(boxes, 2) if a.overlaps(b)]
    width, height = canvas.get_width_height()
    assert all(box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height for box in boxes)


def test_title_names_run_split_seed_and_modality_dropout():
    assert figure(study()).get_suptitle().splitlines() == [
        "val micro F1 without some modalities: a run",
        "21 movies, robustness_seed=3, trained with modality_dropout: image 0.3",
    ]
