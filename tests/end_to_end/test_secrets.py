"""Passwords and tokens of the environment, or typed ones, are in no file and no message."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gmu_lightning.cli.command_line import refuse_secrets
from gmu_lightning.confidential import SHORTEST, holds_secret, masked, secret_in, without_any
from gmu_lightning.files import write_json
from gmu_lightning.movie import UserError

from .forked import forks
from .shell import PATIENCE, SMOKE, environment, last_line

CANARY = "c4n4ryc4n4ryc4n4ryc4n4ryc4n4ryc4n4ryc4n4"  # forty characters, as W&B's keys
VARIABLES = {"WANDB_API_KEY": CANARY, "HF_TOKEN": f"hf_{CANARY}", "MY_DB_PASSWORD": f"pw-{CANARY}"}
LEAKY = """
import os

from gmu_lightning.fusion import Mean


class Leaky(Mean):
    def __init__(self, *given, **options):
        raise RuntimeError("https://me:pw%40@host refused " + os.environ["HF_TOKEN"])
"""


def run(folder: Path, store: Path, *words: str, **variables: str):
    """Run a command with further variables."""
    done = forks().run(["gmu_lightning.train", *words], folder, environment(store, **variables), PATIENCE)
    return done.returncode, done.stdout + done.stderr


def holding(folder: Path, secret: str) -> list[str]:
    """Return the files under a folder that hold a secret in their bytes or their names."""
    found = [path for path in folder.rglob("*") if secret in path.name]
    return [str(path) for path in [*found, *(p for p in folder.rglob("*") if p.is_file() and secret.encode() in p.read_bytes())]]


@pytest.mark.heavy
def test_no_file_of_a_sweep_holds_a_secret(store, tmp_path):
    (tmp_path / "parts/fusion").mkdir(parents=True)
    (tmp_path / "parts/leaky.py").write_text(LEAKY)
    (tmp_path / "parts/fusion/leaky.yaml").write_text("_target_: leaky.Leaky\n_partial_: true\n")
    words = ("-m", "--config-dir", "parts", *SMOKE, "fusion=mean,leaky", "hydra.sweep.dir=sweep", "logger=[wandb,tensorboard]")
    code, printed = run(tmp_path, store, *words, "logger.wandb.mode=offline", HYDRA_FULL_ERROR="1", **VARIABLES)
    jobs = {job["state"]: job for job in json.loads((tmp_path / "sweep/status.json").read_text())["jobs"]}
    assert (code, set(jobs)) == (1, {"finished", "failed"}), printed
    assert jobs["failed"]["why"] == "RuntimeError: https://***@host refused ***"
    assert list(tmp_path.glob("sweep/*/error.txt")) and list(tmp_path.glob("sweep/*/wandb"))
    assert not holding(tmp_path / "sweep", CANARY) and CANARY not in printed


@pytest.mark.parametrize(
    "word",
    [
        f"+logger.wandb.api_key={CANARY}",
        f"logger.wandb.entity={CANARY}",
        f"encoder.text.name=https://user:{CANARY}@huggingface.co/a/b",
        f"data.root=hf_{CANARY}",
        "data.root=${oc.env:HF_TOKEN}",
        f"+hydra.job.env_set.WANDB_API_KEY={CANARY}",
    ],
)
def test_a_typed_secret_is_refused_and_not_shown(store, tmp_path, word):
    code, printed = run(
        tmp_path, store, *SMOKE, word, "hydra.run.dir=run", "logger=wandb", "logger.wandb.mode=offline", **VARIABLES
    )
    assert code == 1 and "holds a password or a token, and runs record their settings: leave it out" in last_line(printed)
    assert CANARY not in printed and not holding(tmp_path, CANARY)


@pytest.mark.parametrize(
    "word",
    [
        *("x.api_key=abc", "x.token=abc", "x.hf_token=abc", "a.password=b", "wandb.secret=b", "a=https://user:pass@host/x"),
        *("a=s3://k?access_token=123", "a=ghp_0123456789abcdefghij", "+a.b=[hf_0123456789abcdefghij]", "hf_0123456789abcdefghij"),
    ],
)
def test_what_looks_like_a_secret_is_refused(word):
    with pytest.raises(UserError) as refused:
        refuse_secrets(["seed=1", word])
    assert "0123" not in str(refused.value) and "pass@" not in str(refused.value) and "=abc" not in str(refused.value)


@pytest.mark.parametrize(
    "word",
    [
        *("data.token_budget=2048", "encoder.text.max_tokens=256", "encoder.image.num_tokens=3", "+encoder.text.pad_token=0"),
        *("data.root=/disk-0123456789abcdefghijklmnop", "fusion.key=1", "hydra.sweep.dir=a@b", "data.root=user@host", "api_key="),
    ],
)
def test_other_settings_are_typed_as_before(word):
    refuse_secrets([word])


def test_text_files_hold_no_secret_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", CANARY)
    write_json(tmp_path / "a.json", {"a": f"x{CANARY}y", "b": "https://me:mine@host"})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": "x***y", "b": "https://me:mine@host"}


def test_a_configuration_is_shown_without_secrets(monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "very secret")
    monkeypatch.setenv("SHORT_TOKEN", "x" * (SHORTEST - 1))
    monkeypatch.setenv("KEY_TOKEN", "/a/path/to/a/key")
    config = {"a": [{"b": "is very secret"}], "password": "x", "c": f"{'x' * 7} /a/path/to/a/key", "token": None, "n": 1}
    assert masked(config) == {**config, "a": [{"b": "***"}], "password": "***"}
    assert (
        secret_in(config) == "a.b" and secret_in({"x": {"api_key": "k"}}) == "x.api_key" and secret_in({"c": config["c"]}) is None
    )
    assert without_any("very secret, https://me:you@host") == "***, https://***@host"
    assert holds_secret("xvery secretx")
