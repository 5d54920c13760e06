"""One reader per text file of a run or a sweep: each checks shape and types, and names the file in one sentence."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gmu_lightning.movie import MODALITIES
from gmu_lightning.run_files.content import Damaged, is_there, text
from gmu_lightning.run_files.plain import csv_rows, json_object, yaml_mapping
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
    sequence,
    unexpected,
    whole,
    word,
)

KB, MB = 10**3, 10**6
STATES = ("running", "finished", "failed", "skipped", "interrupted")
SCORE = re.compile(
    r"[^/]+/(f1|ap)(_(micro|macro|weighted|samples)(@.*)?|/.*)", re.S
)  # a fraction; other keys of metrics.json are any numbers
HINT_OF_MULTIRUN = "restore it, or remove it, for it only says how the sweep was typed"


def none_if_gone(read: Callable[[Path], Any], path: Path, otherwise: Any) -> Any:
    """Return what `read` gives, or `otherwise` where nothing has this name."""
    return read(path) if is_there(path) else otherwise


def _modalities(value: Any, place: str) -> None:
    word(value, place)
    names = value.split("+")
    if not set(names) <= set(MODALITIES) or len(set(names)) < len(names):
        raise unexpected(value, place, f"names of {', '.join(MODALITIES)}, each once and joined by +,")


def _of_metrics(value: Any, _place: str) -> None:
    for key, entry in value.items():
        check = number(0, 1) if SCORE.fullmatch(key) else either(flag, sequence(number()), maybe(number()))
        check(entry, key)


def _ended(value: Any, _place: str) -> None:
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
        "device": maybe(word),
        "cwd": maybe(word),
        "command": maybe(word),
        "git_commit": maybe(word),
        "python": maybe(word),
        "platform": maybe(word),
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
        **dict.fromkeys(("fusion", "loss", "optimizer", "scheduler", "trainer", "store"), NODE),
        "encoder": maybe(mapping(maybe(NODE))),
        "data": record({}, {"root": maybe(either(number(), word)), "_target_": word}),
        "choices": maybe(mapping(maybe(either(sequence(word), word)))),
        "callbacks": maybe(mapping(maybe(NODE))),
        "encode": maybe(NODE),
        "monitor": word,
    },
)
FINISHED_CONFIG = record({"modalities": _modalities, "seed": whole()})
COMPARED_CONFIG = record(
    {"modalities": _modalities, "seed": whole(), "data": NODE, "store": NODE}, {"logger": maybe(mapping(maybe(NODE)))}
)
BUILT = record({"_target_": word})
EVALUATED_CONFIG = record(
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
    {"encode": maybe(record({}, {"backend": word, "precision": word})), "store": record({}, {"dir": word})},
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
        "jobs": sequence(record({}, {"folder": word, "overrides": sequence(word), "state": word, "why": maybe(word)})),
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


def status(path: Path) -> dict[str, Any]:
    """Return a run's status.json."""
    return json_object(path, MB, _all(STATUS, _ended))


def config(path: Path) -> dict[str, Any]:
    """Return a run's config.yaml: known parts have the right types, values are as the user typed them."""
    return yaml_mapping(path, MB, CONFIG)


def check_finished_config(found: Mapping[str, Any], path: Path) -> None:
    """Check what a run needs to finish. Raises Damaged."""
    _check(FINISHED_CONFIG, found, path)


def check_compared_config(found: Mapping[str, Any], path: Path) -> None:
    """Check what a comparison needs. Raises Damaged."""
    _check(COMPARED_CONFIG, found, path)


def check_evaluated_config(found: Mapping[str, Any], path: Path) -> None:
    """Check what is needed to build data and model. Raises Damaged."""
    _check(EVALUATED_CONFIG, found, path)
    lacking = [m for m in found["modalities"].split("+") if m not in found["encoder"]]
    if lacking:
        raise Damaged(path, f"encoder lacks {lacking[0]}")


def metrics(path: Path) -> dict[str, Any]:
    """Return metrics.json: scores are fractions, other values finite numbers, truth values, lists of numbers or null."""
    return json_object(path, 16 * MB, _of_metrics)


def environment(path: Path) -> dict[str, Any]:
    """Return environment.json."""
    return json_object(path, MB, ENVIRONMENT)


def audit(path: Path) -> dict[str, Any]:
    """Return audit.json."""
    return json_object(path, 256 * MB, AUDIT)


def overrides(path: Path) -> list[str]:
    """Return the lines of overrides.txt."""
    return text(path, MB).splitlines()


def sweep_status(path: Path) -> dict[str, Any]:
    """Return the status.json of a run or a sweep; a sweep's has `jobs`."""
    return json_object(path, 64 * MB, SWEEP)


def search(path: Path) -> dict[str, Any]:
    """Return a sweep's search.json."""
    return json_object(path, 64 * MB, SEARCH)


def multirun(path: Path) -> dict[str, Any]:
    """Return a sweep's multirun.yaml."""
    return yaml_mapping(path, MB, MULTIRUN, HINT_OF_MULTIRUN)


def robustness(path: Path) -> dict[str, Any]:
    """Return the robustness.json of a study."""
    return json_object(path, MB, record({"split": word}))


def robustness_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of robustness.csv."""
    score = _cell(0, 1)
    return csv_rows(path, 16 * MB, {"kind": anything, "subset": anything, "f1_micro": score, "ap_micro": score})


def robustness_genres(path: Path) -> list[dict[str, str]]:
    """Return the rows of robustness_by_genre.csv."""
    return csv_rows(path, 64 * MB, {"subset": anything, "genre": anything, "ap": _cell(0, 1)})


def history(path: Path) -> list[dict[str, str]]:
    """Return the rows of history.csv, each `epoch` a whole number."""
    rows = csv_rows(path, 64 * MB, {"epoch": _epoch})
    for n, row in enumerate(rows):
        for name, value in row.items():
            if name.partition("/")[0] in ("train", "val"):
                try:
                    _cell()(value, f"{name} of row {n + 1}")
                except Unexpected as error:
                    raise Damaged(path, str(error)) from error
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


def _all(*checks: Check) -> Check:
    def every(value: Any, place: str) -> None:
        for check in checks:
            check(value, place)

    return every


def _check(check: Check, found: Mapping[str, Any], path: Path) -> None:
    try:
        check(dict(found), "")
    except Unexpected as error:
        raise Damaged(path, str(error)) from error
