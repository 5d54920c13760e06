"""Gates that weigh modalities are compared with controls whose gates see one modality each."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace

import numpy as np
import pytest

from gmu_lightning.files import write_json
from gmu_lightning.report.comparison import compare
from gmu_lightning.report.page.movies import ExampleMovies
from gmu_lightning.report.page.write import page
from gmu_lightning.report.sentences import control_command, control_sentence, markdown, write

from .made_runs import replace_predictions

BY = "whose gates see one modality each"
NONE = "this shows no benefit of weighing modalities"


def points(value: float) -> str:
    return f"{100 * value:.1f}"


def test_gate_that_beats_its_control_has_its_lead(sweep):
    (found,) = compare([*sweep.three_seeds("gmu_original", 2.0), *sweep.three_seeds("self_gate", 0.5)]).controls
    mean, low, high = found.interval
    size = f"{points(mean)} points [{points(low)}, {points(high)}]"
    assert (
        control_sentence(found)
        == f"gmu_original beats self_gate, {BY}, by {size}: weighing modalities against each other helps here"
    )
    assert (found.verdict, control_command(found), low > 0) == ("gate", None, True)


def test_gate_equal_to_its_control_shows_no_benefit(sweep):
    found = compare([*sweep.three_seeds("gmu_original", 1.0), *sweep.three_seeds("self_gate", 1.02)])
    (pair,), (control,) = found.pairs, found.controls
    assert control_sentence(control).startswith(f"gmu_original does not beat self_gate, {BY} (")
    assert control_sentence(control).endswith(f"): {NONE}")
    assert (control.verdict, control.pair) == ("none", pair)


def test_gate_beaten_by_its_control_shows_no_benefit(sweep):
    found = compare([*sweep.three_seeds("gmu_original", 0.5), *sweep.three_seeds("self_gate", 2.0)])
    (pair,), (control,) = found.pairs, found.controls
    mean, low, high = pair.difference.interval
    assert control_sentence(control) == (
        f"gmu_original is beaten by self_gate, {BY}, by {points(mean)} points [{points(low)}, {points(high)}]: {NONE}"
    )
    assert control.verdict == "control"
    assert control.interval == pytest.approx((-mean, -high, -low))


def test_each_gate_has_all_matching_controls(sweep):
    gates = [*sweep.three_seeds("gmu_original", 1.4, modalities="text+image"), *sweep.three_seeds("gmu_hier", 1.2)]
    for join in ("mean", "concat"):
        gates += sweep.three_seeds("self_gate", 1.0, typed=[f"fusion.join={join}"], options={"join": join, "gate": True})
    found = compare(gates).controls
    names = {(one.gate.name, one.control.name if one.control else None) for one in found}
    assert names == {
        (gate, f"self_gate fusion.join={join}") for gate in ("gmu_original", "gmu_hier") for join in ("mean", "concat")
    }


@pytest.mark.parametrize(
    "other",
    [
        {"modalities": "text+video"},
        {"trainer": {"max_epochs": 3}},
        {"options": {"bias": False}},
        {"options": {"gate": False, "bias": True}},
    ],
)
def test_controls_have_equal_modalities_and_configuration(sweep, other):
    gate = sweep.three_seeds("gmu_original", 1.0, options={"bias": True}, trainer={"max_epochs": 5})
    control = {"options": {"bias": True}, "trainer": {"max_epochs": 5}} | other
    (found,) = compare([*gate, *sweep.three_seeds("self_gate", 0.5, **control)]).controls
    assert found.control is None
    assert found.verdict is None
    assert "has no control. Add fusion=self_gate" in control_sentence(found)


def test_gates_without_a_control_share_a_command(sweep):
    typed = ["fusion.gate_input=concat", "fusion.bias=true", "trainer.max_epochs=5"]
    runs = [run for fusion in ("gmu_original", "gmu_softmax") for run in sweep.three_seeds(fusion, 1.0, typed=typed)]
    write_json(sweep.folder / "status.json", {"jobs": []})
    found = compare([*runs, *sweep.three_seeds("mean", 1.0)])
    assert len(found.controls) == 2
    assert {control_sentence(one) for one in found.controls} == {control_sentence(found.controls[0])}
    assert markdown(found).count("have no control.") == 1
    words = shlex.split(control_command(found.controls[0]))
    assert words[:4] == ["python", "-m", "gmu_lightning.train", "-m"]
    assert [word for word in words if word.startswith("fusion")] == ["fusion.bias=true", "fusion=self_gate"]
    assert {"seed=1,2,3", "trainer.max_epochs=5", f"hydra.sweep.dir={sweep.folder}"} <= set(words)


@pytest.mark.parametrize("fusion", ["mean", "concat", "self_gate"])
def test_fusions_without_weights_need_no_control(sweep, fusion):
    found = compare([*sweep.three_seeds(fusion, 1.0), *sweep.three_seeds("other", 1.0)])
    assert found.controls == []
    assert "Gated fusion against its control" not in markdown(found)


def test_weights_that_are_the_same_for_every_movie_need_no_control(sweep):
    runs = sweep.three_seeds("gmu_original", 1.0)
    for run in runs:
        test = run.predictions("test")
        replace_predictions(
            run, replace(test, gate=np.full_like(test.gate, 0.4), gate_by_genre=np.full_like(test.gate_by_genre, 0.4))
        )
    assert compare([*runs, *sweep.three_seeds("concat", 1.0)]).controls == []


def test_too_few_seeds_give_no_verdict(sweep):
    (found,) = compare([*sweep.three_seeds("gmu_original", 2.0), sweep.run("self_gate", 1, 0.5)]).controls
    assert (
        control_sentence(found)
        == f"gmu_original cannot be tested against self_gate, {BY}: self_gate has 1 seed, and a test needs three"
    )
    assert found.verdict is None


def test_control_left_out_by_a_baseline_is_named(sweep):
    runs = [run for name in ("gmu_original", "self_gate", "concat") for run in sweep.three_seeds(name, 1.0)]
    (found,) = compare(runs, against="concat").controls
    assert (
        control_sentence(found)
        == f"gmu_original is not compared with self_gate, {BY}: this comparison is against another setting"
    )


def test_files_and_page_have_the_control_sentence(sweep, tmp_path):
    runs = [*sweep.three_seeds("gmu_original", 1.0), *sweep.three_seeds("self_gate", 1.02)]
    found = compare(runs)
    write(found, tmp_path)
    (row,) = json.loads((tmp_path / "comparison.json").read_text())["controls"]
    assert {"gate", "control", "verdict", "sentence", "difference", "low", "high", "p_holm"} <= set(row)
    assert (row["gate"], row["control"], row["low"] < row["difference"] < row["high"]) == ("gmu_original", "self_gate", True)
    for text in (markdown(found), page(found, runs, ExampleMovies())):
        assert "Gated fusion against its control" in text
        assert row["sentence"] in text
