"""Check a request before torch is imported and a model is loaded, which takes seconds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gmu_lightning.movie import UserError

FORMATS = (".parquet", ".csv", ".jsonl")


def check_request(typed: Mapping[str, str], source: str | None, output: Path | None) -> None:
    """Raise UserError unless either one movie is typed, or an input and an output are given.

    Args:
        typed: parts of the movie.
        source: file or folder of the input, or None.
        output: file of the predictions, or None.
    """
    if bool(typed) == bool(source):
        both = "both movie.* and input= are given" if typed else "no movie is given"
        raise UserError(f'{both}: type movie.text="A boy and a dog" for one movie, or input=FILE output=FILE for many')
    if output is not None:
        check_output(output)
    elif source:
        raise UserError(f"input={source} needs a file for its predictions: add output=predictions.csv (or .parquet, .jsonl)")


def check_output(path: Path) -> None:
    """Raise UserError if a path has an unknown suffix, is a folder, or lies in the folder of a run."""
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"output={path} names no format: give a file that ends in {', '.join(FORMATS)}")
    if path.is_dir():
        raise UserError(f"output={path} is a folder: give a file in it, such as {path / 'predictions.parquet'}")
    if any((folder / "config.yaml").exists() and (folder / "status.json").exists() for folder in path.absolute().parents):
        raise UserError(f"output={path} lies in the folder of a run, which keeps its own files: give another folder")
