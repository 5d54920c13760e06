"""Choices that do not go together with each other, or with this machine."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from gmu_lightning.config.groups import choices_of
from gmu_lightning.config.identity import identity
from gmu_lightning.config.schema import RunConfig
from gmu_lightning.experiment import choices
from gmu_lightning.fusion import LinearHead, Mean
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


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("data.missing.video=0.7",),
            "^data.missing.video=0.7 is of no modality of modalities=text.image: leave it out, or add ",
        ),
        (
            ("data.missing.text=0.7", "data.missing.image=0.4"),
            "^data.missing.text=0.7 and .* add up to more than 1, and no",
        ),
        (("modalities=text", "fusion=none", "data.missing.text=0.7"), "^data.missing.text=0.7 would leave nothing of a movie of"),
    ],
)
def test_rates_that_do_not_suit_the_modalities_are_skipped(run_config, words, sentence):
    with pytest.raises(IncompatibleChoices, match=sentence):
        choices.check_choices(run_config("experiment=smoke", *words))


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("data.missing.image=1", "^data.missing.image=1 is not possible: give a number from 0 on and below 1$"),
        ("data.missing.image=-0.1", "^data.missing.image=-0.1 is not possible"),
        (
            "data.missing.splits=[train,dev]",
            "^data.missing.splits=.* is not possible: give a list of train, val and test",
        ),
        ("data.missing=0.3", "^data.missing=0.3 is not possible: give rates by modality, such as data.missing.image=0.7$"),
        ("data.missing.seed=-1", "^data.missing.seed=-1 is not possible"),
        ("data.train_share=0", "^data.train_share=0 is not possible: give a number above 0 up to 1$"),
        ("data.train_share=1.2", "^data.train_share=1.2 is not possible"),
        ("data.split=randm", "^data.split=randm does not exist: did you mean random.* valid are published, random$"),
        ("data.split_seed=-1", "^data.split_seed=-1 is not possible: give a whole number from 0 on"),
    ],
)
def test_a_draw_out_of_range_is_refused(run_config, word, sentence):
    with pytest.raises(UserError, match=sentence):
        choices.check_choices(run_config("experiment=smoke", word))


def test_rates_that_leave_a_modality_to_every_movie_are_accepted(run_config):
    choices.check_choices(run_config("experiment=smoke", "data.missing.text=0.9", "data.missing.image=0.1"))


BALANCED = ("training=ogm_ge", "training=unimodal_loss")


@pytest.mark.parametrize("fusion", [name for name in choices_of("fusion") if name != "none"])
def test_a_method_is_refused_for_fusions_without_unimodal_logits(run_config, fusion):
    config = run_config("experiment=smoke", f"fusion={fusion}", "encoder/text=minilm", "training=unimodal_loss")
    encoders = {m: SimpleNamespace(dim=4, sequences=True) for m in config.modalities}
    made = config.fusion.make(**config.fusion.target.arguments(encoders))
    if made.needs == "vector":  # no attention mixes the modalities
        present = torch.tensor([[True, True], [True, False]])
        fused, head = made({m: torch.randn(2, 4) for m in encoders}, present), made.head(3)
        alone = head.unimodal(fused, present)
        if isinstance(head, LinearHead) and alone is not None:
            assert torch.allclose(alone[1, 0], head(fused)[1], atol=1e-6)
    if made.needs == "vector" and alone is not None:
        choices.check_choices(config)
    else:
        why = f"^training=unimodal_loss reads a prediction of each modality by itself and fusion={fusion} has none: "
        with pytest.raises(IncompatibleChoices, match=why + r"choose fusion=concat, .*, sum, or training=none$"):
            choices.check_choices(config)


REFUSED = {
    "modalities=text fusion=none": r"balances several modalities and modalities=text names one: choose training=none, or more$",
    "fusion.head=maxout": r"has none: choose fusion.head=linear, or training=none$",
    "trainer.strategy=fsdp": r"reads whole gradients and trainer.strategy=fsdp may divide them: type ddp instead$",
}


@pytest.mark.parametrize("words", REFUSED)
def test_a_method_is_refused_where_it_cannot_work(run_config, words):
    with pytest.raises(IncompatibleChoices, match=REFUSED[words]):
        choices.check_choices(run_config("experiment=smoke", "training=ogm_ge", *words.split()))


WRONG = {
    "training.starts=2": r"training=ogm_ge begins at epoch training.starts=2, and the last epoch is 1: give an earlier one",
    "training.starts=1 training.ends=0": r"training.ends=0 is before training.starts=1: give a later epoch, or null for the last",
    "training.alpha=-1": r"training.alpha=-1 is not possible: give a number from 0 on",
    "training._target_=gmu_lightning.fusion.Mean": r"is no subclass of gmu_lightning.balance.PlainTraining: derive the class",
}


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_option_of_a_method_is_refused(run_config, words):
    with pytest.raises(UserError, match=WRONG[words]) as refused:
        choices.check_choices(run_config("experiment=smoke", "training=ogm_ge", *words.split()))
    assert not isinstance(refused.value, IncompatibleChoices)


def test_plain_training_leaves_the_identity_of_older_runs(run_config):
    plain = run_config("experiment=smoke")
    older = {key: value for key, value in plain.mapping.items() if key != "training"}
    assert identity(older) == plain.identity and RunConfig.of(older).training.target is plain.training.target
    others = [
        run_config("experiment=smoke", *words).identity for words in (*[[m] for m in BALANCED], [BALANCED[0], "training.alpha=1"])
    ]
    assert len({plain.identity, *others}) == 4
