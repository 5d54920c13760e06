"""`rerun=RUN` trains the configuration of a run again, and reads it as data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

import gmu_lightning
from gmu_lightning.cli import tasks
from gmu_lightning.cli.command_line import escaped, options_first
from gmu_lightning.config.groups import conf_folder
from gmu_lightning.files import file_digest
from gmu_lightning.movie import UserError
from gmu_lightning.run import Run
from gmu_lightning.sweep.job import resolved
from gmu_lightning.sweep.rerun import with_choices
from gmu_lightning.sweep.session import Session

from .shell import last_line, typed

TRUSTED = """
from gmu_lightning.fusion import Mean


class Mine(Mean):
    pass


def mine(**options):
    open("touched", "w").close()
"""


@pytest.fixture
def again(smoke, store):
    """(overrides, run) -> the configuration that `train rerun=RUN overrides` trains, and the overrides that it records."""

    def make(*overrides: str, run: Path = smoke.folder):
        words = [f"rerun={run}", f"store.dir={store}", *overrides]
        arguments = [escaped(word) for word in words]
        session = Session(dict(zip(arguments, words, strict=True)))
        arguments = options_first(with_choices(arguments, session))
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            config = compose("train", arguments, return_hydra_config=True)
        node = SimpleNamespace(**{**config.hydra, "runtime": config.hydra.runtime, "overrides": SimpleNamespace(task=arguments)})
        node.runtime.cwd, node.runtime.config_sources = "/", []
        return resolved(config, node), session.as_typed(arguments)

    return make


def changed(run: Run, folder: Path, **values) -> Path:
    """Return a copy of a run's folder whose config.yaml has other values."""
    shutil.copytree(run.folder, folder)
    (folder / "config.yaml").write_text(yaml.safe_dump({**run.config, **values}))
    return folder


def test_a_rerun_gives_the_same_run(smoke, store, tmp_path):
    done = typed("train", f"rerun={smoke.folder}", "hydra.run.dir=again", folder=tmp_path, store=store)
    assert done.returncode == 0, done.stderr
    run = Run(tmp_path / "again")
    assert (run.status["identity"], run.status["setting"]) == (smoke.status["identity"], smoke.status["setting"])
    choices = {group: choice for group, choice in smoke.config["choices"].items() if group != "experiment"}
    assert run.config == {**smoke.config, "choices": choices}
    assert run.overrides == [f"rerun={smoke.folder}"]
    scores = {key: value for key, value in smoke.metrics.items() if key.startswith(("val/", "test/"))}
    assert {key: run.metrics[key] for key in scores} == scores
    for split in ("val", "test"):
        assert file_digest(run / f"predictions/{split}.parquet") == file_digest(smoke / f"predictions/{split}.parquet")


def test_a_new_seed_stays_in_the_setting(again, smoke):
    config, overrides = again("seed=7")
    assert config.seed == 7 and config.setting == smoke.status["setting"] and config.identity != smoke.status["identity"]
    assert overrides == [f"rerun={smoke.folder}", f"store.dir={config.store.dir}", "seed=7"]


def test_a_choice_replaces_the_whole_part(again, smoke):
    config, _ = again("fusion=lmf", "fusion.rank=5", "encoder/text=bow", "optimizer.lr=0.5")
    assert config.fusion.node["_target_"].endswith("LowRank") and config.fusion.node["rank"] == 5
    assert config.encoder["text"].node["_target_"].endswith("BagOfWords")
    assert config.encoder["image"].node == smoke.config["encoder"]["image"]
    assert config.optimizer.lr == 0.5 and config.data.node == smoke.config["data"]
    assert config.choices["fusion"] == "lmf" and config.choices["encoder/image"] == smoke.config["choices"]["encoder/image"]


def test_the_choice_of_the_run_itself_means_its_defaults(again, smoke, tmp_path):
    wide = changed(smoke, tmp_path / "wide", fusion={**smoke.config["fusion"], "dim": 24})
    assert again(run=wide)[0].fusion.node["dim"] == 24
    assert again("fusion=gmu_original", run=wide)[0].fusion.node["dim"] == 256


def test_another_modality_takes_its_default_encoder(again):
    config, _ = again("modalities=text+image+audio")
    assert config.modalities == ("text", "image", "audio") and set(config.encoder) == {"text", "image", "audio"}


def test_logger_store_and_display_are_of_the_command(again, smoke, store, tmp_path):
    node = {"_target_": "gmu_lightning.experiment.loggers.wandb_logger", "_partial_": True, "project": "p", "entity": "them"}
    theirs = changed(
        smoke,
        tmp_path / "theirs",
        logger={"wandb": {**node, "mode": "online", "tags": []}},
        store={"dir": str(tmp_path / "their store"), "workers": 3},
        trainer={**smoke.config["trainer"], "progress": "none", "profiler": "advanced"},
    )
    config, _ = again(run=theirs)
    assert config.logger == {} and config.store.dir == str(store) and config.store.workers is None
    assert (config.trainer.progress, config.trainer.profiler) == ("auto", None)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"optimizer": {"_target_": "os.system", "lr": 0.1, "command": "touch touched"}}, "names the class os.system"),
        ({"callbacks": {"x": {"_target_": "builtins.exec"}}}, "names the class builtins.exec"),
        ({"monitor": "${oc.env:HOME}"}, "holds the interpolation"),
        ({"hydra": {"run": {"dir": "/tmp"}}}, "holds a hydra node"),
        ({"modalities": "smell"}, "is damaged, for modalities is 'smell'"),
    ],
)
def test_a_strangers_run_is_refused(again, smoke, tmp_path, values, sentence):
    hostile = changed(smoke, tmp_path / "hostile", **values)
    with pytest.raises(UserError, match=sentence):
        again(run=hostile)


