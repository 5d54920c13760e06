"""Read the text files of a run or a sweep, with one reader per file.

Each reader checks shape and types. It raises FileNotFoundError, or Damaged with one sentence that names the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, get_args

from gmu_lightning.decisions import Task
from gmu_lightning.movie import MODALITIES, SPLITS, UNKNOWN, UserError
from gmu_lightning.run_files.plain import checking, csv_rows, is_there, json_object, text, yaml_mapping
from gmu_lightning.run_files.shapes import (
    Check,
    Unexpected,
    anything,
    either,
    flag,
    mapping,
    maybe,
    number,
    one_of,
    record,
    same_keys,
    sequence,
    unexpected,
    whole,
    word,
)

KB, MB = 10**3, 10**6
STATES = ("running", "finished", "failed", "skipped", "interrupted")
SCORE = re.compile(
    r"[^/]+/(accuracy|(f1|ap)(_(micro|macro|weighted|samples)(@.*)?|/.*))", re.S
)  # keys whose values are fractions; other keys of metrics.json have any numbers
HINT_OF_MULTIRUN = "restore it, or remove it, for it only says how the sweep was typed"


def none_if_gone(read: Callable[[Path], Any], path: Path, otherwise: Any) -> Any:
    """Return `read(path)`, or `otherwise` if the path does not exist. A dangling link exists."""
    return read(path) if is_there(path) else otherwise


def _modalities(value: Any, place: str) -> None:
    word(value, place)
    if value == UNKNOWN:  # of adopted predictions
        return
    names = value.split("+")
    if not set(names) <= set(MODALITIES) or len(set(names)) < len(names):
        raise unexpected(value, place, f"names of {', '.join(MODALITIES)}, each once and joined by +,")


def _of_metrics(value: Any, _place: str) -> None:
    for key, entry in value.items():
        check = number(0, 1) if SCORE.fullmatch(key) else either(flag, sequence(number()), maybe(number()))
        check(entry, key)


def _status(value: Any, place: str) -> None:
    STATUS(value, place)
    if value["state"] == "finished":
        word(value.get("ended"), "ended")


STATUS = record(
    {
        "state": one_of(*STATES),
        "why": maybe(word),
        "warnings": sequence(word),
        "started": word,
        "identity": word,
        "setting": word,
    },
    {"ended": maybe(word)},
)
ENVIRONMENT = record(
    {},
    {
        "data_fingerprint": mapping(word),
        "packages": mapping(maybe(word)),
        "encode": mapping(mapping(anything)),
        **dict.fromkeys(("device", "cwd", "command", "git_commit", "python", "platform"), maybe(word)),
        "threads": maybe(whole()),
    },
)
AUDIT = record(
    {},
    {
        "layout": maybe(word),
        "movies": mapping(whole()),
        "genres": mapping(mapping(whole())),
        "problems": sequence(record({"kind": word, "action": word}, {"id": word, "file": word, "split": word, "detail": word})),
        "counts": mapping(whole()),
    },
)
NODE = mapping(anything)
CONFIG = record(
    {},
    {
        **dict.fromkeys(("fusion", "loss", "optimizer", "scheduler", "training", "trainer", "store"), NODE),
        "encoder": maybe(mapping(maybe(NODE))),
        "data": record({}, {"root": maybe(either(number(), word)), "_target_": word}),
        "choices": maybe(mapping(maybe(either(sequence(word), word)))),
        "callbacks": maybe(mapping(maybe(NODE))),
        "encode": maybe(NODE),
        "monitor": word,
        "config_dir": maybe(word),
        "adopted": maybe(record({"name": word, "sources": sequence(record({"file": word, "sha256": word}))})),
    },
)
FINISHED = record({"modalities": _modalities, "seed": whole()})
COMPARED = record(
    {"modalities": _modalities, "seed": whole(), "data": NODE, "store": NODE}, {"logger": maybe(mapping(maybe(NODE)))}
)
BUILT = record({"_target_": word})
EVALUATED = record(
    {
        "modalities": _modalities,
        "seed": whole(),
        "monitor": word,
        "data": record({"_target_": word, "batch_size": whole(1, 10**6)}, {"workers": whole(0, 1000), "movies": whole(1)}),
        "encoder": mapping(BUILT),
        "fusion": BUILT,
        "loss": BUILT,
        "optimizer": record({"_target_": word, "lr": number()}),
        "scheduler": anything,
        "trainer": record(
            {"accelerator": word, "precision": either(whole(), word), "max_epochs": whole(1), "accumulate_grad_batches": whole(1)}
        ),
    },
    {"encode": maybe(record({}, {"backend": word, "precision": word})), "store": record({}, {"dir": word}), "training": BUILT},
)
TRIAL = record({"params": mapping(anything), "score": maybe(number())})
RANGE = either(
    record({"choices": sequence(either(flag, number(), maybe(word)), least=1)}),
    record({"low": number(), "high": number()}, {"log": maybe(flag)}),
)
SEARCH = record(
    {
        "trials": whole(1),
        "space": mapping(RANGE),
        "seed": whole(),
        "monitor": word,
        "settings": sequence(
            record(
                {
                    "overrides": sequence(word),
                    "why_not": maybe(word),
                    "trials": sequence(TRIAL),
                    "best": maybe(mapping(either(flag, number(), maybe(word)))),
                }
            )
        ),
    }
)
SWEEP = record(
    {},
    {
        "jobs": sequence(record({}, {"folder": maybe(word), "overrides": sequence(word), "state": word, "why": maybe(word)})),
        "not_begun": sequence(sequence(word)),
    },
)
MULTIRUN = record(
    {
        "hydra": record(
            {
                "overrides": record({"hydra": sequence(word)}),
                "runtime": record({"config_sources": sequence(record({"path": word, "provider": word}))}),
            }
        )
    }
)

UNIT, INTERVAL = number(-1, 1), record({"mean": number()}, {"low": maybe(number()), "high": maybe(number())})
BY_METRIC = record({"f1_micro": UNIT, "ap_micro": UNIT})
BITS = {"redundant": maybe(number()), "unique": mapping(maybe(number())), "joint": maybe(number())}
CHANGED = maybe(record({"f1_micro": INTERVAL, "ap_micro": INTERVAL}))


def _diagnosis(value: Any, place: str) -> None:
    DIAGNOSIS(value, place)
    modalities, genres = value["shapley"], value["information_bits"]
    same_keys(value["shapley_by_genre"], genres, "shapley_by_genre")
    for genre, worth in value["shapley_by_genre"].items():
        same_keys(worth, modalities, f"shapley_by_genre.{genre[:40]}")
    same_keys(value["information_mean"]["unique"], modalities, "information_mean.unique")


DIAGNOSIS = record(
    {
        "split": one_of(*SPLITS),
        "movies": whole(1),
        "task": one_of(*get_args(Task)),
        "data_fingerprint": mapping(word),
        "score": BY_METRIC,
        "empty": BY_METRIC,
        **dict.fromkeys(("gates_permuted", "gates_mean", "emap"), CHANGED),
        "shapley": mapping(BY_METRIC),
        "shapley_by_genre": mapping(mapping(maybe(UNIT))),
        "information_bits": mapping(record(BITS)),
        "information_mean": record({"redundant": INTERVAL, "unique": mapping(INTERVAL), "joint": INTERVAL}),
    },
    {"seed": whole(), "permutations": whole(1), "partners": maybe(whole(1)), "complete": flag, "calibrated_on": word},
)

# Each reader takes the file's path.
status = partial(json_object, most=MB, check=_status)
config = partial(yaml_mapping, most=MB, check=CONFIG)  # values stay as the user typed them
metrics = partial(json_object, most=16 * MB, check=_of_metrics)
environment = partial(json_object, most=MB, check=ENVIRONMENT)
audit = partial(json_object, most=256 * MB, check=AUDIT)
sweep_status = partial(json_object, most=64 * MB, check=SWEEP)  # of a run or a sweep; a sweep's has `jobs`
search = partial(json_object, most=64 * MB, check=SEARCH)
multirun = partial(yaml_mapping, most=MB, check=MULTIRUN, hint=HINT_OF_MULTIRUN)
robustness = partial(json_object, most=MB, check=record({"split": word}))
diagnosis = partial(json_object, most=64 * MB, check=_diagnosis)


def is_adopted(config: Mapping[str, Any]) -> bool:
    """Return whether a run holds predictions that were made elsewhere, and so no model, seconds or parameters."""
    return config.get("adopted") is not None


def check_config(found: Mapping[str, Any], path: Path, needed: Check) -> None:
    """Check the keys of config.yaml that a task needs. Raises Damaged, and UserError if a model is needed and the run has none.

    Args:
        found: the content of config.yaml.
        path: of config.yaml.
        needed: `FINISHED` for a run that finished, `COMPARED` for a comparison, or `EVALUATED` to build data and model again.
    """
    if needed is EVALUATED and is_adopted(found):
        raise UserError(
            f"{path.parent} holds adopted predictions and no model, so only compare, leaderboards and reports read it: give the "
            "folder of a run that train wrote"
        )
    with checking(path):
        needed(found, "")
        if needed is EVALUATED and (lacking := [m for m in found["modalities"].split("+") if m not in found["encoder"]]):
            raise Unexpected(f"encoder lacks {lacking[0]}")


def check_root(found: Mapping[str, Any], path: Path) -> None:
    """Check that the folder or file of a run's data is still there, because a data set may write to an empty one.

    Args:
        found: the content of config.yaml.
        path: of config.yaml.

    Raises:
        UserError: it does not exist, or is an empty folder.
    """
    root = found["data"].get("root")
    if root is None:
        return
    place = Path(str(root)).expanduser()
    try:
        there = any(place.iterdir()) if place.is_dir() else place.exists()
    except (OSError, ValueError):
        there = False
    if not there:
        raise UserError(f"{path} names the data {root}, which are not there: give data.root=PATH")


def overrides(path: Path) -> list[str]:
    """Return the lines of overrides.txt, none for a run without overrides. Raises FileNotFoundError or Damaged."""
    typed = not path.is_file() or path.stat().st_size
    return text(path, MB).splitlines() if typed else []


def robustness_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of robustness.csv, all values as text. Raises FileNotFoundError or Damaged."""
    score = _cell(0, 1)
    return csv_rows(path, 16 * MB, {"kind": anything, "subset": anything, "f1_micro": score, "ap_micro": score})


