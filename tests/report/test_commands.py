"""The commands that a comparison prints."""

from __future__ import annotations

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from gmu_lightning.files import write_json
from gmu_lightning.movie import UserError
from gmu_lightning.report.commands import command, more_seeds
from gmu_lightning.report.settings import settings_of
from gmu_lightning.run import runs_under


def setting_typed_in(folder, sweep, override):
    run = sweep.run("mean", 1, typed=[override])
    write_json(run / "environment.json", {**run.environment, "cwd": str(folder)})
    (setting,) = settings_of([run])
    return setting


def test_weights_named_from_where_was_typed_are_found_again_from_any_folder(sweep, tmp_path):
    folder = tmp_path / "my work"
    (folder / "weights" / "bert").mkdir(parents=True)
    typed = setting_typed_in(folder, sweep, "encoder.text.name=weights/bert")
    begins = f"cd '{folder}' && python -m gmu_lightning.train fusion=mean"
    assert command(typed, [1]).startswith(begins)
    assert "encoder.text.name=weights/bert" in command(typed, [1])  # the name is part of what the setting is


@pytest.mark.parametrize("override", ["encoder.text.name=bert-base-uncased", "encoder.text.vectors=null", "data.limit=2"])
def test_what_names_no_folder_is_typed_anywhere(sweep, tmp_path, override):
    assert command(setting_typed_in(tmp_path, sweep, override), [1]).startswith("python -m gmu_lightning.train fusion=mean")


def test_weights_of_an_absolute_path_are_found_from_anywhere(sweep, tmp_path):
    (tmp_path / "bert").mkdir()
    typed = setting_typed_in(tmp_path, sweep, f"encoder.text.name={tmp_path / 'bert'}")
    assert command(typed, [1]).startswith("python -m gmu_lightning.train fusion=mean")


@pytest.mark.parametrize("seeds", [[7], [4, 5, 6], list(range(4, 60)), [1, 2, 3, 5, 8, 13, 21]])
def test_hydra_reads_the_seeds_that_were_meant(sweep, seeds):
    (setting,) = settings_of([sweep.run("mean", 1)])
    word = next(word for word in shlex.split(command(setting, seeds)) if word.startswith("seed="))
    read = OverridesParser.create().parse_override(word)
    assert [int(seed) for seed in read.sweep_string_iterator()] == seeds if len(seeds) > 1 else read.value() == seeds[0]
    assert len(word) < 25  # of fifty seeds too


def test_more_seeds_of_a_winner_are_fresh_ones(sweep):
    runs = [sweep.run("mean", seed, typed=["optimizer.lr=0.001"]) for seed in (1, 2)]
    told = {"trials": 1, "space": {"optimizer.lr": {"low": 0.1, "high": 1}}, "seed": 4, "monitor": "x", "settings": []}
    write_json(sweep.folder / "search/search.json", told)
    (setting,) = settings_of(runs)
    assert " seed=3,5,6 " in f"{more_seeds(setting, 5)} "


def test_a_failed_seed_does_not_hide_where_weights_were_named_from(sweep, tmp_path):
    (tmp_path / "bert").mkdir()
    setting_typed_in(tmp_path, sweep, "encoder.text.name=bert")
    failed = sweep.run("mean", 2, typed=["encoder.text.name=bert"])
    (failed / "environment.json").unlink()
    failed.end("failed", "the disk is full")
    (setting,) = settings_of(runs_under(sweep.folder))
    assert more_seeds(setting, 3).startswith(f"cd {tmp_path} && python -m gmu_lightning.train ")


def multirun(sweep, text):
    (sweep.folder / "multirun.yaml").write_text(text)
    (setting,) = settings_of(runs_under(sweep.folder))
    return setting


def test_what_was_typed_of_hydra_itself_is_kept(sweep):
    sweep.run("mean", 1)
    text = """
hydra:
  overrides: {hydra: [hydra/launcher=processes, hydra.launcher.jobs=3, hydra.mode=MULTIRUN, "hydra.searchpath=[pkg://mine]"]}
  runtime:
    config_sources:
    - {path: hydra.conf, provider: hydra}
    - {path: /my/conf, provider: command-line}
"""
    one, many = command(multirun(sweep, text), [1]), command(multirun(sweep, text), [1, 2])
    ours = "python -m gmu_lightning.train --config-dir /my/conf 'hydra.searchpath=[pkg://mine]' "
    assert one.startswith(f"{ours}fusion=mean")
    assert many.startswith(f"{ours}-m hydra/launcher=processes hydra.launcher.jobs=3 fusion=mean")


@pytest.mark.parametrize("text", ["a: [b", "{}", ""])
def test_a_damaged_multirun_yaml_is_named(sweep, text):
    sweep.run("mean", 1)
    with pytest.raises(UserError, match=r"multirun.yaml is damaged, for .*: restore it, or remove it"):
        command(multirun(sweep, text), [1])
