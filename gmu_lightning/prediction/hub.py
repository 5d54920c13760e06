"""Find the folder of an exported model that is named by its place on the Hugging Face hub."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from gmu_lightning.movie import UserError
from gmu_lightning.run_files.exported import FOLDERS, METRICS, READ
from gmu_lightning.visible import first_line, plain_streams

logger = logging.getLogger(__name__)
NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
FETCHED = (*READ, METRICS, *(f"{folder}/*/*.{ending}" for folder in FOLDERS for ending in ("json", "txt", "model")))


def is_hub_name(typed: str) -> bool:
    """Return whether text names a model of the hub, as `USER/NAME`.

    It is a path instead if it exists here, or if its first part does, because it is then a mistyped folder.
    """
    place = Path(typed).expanduser()
    return NAME.fullmatch(typed) is not None and not place.exists() and not place.parent.exists()


def snapshot(name: str) -> Path:
    """Return a folder with the files of a model on the hub, which are downloaded unless they are in the hub's cache.

    Only files that an export writes are downloaded.

    Args:
        name: `USER/NAME`.

    Raises:
        UserError: the model does not exist, is private, or cannot be downloaded.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError

    logger.warning("run=%s is no folder here, so it is looked up on the Hugging Face hub", name)
    again = "give USER/NAME of a model that export pushed, or a folder"
    try:
        with plain_streams():
            return Path(snapshot_download(name, allow_patterns=list(FETCHED)))
    except RepositoryNotFoundError as error:
        raise UserError(
            f"run={name} is no folder here, and the hub has no such model that you may read: {again}; for a private model, "
            "set HF_TOKEN or type hf auth login"
        ) from error
    except Exception as error:  # a network may fail with any exception
        raise UserError(f"run={name} is no folder here, and the hub gave no model ({first_line(error)}): {again}") from error