def robustness_genres(path: Path) -> list[dict[str, str]]:
    """Return the rows of robustness_by_genre.csv, all values as text. Raises FileNotFoundError or Damaged."""
    return csv_rows(path, 64 * MB, {"subset": anything, "genre": anything, "ap": _cell(0, 1)})


def history(path: Path) -> list[dict[str, str]]:
    """Return the rows of history.csv, all values as text. Raises FileNotFoundError or Damaged.

    `epoch` is checked to be a whole number. Cells of `train/` and `val/` columns are empty or hold a finite number.
    """
    rows = csv_rows(path, 64 * MB, {"epoch": _epoch})
    with checking(path):
        for n, row in enumerate(rows):
            for name, value in row.items():
                if name.partition("/")[0] in ("train", "val"):
                    _cell()(value, f"{name} of row {n + 1}")
    return rows


def _cell(low: float = -float("inf"), high: float = float("inf")) -> Check:
    """Return the check of a cell that is empty or holds a finite number."""

    def check(value: Any, place: str) -> None:
        try:
            found = float(value) if value else None
        except ValueError:
            raise unexpected(value, place, "a number") from None
        maybe(number(low, high))(found, place)

    return check


def _epoch(value: Any, place: str) -> None:
    if not (value.isascii() and value.isdecimal() and len(value) < 10):
        raise unexpected(value, place, "a whole number")
