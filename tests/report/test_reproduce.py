"""The commands that reproduce or extend a setting."""

from __future__ import annotations

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from gmu_lightning.files import write_json
from gmu_lightning.movie import UserError
from gmu_lightning.report.reproduce import add_seeds, command, more_seeds, with_fusion
from gmu_lightning.report.settings import settings_of
from gmu_lightning.run import runs_under


def setting_started_in(folder, sweep, override):
    run = sweep.run("mean", 1, typed=[override])
    write_json(run / "environment.json", {**run.environment, "cwd": str(folder)})
    (setting,) = settings_of([run])
    return setting


def test_relative_weights_add_a_change_of_folder(sweep, tmp_path):
    folder = tmp_path / "my work"
    (folder / "weights" / "bert").mkdir(parents=True)
    typed = setting_started_in(folder, sweep, "encoder.text.name=weights/bert")
    begins = f"cd '{folder}' && python -m gmu_lightning.train fusion=mean"
    assert command(typed, [1]).startswith(begins)
    assert "encoder.text.name=weights/bert" in command(typed, [1])  # the name belongs to the setting


@pytest.mark.parametrize("override", ["encoder.text.name=bert-base-uncased", "encoder.text.vectors=null", "data.limit=2"])
def test_command_without_folders_runs_anywhere(sweep, tmp_path, override):
    assert command(setting_started_in(tmp_path, sweep, override), [1]).startswith("python -m gmu_lightning.train fusion=mean")


def test_absolute_weights_run_anywhere(sweep, tmp_path):
    (tmp_path / "bert").mkdir()
    typed = setting_started_in(tmp_path, sweep, f"encoder.text.name={tmp_path / 'bert'}")
    assert command(typed, [1]).startswith("python -m gmu_lightning.train fusion=mean")


@pytest.mark.parametrize("seeds", [[7], [4, 5, 6], list(range(4, 60)), [1, 2, 3, 5, 8, 13, 21]])
def test_hydra_parses_the_seeds(sweep, seeds):
    (setting,) = settings_of([sweep.run("mean", 1)])
    word = next(word for word in shlex.split(command(setting, seeds)) if word.startswith("seed="))
    read = OverridesParser.create().parse_override(word)
    assert [int(seed) for seed in read.sweep_string_iterator()] == seeds if len(seeds) > 1 else read.value() == seeds[0]
    assert len(word) < 25  # also for fifty seeds


def test_more_seeds_skip_used_and_search_seeds(sweep):
    runs = [sweep.run("mean", seed, typed=["optimizer.lr=0.001"]) for seed in (1, 2)]
    search = {"trials": 1, "space": {"optimizer.lr": {"low": 0.1, "high": 1}}, "seed": 4, "monitor": "x", "settings": []}
    write_json(sweep.folder / "search/search.json", search)
    (setting,) = settings_of(runs)
    assert " seed=3,5,6 " in f"{more_seeds(setting, 5)} "


def test_failed_seed_keeps_the_folder_of_weights(sweep, tmp_path):
    (tmp_path / "bert").mkdir()
    setting_started_in(tmp_path, sweep, "encoder.text.name=bert")
    failed = sweep.run("mean", 2, typed=["encoder.text.name=bert"])
    (failed / "environment.json").unlink()
    failed.end("failed", "the disk is full")
    (setting,) = settings_of(runs_under(sweep.folder))
    assert more_seeds(setting, 3).startswith(f"cd {tmp_path} && python -m gmu_lightning.train ")


@pytest.mark.parametrize(
    "override",
    [
        *("+callbacks.x._target_=os.system", "+optimizer={_target_:os.system,command:ls}", "data.root=${oc.env:HOME}"),
        *("++hydra.callbacks.x=1", "rerun=other", "trust=theirs.Theirs"),
    ],
)
def test_overrides_that_could_run_code_are_not_repeated(sweep, override):
    run = sweep.run("mean", 1, typed=[override])
    safe = sweep.run("concat", 1)
    settings = settings_of([run, safe])
    (setting,) = (one for one in settings if one.runs == [run])
    begins = f"python -m gmu_lightning.train -m rerun={run.folder} seed=2,3"
    assert command(setting, [1]) == f"python -m gmu_lightning.train rerun={run.folder} seed=1"
    assert more_seeds(setting, 3) == begins
    assert with_fusion(setting, "self_gate", []).endswith(f"-m rerun={run.folder} seed=1 fusion=self_gate")
    assert add_seeds(settings, [2, 3]).startswith(f"{begins} && ") and override not in add_seeds(settings, [2, 3])


def multirun(sweep, text):
    (sweep.folder / "multirun.yaml").write_text(text)
    (setting,) = settings_of(runs_under(sweep.folder))
    return setting


def test_hydra_options_are_kept(sweep):
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


def test_a_single_run_names_its_own_folder(sweep):
    run = sweep.run("mean", 1)
    (run / "config.yaml").write_text((run / "config.yaml").read_text() + "config_dir: /my parts\n")
    (setting,) = settings_of([run])
    assert command(setting, [1]).startswith("python -m gmu_lightning.train --config-dir '/my parts' fusion=mean")
    assert more_seeds(setting, 2).startswith("python -m gmu_lightning.train --config-dir '/my parts' ")


def test_a_folder_of_the_search_path_is_named_once(sweep):
    run = sweep.run("mean", 1)
    (run / "config.yaml").write_text((run / "config.yaml").read_text() + "config_dir: /my/parts\n")
    text = "hydra: {overrides: {hydra: [\"hydra.searchpath=['file:///my/parts']\"]}, runtime: {config_sources: []}}"
    line = command(multirun(sweep, text), [1])
    assert shlex.split(line)[3:5] == ["hydra.searchpath=['file:///my/parts']", "fusion=mean"]


@pytest.mark.parametrize("text", ["a: [b", "{}", ""])
def test_damaged_multirun_yaml_is_named(sweep, text):
    sweep.run("mean", 1)
    with pytest.raises(UserError, match=r"multirun.yaml is damaged, for .*: restore it, or remove it"):
        command(multirun(sweep, text), [1])
