"""Hostile files of every kind: each tries to run code, to write outside of its place, or to fill memory or disk."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml

CANARY = "canary"  # a file of this name appears if code ran or a path was escaped


class Case(NamedTuple):
    """One hostile file.

    Attributes:
        id: of the case.
        reads: name of the reader in the test.
        name: of the file or folder that is read.
        write: writes it, and its helpers, at this path.
        says: part of the refusal.
    """

    id: str
    reads: str
    name: str
    write: Callable[[Path], Any]
    says: str = ""


class Calls:
    """An object whose pickle calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self.called = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.called


def touch(path: Path) -> str:
    """Return the command that writes the canary beside a file."""
    return f"touch {path.parent / CANARY}"


def payloads(path: Path) -> dict[str, Any]:
    """Return objects that write the canary when they are unpickled."""
    canary = path.parent / CANARY
    return {
        "system": Calls(os.system, touch(path)),
        "exec": Calls(exec, f"open({str(canary)!r}, 'w')"),
        "eval": Calls(eval, f"open({str(canary)!r}, 'w')"),
        "mkdir": Calls(os.mkdir, str(canary)),
        "write": Calls(Path.write_text, canary, "x"),
        "open": Calls(open, str(canary), "w"),
    }


def opcodes(path: Path) -> dict[str, bytes]:
    """Return pickles that call a function by other opcodes than REDUCE."""
    command = touch(path).encode()
    return {
        "inst": b"(S'" + command + b"'\nios\nsystem\n.",
        "obj": b"(cos\nsystem\nS'" + command + b"'\no.",
        "global by name": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c" + bytes([len(command)]) + command + b"\x85R.",
        "getattr": b"c__builtin__\ngetattr\n(cos\nS'system'\ntR(S'" + command + b"'\ntR.",
        "within an array": b"cnumpy.core.multiarray\n_reconstruct\n(cos\nsystem\n(I0\ntS'b'\ntR.",
        "object scalar": b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O8'\nI0\nI1\ntRS'"
        + b"cos\\nsystem\\n."
        + b"'\ntR.",
        "build": b"cos\n_exit\n}S'x'\nI1\nsb.",
    }


def arrays() -> Iterator[Case]:
    def pickled(name: str, protocol: int) -> Callable[[Path], Any]:
        return lambda path: path.write_bytes(pickle.dumps([np.zeros(2), {"x": (payloads(path)[name],)}], protocol))

    def saved(name: str, zipped: bool) -> Callable[[Path], Any]:
        return lambda path: torch.save({"x": payloads(path)[name]}, path, _use_new_zipfile_serialization=zipped)

    def objects(path: Path) -> None:
        np.save(path, np.array([payloads(path)["system"]], dtype=object), allow_pickle=True)

    for n, name in enumerate(payloads(Path("x"))):
        yield Case(f"pickle {name}", "array", "1.p", pickled(name, n))
    for name in opcodes(Path("x")):
        yield Case(f"pickle by {name}", "array", "1.pkl", lambda path, name=name: path.write_bytes(opcodes(path)[name]))
    for zipped in (True, False):
        yield Case(f"tensor file with code, zipped {zipped}", "array", "1.pt", saved("system", zipped))
    yield Case("array of objects", "array", "1.npy", objects)
    yield Case("pickle named npy", "array", "1.npy", lambda path: path.write_bytes(pickle.dumps(payloads(path)["exec"])))
    yield Case("ids with code", "ids", "ids.pickle", lambda path: path.write_bytes(pickle.dumps({payloads(path)["mkdir"]: 1}, 2)))
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (%s,), }".ljust(128)
    yield Case("array of exabytes", "array", "1.npy", lambda path: path.write_bytes(header.replace(b"%s", b"9" * 15) + b"\n"))


def checkpoints() -> Iterator[Case]:
    def bomb(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", b"\0" * 50_000_000)

    def climbing(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"../../{CANARY}", b"x")
            archive.writestr("archive/data.pkl", pickle.dumps(payloads(path)["write"]))

    def saved(name: str) -> Callable[[Path], Any]:
        return lambda path: torch.save({"state_dict": {"a": torch.zeros(1)}, "x": payloads(path)[name]}, path)

    for name in ("system", "exec", "write"):
        yield Case(f"checkpoint {name}", "checkpoint", "best.ckpt", saved(name))
    yield Case(
        "checkpoint that is a pickle",
        "checkpoint",
        "best.ckpt",
        lambda path: path.write_bytes(pickle.dumps(payloads(path)["exec"])),
    )
    yield Case("checkpoint bomb", "checkpoint", "best.ckpt", bomb, "its members are compressed or too large")
    yield Case("checkpoint that climbs", "checkpoint", "best.ckpt", climbing)


TARGETS = (
    *("os.system", "builtins.exec", "subprocess.Popen", "hydra.utils.get_method", "pathlib.Path.touch", "torch.load"),
    *("gmu_lightning.files.write_text", "gmu_lightning.fusion.os.system", "gmu_lightning.config.classes.class_of", "evil.Evil"),
)
PLACES = (
    "fusion",
    "encoder.text",
    "data",
    "loss",
    "optimizer",
    "scheduler",
    "callbacks.x",
    "encoder.image.preparation",
    "extra.0",
)
TAGS = (
    *("!!python/object/apply:os.system ['COMMAND']", "!!python/object/new:os.system ['COMMAND']", "!!python/name:os.system ''"),
    *("!!python/module:evil ''", "!!python/object:evil.Evil {}", "!!python/object/apply:subprocess.check_output [[touch, x]]"),
)
TEXTS = {
    "interpolation": "extra: ${oc.env:HOME}",
    "resolver": "extra: ['${eval:1}']",
    "interpolated key": "extra: {a: ['${oc.decode:x}']}",
    "hydra": "hydra: {callbacks: {x: {_target_: os.system}}}",
    "anchor": "extra: &a [x]\nmore: *a",
    "laughs": "a0: &a0 [x, x]\n" + "\n".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)),
}


