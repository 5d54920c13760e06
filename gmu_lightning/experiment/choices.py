"""Check that the choices of a run go together, before any data is read."""

from __future__ import annotations

import os
from typing import Any

from gmu_lightning.balance import PlainTraining
from gmu_lightning.config.schema import PartConfig, RunConfig, TrainerConfig
from gmu_lightning.data.datamodule import MovieDataModule
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.experiment.environment import has_accelerator
from gmu_lightning.fusion import Fusion, balance_mismatch, head_mismatch, mismatch, prefix_mismatch
from gmu_lightning.movie import IncompatibleChoices, UserError
from gmu_lightning.parallel import cores

ROUNDING = 1e-9  # of a sum of rates
WHOLE_GRADIENTS = ("auto", "ddp", "single")  # beginnings of strategies under which each process holds whole gradients


def check_choices(config: RunConfig) -> None:
    """Check every part's arguments, and that data, modalities and fusion go together, as their classes declare.

    Raises:
        IncompatibleChoices: they do not go together.
        UserError: a class cannot be imported or takes no such argument, or this machine lacks the accelerator.
    """
    check_kinds(config)
    parts = (config.data, config.fusion, config.loss, config.optimizer, config.scheduler, config.training)
    for part in (*parts, *config.encoder.values()):
        part.check_arguments()
    data, fusion, choices, modalities = config.data.target, config.fusion.target, config.choices, config.modalities
    offered = data.reads.offers(config.data.node)
    absent = [m for m in modalities if m not in offered]
    if absent:
        raise IncompatibleChoices(
            f"data={choices.get('data', data.__name__)} has no {' and no '.join(absent)}: "
            f"choose modalities among {', '.join(offered)}"
        )
    if problem := _missing_mismatch(config):
        raise IncompatibleChoices(problem)
    name = choices.get("fusion", fusion.__name__)
    problem = mismatch(fusion, name, modalities) or head_mismatch(fusion, name, config.data.task) or _loss_mismatch(config)
    problem = problem or _training_mismatch(config, name)
    if problem is None and "text" in modalities:
        text = config.encoder["text"].target
        problem = prefix_mismatch(fusion, name, text, choices.get("encoder/text", text.__name__))
    if problem is not None:
        raise IncompatibleChoices(problem)
    _check_devices(config.trainer)


def _missing_mismatch(config: RunConfig) -> str | None:
    """Return why the rates of `data.missing` do not suit the modalities, as a sentence; None if they do."""
    rates, modalities = config.data.missing.rates, config.modalities
    typed = " and ".join(f"data.missing.{m}={rate:g}" for m, rate in rates.items())
    unused = [m for m in rates if m not in modalities]
    if unused:
        rate = f"data.missing.{unused[0]}={rates[unused[0]]:g}"
        return (
            f"{rate} is of no modality of modalities={'+'.join(modalities)}: leave it out, or add {unused[0]} to the modalities"
        )
    if sum(rates.values()) <= len(modalities) - 1 + ROUNDING:
        return None
    if len(modalities) == 1:
        return f"{typed} would leave nothing of a movie of modalities={modalities[0]}: leave it out, or add a modality"
    return (
        f"{typed} add up to more than {len(modalities) - 1}, and no movie loses all of its {len(modalities)} modalities: "
        "give lower rates"
    )


def _loss_mismatch(config: RunConfig) -> str | None:
    """Return why the loss does not serve the task, as a sentence; None if it does."""
    task, loss = config.data.task, config.loss.target
    tasks = getattr(loss, "tasks", ("multilabel",))
    if task in tasks:
        return None
    return (
        f"loss={config.choices.get('loss', loss.__name__)} is of data.task={' or '.join(tasks)}, and data.task={task} here: "
        "leave loss out, or choose one of this task"
    )


def _training_mismatch(config: RunConfig, fusion: str) -> str | None:
    """Return why the training method does not go with the fusion called `fusion`, or with the trainer, as a sentence, or None.

    Raises:
        UserError: an argument of the method is wrong, or no epoch of the run has changed gradients.
    """
    method, trainer = config.training.target, config.trainer
    if not method.splits:
        return None
    name = config.choices.get("training", method.__name__)
    head = str(config.fusion.node.get("head", "linear"))
    problem = balance_mismatch(config.fusion.target, fusion, head, config.modalities, name)
    if problem is not None or not method.modulates:
        return problem
    if not trainer.strategy.startswith(WHOLE_GRADIENTS):
        return f"training={name} reads whole gradients and trainer.strategy={trainer.strategy} may divide them: type ddp instead"
    if not any(config.training.make().is_active(epoch) for epoch in range(trainer.max_epochs)):
        raise UserError(
            f"training={name} begins at epoch training.starts={config.training.node.get('starts')}, and the last epoch is "
            f"{trainer.max_epochs - 1}: give an earlier one"
        )
    return None


def check_kinds(config: RunConfig) -> None:
    """Check that data, fusion and encoders are classes of their kind. Raises UserError, also for one that cannot be imported."""
    kinds: list[tuple[PartConfig, type]] = [
        (config.data, MovieDataModule),
        (config.fusion, Fusion),
        (config.training, PlainTraining),
    ]
    kinds += [(part, Encoder) for part in config.encoder.values()]
    for part, kind in kinds:
        found, named = part.target, f"{part.place}._target_={part.node['_target_']}"
        if not (isinstance(found, type) and issubclass(found, kind)):
            raise UserError(f"{named} is no subclass of {kind.__module__}.{kind.__name__}: derive the class from it")
        if kind is MovieDataModule and not hasattr(found, "reads"):
            raise UserError(f"{named} names no data set: write `reads = ` and your subclass of DataSet into the class")


def _check_devices(trainer: TrainerConfig) -> None:
    """Raise UserError if this machine lacks the accelerator, or has fewer cores than the run would start processes on a CPU."""
    if not has_accelerator(trainer.accelerator):
        raise UserError(
            f"trainer.accelerator={trainer.accelerator} finds no such device on this machine: type trainer.accelerator=cpu, or "
            "trainer.accelerator=auto, which takes a GPU where there is one"
        )
    on_cpu = trainer.accelerator == "cpu" or not has_accelerator("gpu")
    launched = {"SLURM_NTASKS", "WORLD_SIZE"} & os.environ.keys()  # by Slurm or torchrun, on cores of their own
    most = max(2, cores())
    if on_cpu and not launched and (processes := _number_of(trainer.devices)) > most:
        raise UserError(
            f"trainer.devices={trainer.devices} would start {processes} processes on a CPU, and this machine has room for "
            f"{most}: type trainer.devices=1, which takes every core"
        )


def _number_of(devices: Any) -> int:
    """Return how many processes Lightning starts on a CPU for a `trainer.devices`; 1 for one that it refuses or `auto`."""
    text = str(devices)
    return int(text) if text.isdecimal() else 1