@pytest.mark.parametrize("root", ["nowhere", "empty"])
def test_a_rerun_writes_no_data_to_a_place_that_a_run_names(again, smoke, tmp_path, root):
    (tmp_path / "empty").mkdir()
    hostile = changed(smoke, tmp_path / "run", data={**smoke.config["data"], "root": str(tmp_path / root)})
    with pytest.raises(UserError, match=r"which are not there: give data\.root=PATH"):
        again(run=hostile)
    assert again(f"data.root={tmp_path / root}", run=hostile)[0].data.root == str(tmp_path / root)


def test_evaluate_writes_only_inside_the_run(smoke, store, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    theirs = {"data": {**smoke.config["data"], "root": str(tmp_path / "new")}, "store": {"dir": str(tmp_path / "elsewhere")}}
    hostile = changed(smoke, tmp_path / "run", **theirs)
    done = typed("evaluate", f"run={hostile}", folder=tmp_path, store=None)
    assert done.returncode == 1 and "which are not there: give data.root=PATH" in last_line(done.stderr)
    linked = changed(smoke, tmp_path / "linked", store=theirs["store"])
    shutil.rmtree(linked / "evaluate", ignore_errors=True)
    (linked / "evaluate").symlink_to(tmp_path / "elsewhere")
    done = typed("evaluate", f"run={linked}", folder=tmp_path, store=None)
    assert done.returncode == 1 and "evaluate is a link, and results stay inside the run's folder" in last_line(done.stderr)
    assert not list((tmp_path / "elsewhere").iterdir()) and not (tmp_path / "new").exists()
    assert tasks._store_of(Run(linked)) == "outputs/store"
    (tmp_path / "elsewhere/columns").mkdir()
    assert tasks._store_of(Run(linked)) == str(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["rerun=nowhere"], "nowhere is no run's folder: it holds no config.yaml"),
        (["rerun=RUN", "experiment=smoke"], "and experiment= both choose every part of a run"),
        (["--config-path", "RUN"], "type rerun=RUN to train the configuration of a run again"),
        (["--config-name=config", "--config-dir", "RUN"], "type rerun=RUN to train the configuration of a run again"),
        (["--experimental-rerun", "RUN/config.pickle"], "type rerun=RUN to train the configuration of a run again"),
        (["rerun=RUN", "trust=os"], "trust=os names no class: give its dotted name"),
    ],
)
def test_a_wrong_request_ends_in_a_sentence(smoke, store, tmp_path, words, sentence):
    given = [word.replace("RUN", str(smoke.folder)) for word in words]
    done = typed("train", *given, folder=tmp_path, store=store)
    assert done.returncode == 1 and sentence in last_line(done.stderr), done.stderr
    assert "Traceback" not in done.stderr


def test_a_sweep_over_a_rerun_names_each_job(smoke, store, tmp_path):
    words = ("-m", f"rerun={smoke.folder}", "fusion=mean,concat", "seed=1,2", "hydra.sweep.dir=sweep", "check=true")
    done = typed("train", *words, folder=tmp_path, store=store)
    assert done.returncode == 0, done.stderr
    for fusion in ("mean", "concat"):
        for seed in (1, 2):
            assert f"{fusion}-text+image-seed{seed}-" in done.stdout + done.stderr


@pytest.mark.heavy
def test_only_the_user_trusts_a_class(smoke, store, tmp_path, monkeypatch):
    (tmp_path / "theirs.py").write_text(TRUSTED)
    node = {"_target_": "theirs.Mine", "_partial_": True}
    run = changed(smoke, tmp_path / "run", fusion=node, trust="theirs.Mine", config_dir=str(tmp_path))
    for words in ([], ["trust=theirs.Other"]):
        done = typed("predict", f"run={run}", "movie.text=x", *words, folder=tmp_path, store=store)
        assert done.returncode == 1 and "names the class theirs.Mine" in last_line(done.stderr)
    accepted = typed("predict", f"run={run}", "movie.text=x", "trust=theirs.Other,theirs.Mine", folder=tmp_path, store=store)
    assert "names the class" not in accepted.stderr and "its fusion._target_ is not the one that best.ckpt" in accepted.stderr
    check = typed("train", f"rerun={run}", "trust=theirs.Mine", "check=true", folder=tmp_path, store=store)
    assert check.returncode == 0, check.stderr
    function = changed(smoke, tmp_path / "function", fusion={"_target_": "theirs.mine"})
    done = typed("train", f"rerun={function}", "trust=theirs.mine", folder=tmp_path, store=store)
    assert done.returncode == 1 and "names a function and no class" in last_line(done.stderr)
    with pytest.raises(UserError, match=r"names the class theirs\.Mine"):
        gmu_lightning.load(run)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        with pytest.raises(UserError, match=r"its fusion\._target_ is not the one"):
            gmu_lightning.load(run, trust=["theirs.Mine"])
    with pytest.raises(UserError, match=r"names the class theirs\.Mine"):
        gmu_lightning.load(run)
    assert not list(tmp_path.rglob("touched"))
    assert "trust" not in json.dumps(smoke.config)