def configurations() -> Iterator[Case]:
    def config(change: Callable[[dict[str, Any], Path], Any], text: str = "") -> Callable[[Path], Any]:
        def write(path: Path) -> None:
            path.mkdir()
            (path.parent / "evil.py").write_text(f"open({str(path.parent / CANARY)!r}, 'w')\nclass Evil: pass\n")
            found = sound_config()
            change(found, path)
            (path / "config.yaml").write_text(yaml.safe_dump(found) + text.replace("COMMAND", touch(path)) + "\n")

        return write

    def named(place: str, target: str) -> Callable[[dict[str, Any], Path], None]:
        def change(found: dict[str, Any], path: Path) -> None:
            node = found
            for key in place.split("."):
                node = node.setdefault(key, {})
            node |= {
                "_target_": target,
                "command": touch(path),
                "args": touch(path),
                "path": str(path.parent / CANARY),
                "text": "x",
            }

        return change

    for n, target in enumerate(TARGETS):
        place = PLACES[n % len(PLACES)]
        yield Case(f"{place} is {target}", "run", "run", config(named(place, target)), f"names the class {target}")
    for n, tag in enumerate(TAGS):
        yield Case(f"YAML tag {n}", "run", "run", config(lambda *_: None, f"extra: {tag}"), "no YAML of plain data")
    for name, text in TEXTS.items():
        says = "hydra node" if name == "hydra" else "interpolation" if "${" in text else "an anchor or an alias"
        yield Case(f"YAML {name}", "run", "run", config(lambda *_: None, text), says)


def sound_config() -> dict[str, Any]:
    """Return a configuration that every check accepts."""
    mean = {"_target_": "gmu_lightning.fusion.Mean", "_partial_": True}
    encoder = {"_target_": "gmu_lightning.encoders.image.TinyConv"}
    return {
        "modalities": "image",
        "seed": 1,
        "monitor": "val/ap_micro",
        "data": {"_target_": "gmu_lightning.data.planted.PlantedDataModule", "batch_size": 8},
        "encoder": {"image": encoder, "text": {"_target_": "gmu_lightning.encoders.text.BagOfWords"}},
        "fusion": mean,
        "loss": {"_target_": "gmu_lightning.losses.WeightedBCE", "_partial_": True},
        "optimizer": {"_target_": "torch.optim.AdamW", "lr": 0.1},
        "scheduler": {"_target_": "gmu_lightning.optimisation.warmup", "_partial_": True},
        "trainer": {"accelerator": "cpu", "precision": "32-true", "max_epochs": 1, "accumulate_grad_batches": 1},
    }


def archives() -> Iterator[Case]:
    def packed(*members: tuple[str, bytes, str, bytes]) -> Callable[[Path], Any]:
        def write(path: Path) -> None:
            with tarfile.open(path, "w:gz") as archive:
                for name, kind, link, content in members:
                    member = tarfile.TarInfo(name.replace("ROOT", str(path.parent)))
                    member.type, member.linkname, member.size = kind, link.replace("ROOT", str(path.parent)), len(content)
                    archive.addfile(member, io.BytesIO(content))

        return write

    def plain(name: str) -> tuple[str, bytes, str, bytes]:
        return name, tarfile.REGTYPE, "", b"{}"

    for n, name in enumerate((f"../{CANARY}", f"ROOT/{CANARY}", f"mmimdb/dataset/../../../{CANARY}", f"./..//./../{CANARY}")):
        yield Case(f"archive that climbs {n}", "archive", "mmimdb.tar.gz", packed(plain("mmimdb/split.json"), plain(name)))
    for kind, word in (
        (tarfile.SYMTYPE, "link"),
        (tarfile.LNKTYPE, "hard link"),
        (tarfile.FIFOTYPE, "pipe"),
        (tarfile.CHRTYPE, "device"),
    ):
        link = ("mmimdb/dataset", kind, "ROOT", b"")
        yield Case(f"archive with a {word}", "archive", "mmimdb.tar.gz", packed(link, plain(f"mmimdb/dataset/{CANARY}.json")))
    yield Case("archive of other files", "archive", "mmimdb.tar.gz", packed(plain(CANARY), plain("mmimdb/run.sh")))
    yield Case("archive with a long name", "archive", "mmimdb.tar.gz", packed(plain("x/" * 200 + f"../{'../' * 220}{CANARY}")))
    yield Case("archive bomb", "archive", "mmimdb.tar.gz", lambda path: path.write_bytes(gzip.compress(b"\0" * 3_000_000)))


CASES = [case for group in (arrays, checkpoints, configurations, archives) for case in group()]
