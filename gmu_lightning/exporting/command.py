"""The work of `python -m gmu_lightning.export`."""

from __future__ import annotations

import json
from pathlib import Path

from gmu_lightning.exporting.card import write_card
from gmu_lightning.exporting.folder import check_output, replacing, write_model
from gmu_lightning.exporting.push import check_push, push
from gmu_lightning.movie import UserError
from gmu_lightning.prediction.classifier import Classifier, load
from gmu_lightning.prediction.hub import is_hub_name
from gmu_lightning.run_files.exported import is_export


def export(
    run: Path, output: Path, config_dir: str | None = None, onnx: bool = False, to: str | None = None, private: bool = True
) -> None:
    """Export a finished run, and print the folder and, after an upload, its address.

    The folder is loaded once before it takes its place. So its weights, preprocessing and probe are known to agree.

    Args:
        run: its folder.
        output: the folder to write. The folder of an earlier export is replaced.
        config_dir: folder of classes of the user's own that the run may name.
        onnx: whether to write the parts as ONNX too.
        to: `USER/NAME` on the Hugging Face hub, to upload the folder to; None uploads nothing.
        private: whether a repository that is created is private.

    Raises:
        UserError: an argument is wrong, the run cannot be exported, or its parts cannot be written as ONNX. In the last case the
            folder is written without them.
    """
    check_output(output)
    if to is not None:
        check_push(to)
    if onnx:
        from gmu_lightning.exporting.onnx_files import check_installed

        check_installed()
    if is_export(run) or is_hub_name(str(run)):
        raise UserError(f"run={run} is exported already: copy the folder, or give the folder of the run")
    classifier = load(run, config_dir, backend="torch")
    problem = None
    with replacing(output) as folder:
        write_model(classifier, folder)
        write_card(classifier.runs[0], folder)
        load(folder, config_dir, backend="torch")
        if onnx:
            problem = _write_onnx(classifier, folder)
    print(output)
    if onnx and problem is None:
        check = json.loads((output / "onnx" / "check.json").read_text())
        print(f"the ONNX files differ from torch by {check['largest_difference']:.1e} of a logit at the most")
    if problem is not None:
        raise UserError(f"{output} was written without ONNX files, for {problem}: use it with gmu_lightning")
    if to is not None:
        print(push(output, to, private))


def _write_onnx(classifier: Classifier, folder: Path) -> str | None:
    """Write the parts of a model as ONNX; return why there are none, as a clause, or None."""
    from gmu_lightning.exporting.onnx_files import NotExportedError, write_onnx

    try:
        write_onnx(classifier.runs[0], folder)
    except NotExportedError as error:
        return str(error)
    return None
