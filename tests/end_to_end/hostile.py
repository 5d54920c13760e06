"""Hostile and damaged run folders: each case changes one file of a sound run, and names the exit code that a command owes."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

CANARY = "canary"  # a file beside the run that no command may touch
ESCAPES = "\x1b[2J\x1b]0;owned\x07\u202egnp\x9b31m"
Change = Callable[[Path], Any]


@dataclass(frozen=True)
class Case:
    """One change to a folder.

    Attributes:
        command: `evaluate` reads one changed run; `compare` and `dashboard` read a sweep whose first run is changed.
        file: the changed file, relative to the run. A name that begins with `../` is in the folder of the sweep.
        code: expected exit code; None if 0 and 1 are both correct.
        words: overrides in addition to `run=` or `runs=`.
    """

    id: str
    command: str
    file: str
    change: Change
    code: int | None = 1
    words: tuple[str, ...] = ()


class Runs:
    """An object that writes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "touched")


def written(content: bytes) -> Change:
    """The file has this content."""
    return lambda path: path.write_bytes(content)


def replaced(make: Change) -> Change:
    """Put another object in the place of the file."""

    def change(path: Path) -> None:
        path.unlink(missing_ok=True)
        make(path)

    return change


def large(path: Path) -> None:
    """A sparse file of 80 GB."""
    with path.open("wb") as file:
        file.truncate(80 * 10**9)


