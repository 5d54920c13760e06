"""Choices that do not go together with each other, or with this machine."""

from __future__ import annotations

import pytest

from gmu_lightning.experiment import choices
from gmu_lightning.fusion import Mean
from gmu_lightning.losses import CrossEntropy
from gmu_lightning.movie import IncompatibleChoices, UserError

MANY = "trainer.devices=9"


@pytest.fixture
def on_four_cores(monkeypatch, run_config):
    """Return a function that checks the choices of a run on a machine with four cores, no GPU, and no launcher of processes."""
    monkeypatch.setattr(choices, "cores", lambda: 4)
    monkeypatch.setattr(choices, "has_accelerator", lambda name: name not in ("gpu", "cuda", "mps"))
    for name in ("SLURM_NTASKS", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return lambda *words: choices.check_choices(run_config("experiment=smoke", *words))


@pytest.mark.parametrize("accelerator", ["cpu", "auto"])
@pytest.mark.parametrize("devices", ["5", "99", "'7'"])
def test_more_processes_than_cores_are_refused(on_four_cores, accelerator, devices):
    with pytest.raises(
        UserError, match=r"would start \d+ processes on a CPU, and this machine has room for 4: type trainer.devices=1"
    ):
        on_four_cores(f"trainer.devices={devices}", f"trainer.accelerator={accelerator}")


@pytest.mark.parametrize("devices", ["1", "4", "auto", "-1", "[0,1,2,3,4,5]"])  # Lightning refuses the last two itself
def test_other_numbers_of_devices_are_left_to_lightning(on_four_cores, devices):
    on_four_cores(f"trainer.devices={devices}", "trainer.accelerator=cpu")


def test_two_processes_fit_on_one_core(on_four_cores, monkeypatch):
    monkeypatch.setattr(choices, "cores", lambda: 1)
    on_four_cores("trainer.devices=2", "trainer.accelerator=cpu")


OF_TASK = {"bce": "multilabel", "asymmetric": "multilabel", "cross_entropy": "multiclass"}


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
@pytest.mark.parametrize("loss", [*OF_TASK, "auto"])
def test_a_loss_of_another_task_is_refused(run_config, loss, task):
    config = run_config("experiment=smoke", f"loss={loss}", f"+data.task={task}")
    if OF_TASK.get(loss, task) == task:
        choices.check_choices(config)
    else:
        with pytest.raises(IncompatibleChoices, match=f"loss={loss} is of data.task={OF_TASK[loss]}, and data.task={task} here"):
            choices.check_choices(config)


def test_a_loss_of_the_user_is_for_several_labels(run_config, monkeypatch):
    monkeypatch.delattr(CrossEntropy, "tasks")
    choices.check_choices(run_config("experiment=smoke", "loss=cross_entropy"))
    with pytest.raises(IncompatibleChoices, match=r"loss=cross_entropy is of data.task=multilabel"):
        choices.check_choices(run_config("experiment=smoke", "loss=cross_entropy", "+data.task=multiclass"))


def test_a_head_without_task_is_refused_for_single_labels(run_config, monkeypatch):
    monkeypatch.setattr(Mean, "head", lambda self, genres: None, raising=False)
    choices.check_choices(run_config("experiment=smoke", "fusion=mean"))
    with pytest.raises(IncompatibleChoices, match=r"fusion=mean has a head for data.task=multilabel alone"):
        choices.check_choices(run_config("experiment=smoke", "fusion=mean", "+data.task=multiclass"))


@pytest.mark.parametrize("name", ["SLURM_NTASKS", "WORLD_SIZE"])
def test_processes_that_another_program_starts_are_allowed(on_four_cores, monkeypatch, name):
    monkeypatch.setenv(name, "9")
    on_four_cores(MANY, "trainer.accelerator=cpu")


def test_devices_of_a_gpu_are_counted_by_lightning(on_four_cores, monkeypatch):
    monkeypatch.setattr(choices, "has_accelerator", lambda name: True)
    on_four_cores(MANY, "trainer.accelerator=auto")
