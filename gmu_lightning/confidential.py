"""Keep passwords and tokens out of files and messages: refuse typed ones, and replace those of the environment by `***`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

HIDDEN = "***"
SHORTEST = 8  # characters of a secret; a shorter value may be a common word
KEYS = r"(.*[_-])?((api|access|auth|secret|private)[_-]?key([_-]id)?|secret|passw(or)?d|passphrase)|credentials?"
ISSUERS = "api|access|auth|refresh|bearer|hub|hf|github|gitlab|wandb"
SETTING = re.compile(rf"{KEYS}|((.*[_-])?({ISSUERS})[_-]?)?token", re.I)  # the last part of a key; `pad_token` is none
VARIABLE = re.compile(rf"{KEYS}|(.*_)?token|.*_credentials?", re.I)
USER = r"(?<=://)[^/\s:@]*:[^/\s@]+(?=@)|(?<=://)[^/\s:@]{8,}(?=@)"  # the user and password of an address
KNOWN = re.compile(  # shapes of secrets
    rf"{USER}|(?<![A-Za-z0-9])(hf_[A-Za-z0-9]{{16,}}|gh[pousr]_[A-Za-z0-9]{{16,}}|github_pat_\w{{16,}}|glpat-[\w-]{{16,}}|"
    r"sk-[\w-]{20,}|wandb_v\d+_\w{16,}|AKIA[0-9A-Z]{16})|"
    r"(?<=[?&])(access_|auth_)?(token|key|api_key|password|sig|signature|x-amz-signature)=[^&\s]+",
    re.I,
)


def is_secret_name(name: str) -> bool:
    """Return whether the key of a setting, such as `logger.wandb.api_key`, is that of a secret."""
    return SETTING.fullmatch(name.rpartition(".")[2]) is not None


def holds_secret(text: str) -> bool:
    """Return whether text holds a secret of the environment, or looks like one."""
    return KNOWN.search(text) is not None or any(secret in text for secret in _secrets())


def without_secrets(text: str) -> str:
    """Return text with `***` for the secrets of the environment."""
    for secret in _secrets():
        text = text.replace(secret, HIDDEN)
    return text


def without_any(text: str) -> str:
    """Return text with `***` for the secrets of the environment, and for everything that looks like one."""
    return KNOWN.sub(HIDDEN, without_secrets(text))


def secret_in(config: Any, place: str = "") -> str | None:
    """Return the dotted key of the first secret in a configuration; None if there is none."""
    if isinstance(config, Mapping):
        parts = ((f"{place}.{key}" if place else str(key), value) for key, value in config.items())
        return next((found for key, value in parts if (found := secret_in(value, key))), None)
    if isinstance(config, list | tuple):
        return next((found for value in config if (found := secret_in(value, place))), None)
    return place if isinstance(config, str) and config and (is_secret_name(place) or holds_secret(config)) else None


def secret_sentence(key: str) -> str:
    """Return the sentence that refuses a secret under a key."""
    return (
        f"{key} holds a password or a token, and runs record their settings: leave it out, and set it in the environment, as "
        "WANDB_API_KEY for W&B or HF_TOKEN for the Hugging Face hub"
    )


def masked(config: Any, key: str = "") -> Any:
    """Return a configuration with `***` for every secret in it."""
    if isinstance(config, Mapping):
        return {name: masked(value, str(name)) for name, value in config.items()}
    if isinstance(config, list | tuple):
        return [masked(value, key) for value in config]
    return HIDDEN if secret_in(config, key or "value") else config


def _secrets() -> Sequence[str]:
    return _secrets_in(tuple(os.environ.items()))


@lru_cache(maxsize=4)
def _secrets_in(variables: tuple[tuple[str, str], ...]) -> list[str]:
    """Return the values of variables that are named like a secret, and are no paths; the longest first."""
    found = [value for name, value in variables if VARIABLE.fullmatch(name) and len(value) >= SHORTEST]
    return sorted((value for value in found if not value.startswith(("/", "~", "."))), key=len, reverse=True)