KINDS: dict[str, Change] = {
    "empty": written(b""),
    "not utf-8": written(b"\xff\xfe\x80{}"),
    "null bytes": written(b"\0" * 100),
    "folder": replaced(lambda path: path.mkdir()),
    "pipe": replaced(os.mkfifo),
    "zeros": replaced(lambda path: path.symlink_to("/dev/zero")),
    "terminal": replaced(lambda path: path.symlink_to("/dev/tty")),
    "gone": replaced(lambda path: path.symlink_to("nowhere")),
    "loop": replaced(lambda path: path.symlink_to(path.name)),
    "environ": replaced(lambda path: path.symlink_to("/proc/self/environ")),
    "shadow": replaced(lambda path: path.symlink_to("/etc/shadow")),
    "oversized": large,
}
CUT: dict[str, Change] = {"truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])}


def json_text(change: Callable[[str], str]) -> Change:
    """The JSON text is changed."""
    return lambda path: path.write_text(change(path.read_text()))


JSON: dict[str, Change] = {
    "list": written(b"[1]"),
    "number": written(b"7"),
    "null": written(b"null"),
    "deep": written(b"[" * 100_000),
    "deep object": written(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "twice": json_text(lambda text: text.replace("{", '{"state": "x", "state": "y", ', 1)),
    "surrogate": json_text(lambda text: text.replace("{", '{"\\ud800": "\\udfff", ', 1)),
    "digits": json_text(lambda text: text.replace("{", '{"n": ' + "9" * 5000 + ", ", 1)),
    "nan": json_text(lambda text: text.replace("{", '{"n": NaN, ', 1)),
    "1e999": json_text(lambda text: text.replace("{", '{"n": 1e999, ', 1)),
}
LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
YAML: dict[str, Change] = {
    "list": written(b"- 1"),
    "laughs": json_text(lambda text: text + LAUGHS),
    "alias": json_text(lambda text: text + "extra: &x 1\nmore: *x\n"),
    "deep": json_text(lambda text: text + "extra: " + "[" * 100_000),
    "deep block": json_text(lambda text: text + "extra:\n" + "".join(" " * n + "a:\n" for n in range(1, 400))),
    "twice": json_text(lambda text: text + "extra: 1\nextra: 2\n"),
    "surrogate": json_text(lambda text: text + 'extra: "\\ud800"\n'),
    "digits": json_text(lambda text: text + "extra: " + "9" * 5000 + "\n"),
    "sexagesimal": json_text(lambda text: text + "extra: 1" + ":10" * 50_000 + "\n"),
    "python": json_text(lambda text: text + "extra: !!python/object/apply:os.system ['touch canary']\n"),
    "date": json_text(lambda text: text + "extra: 2020-01-01\n"),
    "binary": json_text(lambda text: text + "extra: !!binary aGk=\n"),
    "number key": json_text(lambda text: text + "1: 2\n"),
    "list key": json_text(lambda text: text + "? [a]\n: 2\n"),
    "self": written(b"&a [*a]"),
}


def key(name: str, value: Any) -> Change:
    """A value of a JSON or YAML file by its dotted name; `...` takes the key away."""

    def change(path: Path) -> None:
        load, dump = (yaml.safe_load, yaml.safe_dump) if path.suffix == ".yaml" else (json.loads, json.dumps)
        found = load(path.read_text())
        node, names = found, name.split("/") if "/" in name and path.suffix != ".yaml" and name in found else name.split(".")
        names = [name] if name in found else names
        for word in names[:-1]:
            node = node.setdefault(word, {})
        if value is ...:
            node.pop(names[-1], None)
        else:
            node[names[-1]] = value
        path.write_text(dump(found))

    return change


STATUS = {"state": [..., 5, "odd", None], "warnings": [..., "text", [1], {}], "identity": [..., 5], "setting": [..., []]}
STATUS |= {"started": [..., 1], "why": [..., 3], "ended": [..., 7]}
METRICS = {"test/f1_micro": [..., "x", 7, None, [], True], "parameters/total": [..., "many"], "seconds/total": [..., {}]}
METRICS |= {"test/movies": [3], "val/ap_micro": [..., {}, -1]}
ENVIRONMENT = {
    "data_fingerprint": [5, {"movies": 5}, []],
    "packages": [[], {"torch": 2}],
    "encode": [[], {"text": 1}],
    "device": [[]],
}
AUDIT = {"movies": [[], {"test": "x"}], "genres": [[], {"test": []}, {"test": {"Drama": "x"}}], "problems": [{}, [1], [{}]]}
COMPARED = {
    "modalities": [..., 5, "text+text", "odd", [], "unknown"],
    "seed": [..., "one", -1, None],
    "data": [..., 5, []],
    "store": [..., 5],
}
COMPARED |= {"adopted": [5, {"name": "x"}, {"name": "x", "sources": [{"file": 1, "sha256": "x"}]}]}
COMPARED |= {"choices": [5, {"fusion": 1.5}], "encoder": [5, {"text": 5}], "logger": [5]}
EVALUATED = {
    "modalities": [..., "image+text", "text", "odd", 5],
    "seed": [..., "one"],
    "fusion": [..., 5, {}],
    "fusion.dim": ["x", -3, 10**9, 16],
    "fusion._target_": ["os.system", "builtins.exec", "gmu_lightning.fusion.Odd", 5],
    "encoder": [..., {}, {"text": 5}],
    "encoder.text.dim": [10**9, "x", 5],
    "encoder.image._target_": ["subprocess.run"],
    "data._target_": ["os.remove"],
    "data.batch_size": ["x", 0, 10**12],
    "data.extra": [{"_target_": "os.mkdir"}],
    "loss": [..., 5],
    "trainer": [..., {}],
    "trainer.precision": ["odd", []],
    "trainer.accelerator": ["quantum", 5],
    "optimizer.lr": ["fast"],
    "store": [5],
    "monitor": [5],
    "encode": [5],
    "data.root": ["${oc.env:HOME}", "/dev/zero", "../../../etc", "/proc/nowhere\x1b[31m"],
    "hydra": [{"run": {"dir": "/tmp"}}],
    "logger.wandb": [{"_target_": "os.system"}],
}
SEARCH = {
    "trials": ["x", ...],
    "space": [[], {"a": 1}, {"a": {"low": "x", "high": 1}}],
    "settings": [{}, [1], [{}]],
    "seed": ["x"],
}


def values(command: str, file: str, table: dict[str, list[Any]], code: int | None = 1) -> Iterator[Case]:
    """A case for each wrong value."""
    for name, wrong in table.items():
        for n, value in enumerate(wrong):
            yield Case(f"{command} {file} {name} {n}", command, file, key(name, value), code)


def files(
    command: str, file: str, changes: dict[str, Change], code: int | None = 1, words: tuple[str, ...] = ()
) -> Iterator[Case]:
    """A case for each change of a whole file."""
    for name, change in changes.items():
        yield Case(f"{command} {file} {name}", command, file, change, code, words)


def table(change: Callable[[pa.Table], pa.Table]) -> Change:
    """A parquet file with another table."""
    return lambda path: pq.write_table(change(pq.read_table(path)), path)


def column(name: str, make: Callable[[int], Any]) -> Change:
    """A column with other cells, `name` being the first that begins so."""

    def change(found: pa.Table) -> pa.Table:
        at = next(n for n, other in enumerate(found.column_names) if other.startswith(name))
        return found.set_column(at, found.column_names[at], pa.array(make(found.num_rows)))

    return table(change)


def about(**values: Any) -> Change:
    """Other metadata of a parquet file."""

    def change(found: pa.Table) -> pa.Table:
        said = json.loads(found.schema.metadata[b"gmu_lightning"]) | values
        return found.replace_schema_metadata({"gmu_lightning": json.dumps({k: v for k, v in said.items() if v is not ...})})

    return table(change)


def parquet() -> dict[str, Change]:
    """Changes of predictions/test.parquet."""
    return {
        "no metadata": table(lambda t: t.replace_schema_metadata({})),
        "metadata no json": table(lambda t: t.replace_schema_metadata({"gmu_lightning": "{"})),
        "metadata deep": table(lambda t: t.replace_schema_metadata({"gmu_lightning": "[" * 90_000})),
        "metadata list": table(lambda t: t.replace_schema_metadata({"gmu_lightning": "[]"})),
        "no genres": about(genres=[]),
        "genres text": about(genres="Drama"),
        "genre twice": about(genres=["Drama", "Drama"]),
        "other genres": about(genres=["Odd", "Other"]),
        "other modalities": about(modalities=["video"]),
        "odd modalities": about(modalities=["smell"]),
        "no threshold": about(threshold=...),
        "threshold text": about(threshold="x"),
        "threshold short": about(threshold=[0.5]),
        "odd task": about(task="ranking"),
        "task of single labels": about(task="multiclass", threshold=None),
        "bias list": about(bias=[1]),
        "bias of others": about(bias={"Odd": 1.0}),
        "fingerprint": about(data_fingerprint=5),
        "text logits": column("logit/", lambda n: ["x"] * n),
        "null logits": column("logit/", lambda n: [None] * n),
        "nan logits": column("logit/", lambda n: [float("nan")] * n),
        "nested logits": column("logit/", lambda n: [[1.0]] * n),
        "number labels": column("label/", lambda n: [2] * n),
        "null ids": column("id", lambda n: [None] * n),
        "equal ids": column("id", lambda n: ["a"] * n),
        "number ids": column("id", lambda n: list(range(n))),
        "number split": column("split", lambda n: [1] * n),
        "other split": column("split", lambda n: ["val"] * n),
        "no label": table(lambda t: t.drop_columns([next(c for c in t.column_names if c.startswith("label/"))])),
        "no id": table(lambda t: t.drop_columns(["id"])),
        "column twice": table(lambda t: t.append_column("id", t["id"])),
        "no rows": table(lambda t: t.slice(0, 0)),
        "fewer rows": table(lambda t: t.slice(0, 5)),
        "all null": table(
            lambda t: pa.table({name: pa.nulls(t.num_rows) for name in t.column_names}, metadata=t.schema.metadata)
        ),
        "garbage": written(b"PAR1" + b"\7" * 500 + b"PAR1"),
    }


def weights(change: Callable[[dict[str, Any]], Any]) -> Change:
    """A checkpoint with other content."""

    def write(path: Path) -> None:
        found = torch.load(path, weights_only=True)
        torch.save(change(found) or found, path)

    return write


def in_weights(change: Callable[[dict[str, torch.Tensor], str], Any]) -> Change:
    """A checkpoint with other tensors; the change takes them and the name of the first matrix."""

    def inner(found: dict[str, Any]) -> None:
        state = found["state_dict"]
        change(state, next(name for name, tensor in state.items() if tensor.ndim == 2))

    return weights(inner)


def in_about(**values: Any) -> Change:
    """A checkpoint that describes itself otherwise."""

    def change(found: dict[str, Any]) -> None:
        found["gmu_lightning"].update(values)
        for name in [name for name, value in values.items() if value is ...]:
            found["gmu_lightning"].pop(name)

    return weights(change)


def bomb(path: Path) -> None:
    """A zip whose member is a thousand times as large in memory."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 300_000_000)


def checkpoints() -> dict[str, Change]:
    """Changes of checkpoints/best.ckpt."""
    nan = float("nan")
    return {
        "pickle": lambda path: path.write_bytes(pickle.dumps(Runs(path.parents[2] / CANARY))),
        "pickle inside": lambda path: weights(lambda found: {**found, "extra": Runs(path.parents[2] / CANARY)})(path),
        "bomb": bomb,
        "list": weights(lambda found: [1]),
        "no weights": weights(lambda found: {"gmu_lightning": found["gmu_lightning"]}),
        "no about": weights(lambda found: {"state_dict": found["state_dict"]}),
        "weights list": weights(lambda found: {**found, "state_dict": [1]}),
        "weights text": in_weights(lambda state, name: state.update({name: "x"})),
        "nan": in_weights(lambda state, name: state[name].fill_(nan)),
        "inf": in_weights(lambda state, name: state[name][0].fill_(float("inf"))),
        "renamed": in_weights(lambda state, name: state.update({"odd\x1b[31m": state.pop(name)})),
        "lacking": in_weights(lambda state, name: state.pop(name)),
        "more": in_weights(lambda state, name: state.update(odd=torch.zeros(2))),
        "transposed": in_weights(lambda state, name: state.update({name: state[name].T.contiguous()})),
        "flat": in_weights(lambda state, name: state.update({name: state[name].flatten()})),
        "integers": in_weights(lambda state, name: state.update({name: state[name].long()})),
        "sparse": in_weights(lambda state, name: state.update({name: state[name].to_sparse()})),
        "expanded": in_weights(lambda state, name: state.update({name: torch.zeros(1).expand(10**7, 10**6)})),
        "genres fewer": in_about(genres=["Odd"]),
        "genres text": in_about(genres="Drama"),
        "genres none": in_about(genres=[]),
        "genres gone": in_about(genres=...),
        "genres many": in_about(genres=[str(n) for n in range(10**5)]),
        "modalities": in_about(modalities=["text"]),
        "modalities turned": in_about(modalities=["image", "text"]),
        "preparations": in_about(preparations={}),
        "preparation odd": in_about(preparations={"text": {"odd": 1}, "image": 5}),
        "sizes": in_about(sizes={"text": -1, "image": 2}),
        "sizes text": in_about(sizes="x"),
    }


HISTORY: dict[str, Change] = {
    "no epoch": written(b"step,val/ap_micro\n1,0.5\n"),
    "words": written(b"epoch,val/ap_micro\nx,y\n"),
    "short rows": written(b"epoch,val/ap_micro\n1\n"),
    "long rows": written(b"epoch\n1,2,3\n"),
    "infinite": written(b"epoch,val/ap_micro,train/loss\n0,inf,nan\n"),
    "column twice": written(b"epoch,epoch\n0,1\n"),
    "huge cell": written(b'epoch,val/ap_micro\n0,"' + b"9" * 200_000 + b'"\n'),
}


def named(name: str) -> Change:
    """The run's folder has another name."""
    return lambda path: path.parent.rename(path.parent.parent / name)


def genre(path: Path) -> None:
    """A genre with control characters, in every prediction of the run, and in its warnings."""
    for file in sorted(path.parent.glob("predictions/*.parquet")):
        found = pq.read_table(file)
        said = json.loads(found.schema.metadata[b"gmu_lightning"])
        old = said["genres"][0]
        said["genres"][0] = f"${ESCAPES}"
        if said["bias"]:
            said["bias"][f"${ESCAPES}"] = said["bias"].pop(old)
        names = [name.replace(f"/{old}", f"/${ESCAPES}") if name.endswith(f"/{old}") else name for name in found.column_names]
        renamed = found.rename_columns(names).replace_schema_metadata({"gmu_lightning": json.dumps(said)})
        pq.write_table(renamed, file)
    key("warnings", [f"odd: {ESCAPES}"])(path)


def cases() -> list[Case]:
    """Every case."""
    every = {**KINDS, **CUT}
    json_files, yaml_files = {**every, **JSON}, {**every, **YAML}
    few = {name: every[name] for name in ("not utf-8", "pipe", "zeros", "loop", "oversized", "truncated")}
    few_json = {**few, **{name: JSON[name] for name in ("list", "deep", "twice", "surrogate", "digits", "nan")}}
    found = [
        *files("evaluate", "config.yaml", yaml_files),
        *values("evaluate", "config.yaml", EVALUATED, None),
        *files("evaluate", "status.json", few_json),
        *values("evaluate", "status.json", {"state": STATUS["state"]}, None),
        *files("evaluate", "checkpoints/best.ckpt", {**every, **checkpoints()}),
        *files("evaluate", "predictions/val.parquet", few, 1, ("threshold=val",)),
        *files("compare", "config.yaml", {**few, "laughs": YAML["laughs"], "deep": YAML["deep"]}, 0),
        *values("compare", "config.yaml", COMPARED, 0),
        *files("compare", "status.json", json_files, 0),
        *values("compare", "status.json", STATUS, 0),
        *files("compare", "metrics.json", few_json, 0),
        *values("compare", "metrics.json", METRICS, 0),
        *files("compare", "environment.json", few_json, 0),
        *values("compare", "environment.json", ENVIRONMENT, 0),
        *files("compare", "audit.json", few_json, 0),
        *values("compare", "audit.json", AUDIT, 0),
        *files("compare", "overrides.txt", few, 0),
        *files("compare", "history.csv", {**few, **HISTORY}, 0),
        *files("compare", "predictions/test.parquet", {**few, **parquet()}, 0),
        *files("compare", "../search/search.json", few_json, None),
        *values("compare", "../search/search.json", SEARCH),
        *files("compare", "../multirun.yaml", {**few, **YAML}, None),
        *files("compare", "evaluate/1/robustness.json", few_json, 0),
        *files("compare", "evaluate/1/robustness.csv", few, 0),
        *files("compare", "evaluate/1/predictions/test.parquet", few, 0),
        *files("dashboard", "metrics.json", few, 0),
    ]
    shown = partial(key, "why")
    found += [
        Case("compare folder name", "compare", "status.json", named(f"odd{ESCAPES}"), 0),
        Case("compare folder name of bytes", "compare", "status.json", named("odd\udc80\r"), 0),
        Case("compare genre", "compare", "status.json", genre, 0),
        Case("dashboard genre", "dashboard", "status.json", genre, 0),
        Case("compare warning", "compare", "status.json", key("warnings", [ESCAPES]), 0),
        Case("compare choice", "compare", "config.yaml", key("choices.fusion", ESCAPES), 0),
        Case(
            "compare adopted",
            "compare",
            "config.yaml",
            key("adopted", {"name": "x", "sources": [{"file": ESCAPES, "sha256": ""}]}),
            0,
        ),
        Case("compare data set", "compare", "config.yaml", key("choices.data", ESCAPES), 0),
        Case("compare why", "compare", "status.json", lambda path: (key("state", "failed")(path), shown(ESCAPES)(path)), 0),
        Case("evaluate target", "evaluate", "config.yaml", key("fusion._target_", ESCAPES)),
        Case("evaluate modalities", "evaluate", "config.yaml", key("modalities", ESCAPES)),
        Case("evaluate root", "evaluate", "config.yaml", key("data.root", f"/proc/nowhere/{ESCAPES}"), None),
        Case("evaluate encoder elsewhere", "evaluate", "config.yaml", key("encoder.text.name", "/etc"), None),
    ]
    return found
