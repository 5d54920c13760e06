"""Read the records of an offline W&B run from its transaction log.

A `.wandb` file is 7 bytes of header (`:W&B`, magic number, version), then LevelDB's log format.
Its blocks of 32 KiB hold chunks. Each chunk has a checksum (4 bytes), a length (2) and a type (1 whole, 2 first, 3 middle, 4 last
of a record; 1 byte). The header belongs to the first block. https://github.com/google/leveldb/blob/main/doc/log_format.md
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import wandb
from wandb.proto.wandb_internal_pb2 import Record

HEADER, CHUNK_HEADER, BLOCK = 7, 7, 32 * 1024
WHOLE, LAST = 1, 4


@dataclass
class OfflineRun:
    """One W&B run, at its end."""

    id: str = ""
    name: str = ""
    group: str = ""
    project: str = ""
    tags: set[str] = field(default_factory=set)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None


def read_offline_run(folder: Path) -> OfflineRun:
    """The one offline run under a folder. W&B's service may write its last records after the run's end, so it is ended first."""
    wandb.teardown()
    (log,) = folder.rglob("*.wandb")
    run = OfflineRun()
    for record in records(log.read_bytes()):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.id, run.name = record.run.run_id, record.run.display_name
            run.group, run.project = record.run.run_group, record.run.project
            run.tags |= set(record.run.tags)
            run.config |= _values(record.run.config.update)
        elif kind == "config":
            run.config |= _values(record.config.update)
        elif kind == "history":
            run.history.append(_values(record.history.item))
        elif kind == "summary":
            run.summary |= _values(record.summary.update)
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def records(log: bytes) -> Iterator[Record]:
    """Every record of a transaction log, in order."""
    at, record = HEADER, b""
    while at + CHUNK_HEADER <= len(log):
        left = BLOCK - at % BLOCK
        if left < CHUNK_HEADER:  # the rest of a block that is too short for a chunk is padding
            at += left
            continue
        _, size, kind = struct.unpack_from("<IHB", log, at)
        record += log[at + CHUNK_HEADER : at + CHUNK_HEADER + size]
        at += CHUNK_HEADER + size
        if kind in (WHOLE, LAST):
            yield Record.FromString(record)
            record = b""


def _values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
