"""Find the checkpoint from which an interrupted run continues."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gmu_lightning.callbacks import BEST, LAST, PREVIOUS
from gmu_lightning.config.identity import differing
from gmu_lightning.files import add_name
from gmu_lightning.movie import UserError
from gmu_lightning.run import disagreeing
from gmu_lightning.run_files.arrays import checkpoint

logger = logging.getLogger(__name__)
NEXT = "repeat its command to go on, choose another hydra.run.dir, or delete the folder"


class Resume(NamedTuple):
    """A checkpoint from which a run continues.

    Attributes:
        path: of the file.
        content: of the file, as `Checkpoints` wrote it.
    """

    path: Path
    content: Mapping[str, Any]

    @property
    def at(self) -> tuple[int, int]:
        """The epoch to continue, counted from 0, and the number of its batches that are done."""
        return self.content["resume"]["epoch"], self.content["resume"]["batch"]

    def __str__(self) -> str:
        epoch, batch = self.at
        return f"continues after {batch} batches of epoch {epoch}" if batch else f"continues after {epoch} epochs"


def latest(
    folder: Path, config: Mapping[str, Any], data_fingerprint: Mapping[str, str], batches: Mapping[str, Any]
) -> Resume | None:
    """Return the newest sound checkpoint of a run; None if it has none, so that it begins anew.

    A damaged checkpoint is named in a warning and left out.

    Args:
        folder: of the checkpoints.
        config: the run's resolved mapping.
        data_fingerprint: of the data as it is now.
        batches: as `Checkpoints` would write it now.

    Raises:
        UserError: the checkpoint was left by a run with other settings, data or batches.
    """
    for name in (LAST, PREVIOUS):
        content = _sound(folder / name)
        if content is None or "resume" not in content:  # the loop without a Trainer starts anew
            continue
        _check(folder.parent, content, config, data_fingerprint, batches)
        best = content["resume"]["best_epoch"]
        if best is not None and ((kept := _sound(folder / BEST)) is None or kept["epoch"] < best):
            logger.warning("%s lacks the weights of epoch %d, the best one: the run begins anew", folder / BEST, best)
            return None
        return Resume(folder / name, content)
    return None


def _sound(path: Path) -> dict[str, Any] | None:
    """Return the content of a checkpoint; None if there is none, or if its bytes have changed since, which is logged."""
    if not path.exists():
        return None
    try:
        found = checkpoint(path)
        with zipfile.ZipFile(path) as archive:
            changed = archive.testzip()  # torch checks no checksums
        if changed is None:
            return found
        why = f"{path} is damaged: its part {changed} has changed"
    except UserError as error:
        why = str(error)
    except OSError as error:
        add_name(error, path)
        why = str(error)
    logger.warning("not used: %s", why)
    return None


def _check(
    folder: Path,
    content: Mapping[str, Any],
    config: Mapping[str, Any],
    data_fingerprint: Mapping[str, str],
    batches: Mapping[str, Any],
) -> None:
    resume = content["resume"]
    settings = differing(content["gmu_lightning"]["config"], config)
    if settings:
        shown = ", ".join(f"{name} was {before}, is {now}" for name, before, now in settings[:3])
        raise UserError(f"{folder} holds an unfinished run of other settings ({shown}): {NEXT}")
    parts = disagreeing(resume["data_fingerprint"], data_fingerprint)
    if parts:
        raise UserError(f"{folder} holds an unfinished run on other data ({', '.join(parts)} changed since): {NEXT}")
    recorded = resume["batches"]
    for name in {**recorded, **batches}:  # a checkpoint of an earlier version may lack a name
        if recorded.get(name) != batches.get(name):
            raise UserError(
                f"{folder} holds an unfinished run with other batches ({name} was {recorded.get(name)}, is {batches.get(name)}), "
                f"so it cannot continue exactly: {NEXT}"
            )
