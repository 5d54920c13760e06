"""What loggers are told: W&B's own offline files are read back."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir

from gmu_lightning.experiment.conf import conf_folder
from gmu_lightning.experiment.settle import settle
from gmu_lightning.movie import UserError
from gmu_lightning.run import Run
from gmu_lightning.sweep.command_line import register_launcher
from gmu_lightning.sweep.job import Job, perform_in_sweep
from gmu_lightning.sweep.task import plain

ROOT = Path(__file__).parent


@pytest.fixture(scope="module")
def offline() -> Any:
    """The reader of W&B's files, which stands beside this test."""
    spec = importlib.util.spec_from_file_location("wandb_offline", ROOT / "wandb_offline.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["wandb_offline"] = module
    spec.loader.exec_module(module)
    return module.read_offline_run


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds that finish and one job that fails, offline."""
    folder = tmp_path_factory.mktemp("loggers") / "my sweep"
    patched = pytest.MonkeyPatch()
    patched.setenv("WANDB_SILENT", "true")
    for words in (("seed=1",), ("seed=2",), ("seed=3", "optimizer.lr=-1")):
        perform_in_sweep(
            job(folder, *words, "logger=[wandb,tensorboard]", "logger.wandb.mode=offline", "logger.wandb.tags=[mine]")
        )
    patched.undo()
    return folder


def job(folder: Path, *words: str) -> Job:
    register_launcher()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        overrides = [
            "experiment=smoke",
            "trainer.max_epochs=1",
            "trainer.threads=1",
            f"store.dir='{folder.parent / 'store'}'",
            *words,
        ]
        composed = compose("train", overrides, return_hydra_config=True)
    choices: Mapping[str, Any] = composed.hydra.runtime.choices
    settled = settle(plain(composed), dict(choices))
    return Job(settled, overrides, str(folder / f"seed{settled['seed']}"), folder.name)


def test_two_jobs_are_two_runs_of_one_group(sweep: Path, offline: Any) -> None:
    one, two = offline(sweep / "seed1"), offline(sweep / "seed2")
    assert one.id != two.id
    assert {one.name, two.name} == {"seed1", "seed2"}
    assert one.group == two.group == "my sweep"
    assert one.project == two.project == "gmu_lightning"
    assert {"mine", "gmu_original", "text+image", "planted"} <= one.tags


@pytest.mark.parametrize("seed", [1, 2])
def test_the_summary_is_metrics_json(sweep: Path, offline: Any, seed: int) -> None:
    recorded, metrics = offline(sweep / f"seed{seed}").summary, Run(sweep / f"seed{seed}").metrics
    assert {key: recorded.get(key) for key in metrics} == metrics
    assert recorded["test/f1_micro"] == metrics["test/f1_micro"]


def test_the_configuration_is_the_runs_own(sweep: Path, offline: Any) -> None:
    recorded = offline(sweep / "seed1").config
    config = yaml.safe_load((sweep / "seed1/config.yaml").read_text())
    assert {key: recorded[key] for key in config} == json.loads(json.dumps(config))


def test_gates_and_genres_are_shown_as_images(sweep: Path, offline: Any) -> None:
    rows = offline(sweep / "seed1").history
    shown = {key: row[key] for row in rows for key in row if key.startswith("figures/") and key.endswith("/_type")}
    assert shown == {"figures/by_genre/_type": "image-file", "figures/genres/_type": "image-file"}


def test_scores_are_logged_per_epoch(sweep: Path, offline: Any) -> None:
    logged = [row["val/ap_micro"] for row in offline(sweep / "seed1").history if "val/ap_micro" in row]
    assert len(logged) == 1


def test_each_run_ends_as_its_job_did(sweep: Path, offline: Any) -> None:
    assert [offline(sweep / f"seed{seed}").exit_code for seed in (1, 2, 3)] == [0, 0, 1]
    assert [Run(sweep / f"seed{seed}").status["state"] for seed in (1, 2, 3)] == ["finished", "finished", "failed"]


def test_tensorboard_stands_beside_wandb(sweep: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(sweep / "seed1/tensorboard"))
    events.Reload()
    metrics = Run(sweep / "seed1").metrics
    assert events.Scalars("test/f1_micro")[-1].value == pytest.approx(metrics["test/f1_micro"], abs=1e-6)


def test_an_unknown_mode_is_a_sentence(tmp_path: Path) -> None:
    from gmu_lightning.experiment.loggers import open_loggers

    settled = job(tmp_path, "logger=wandb", "logger.wandb.mode=offlin").config
    with pytest.raises(UserError, match=r"logger\.wandb\.mode=offlin is none of online, offline and disabled"):
        open_loggers(settled, Run(tmp_path), None)


def test_a_logger_that_cannot_open_ends_the_ones_before_it_as_failed(
    tmp_path: Path, offline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gmu_lightning.experiment.loggers import open_loggers

    monkeypatch.setitem(sys.modules, "tensorboard", None)
    settled = job(tmp_path, "logger=[wandb,tensorboard]", "logger.wandb.mode=offline").config
    with pytest.raises(UserError, match="logger=tensorboard needs the package tensorboard"):
        open_loggers(settled, Run(tmp_path / "run"), None)
    assert offline(tmp_path / "run").exit_code == 1
