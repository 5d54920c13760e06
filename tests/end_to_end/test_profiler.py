"""A profiled run: what its profile says, and that it is the run it would have been."""

from __future__ import annotations

import csv
import json

import pytest

from gmu_lightning.movie import UserError
from gmu_lightning.run import Run

from .test_cache_and_evaluate import write_bert

SMALL = ("data.batch_size=8", "trainer.max_epochs=3")
VOLATILE = ("seconds/", "movies_per_second", "peak_memory_mb")


@pytest.fixture(scope="module")
def plain(train) -> Run:
    return train(*SMALL)


@pytest.fixture(scope="module")
def profiled(train) -> Run:
    return train(*SMALL, "callbacks=profiler")


@pytest.fixture(scope="module")
def profile(profiled) -> dict:
    return json.loads((profiled / "profile.json").read_text())


def rows(run: Run) -> list[dict[str, str]]:
    with (run / "history.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def test_it_changes_no_number_of_the_run(plain, profiled):
    def scores(run: Run) -> dict[str, float]:
        return {key: value for key, value in run.metrics.items() if not key.startswith(VOLATILE)}

    assert scores(profiled) == scores(plain)
    assert rows(profiled) == rows(plain)


def test_the_parts_overlap_nowhere_and_sum_to_the_step(profile):
    parts = profile["parts"]
    assert list(parts) == [
        *("data", "transfer", "encoder/text", "encoder/image", "fusion", "head_and_loss", "backward", "optimizer", "rest"),
    ]
    assert sum(part["seconds"] for part in parts.values()) == pytest.approx(profile["seconds_per_step"])
    assert sum(part["share"] for part in parts.values()) == pytest.approx(1)
    assert all(part["seconds"] > 0 for part in parts.values())
    assert set(profile["outside_of_steps"]) == {"validation", "checkpoints", "between_epochs"}
    assert all(seconds > 0 for seconds in profile["outside_of_steps"].values())


def test_pace_and_arithmetic_follow_from_each_other(profile, plain):
    per_epoch = -(-len(json_ids(plain)) // 8)
    assert profile["steps"] == 3 * per_epoch - profile["skipped_steps"]
    arithmetic = profile["flops"]
    assert arithmetic["per_second"] == pytest.approx(arithmetic["per_movie"] * profile["movies_per_second"])
    assert arithmetic["share_of_peak"] == pytest.approx(arithmetic["per_second"] / arithmetic["peak_per_second"])
    assert arithmetic["peak_dtype"] == "float32"
    assert 0 < profile["sequences"]["text"]["padding"] < 1


def json_ids(run: Run) -> list[str]:
    """Movies of train: all but those of val and test."""
    return ["movie"] * (60 - len(run.predictions("val").ids) - len(run.predictions("test").ids))


def test_the_page_says_what_the_file_says(profiled, profile):
    page = (profiled / "profile.md").read_text()
    assert page.startswith("# Where a training step's time went (cpu, 1 threads, 32-true)")
    assert f"Means over {profile['steps']} steps" in page
    assert f"{profile['parts']['backward']['share']:.1%}" in page
    assert f"{profile['movies_per_second']:,.1f} movies a second" in page
    assert f"{profile['flops']['share_of_peak']:.1%} of the" in page


def test_a_run_that_is_over_before_steps_are_steady_has_no_profile_and_says_why(train, capsys):
    run = train("callbacks=profiler", "trainer.max_epochs=1")
    assert not (run / "profile.json").exists()
    assert "the first 3 are left out: there is no profile" in capsys.readouterr().err
    assert run.metrics["epochs"] == 1


def test_a_compiled_forward_pass_is_one_part(train, monkeypatch, capsys):
    monkeypatch.setattr("torch.compile", lambda function, *args, **kwargs: function)  # what it makes of it is not the question
    run = train(*SMALL, "callbacks=profiler", "trainer.compile=true")
    parts = json.loads((run / "profile.json").read_text())["parts"]
    assert list(parts) == ["data", "transfer", "forward", "backward", "optimizer", "rest"]
    assert sum(part["share"] for part in parts.values()) == pytest.approx(1)
    assert "not told apart" in capsys.readouterr().err


def test_it_goes_together_with_other_callbacks(settled):
    config = settled("experiment=smoke", "callbacks=[early_stopping,profiler]", "callbacks.profiler.skip_steps=1")
    assert set(config["callbacks"]) == {"early_stopping", "profiler"}
    assert config["callbacks"]["profiler"]["skip_steps"] == 1


@pytest.mark.parametrize("steps", ["-1", "1.5", "true"])
def test_a_number_of_steps_that_is_none_is_refused(train, steps):
    with pytest.raises(UserError, match=r"callbacks\.profiler\.skip_steps=.* give a whole number"):
        train("callbacks=profiler", f"callbacks.profiler.skip_steps={steps}")


def test_a_text_that_is_packed_wastes_nothing(train, raw, tmp_path):
    plots = [" ".join(json.loads(path.read_text())["plot"]) for path in sorted(raw.glob("dataset/*.json"))]
    write_bert(tmp_path, plots)
    bert = ("encoder/text=minilm", f"encoder.text.name={tmp_path}", "encoder.text.freeze=none", "data.token_budget=null")
    run = train(*SMALL, *bert, "modalities=text", "fusion=none", "callbacks=profiler")
    found = json.loads((run / "profile.json").read_text())
    assert found["sequences"]["text"]["padding"] == 0
    assert found["flops"]["per_movie"] > 0
