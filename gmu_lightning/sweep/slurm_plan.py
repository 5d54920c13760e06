"""Hand the jobs of a sweep to workers of other machines, as a file of plain data in the sweep's folder.

The workers read it like a stranger's file: it can name no class besides those that the package offers, and its runs stay in the
sweep's folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gmu_lightning.config.schema import RunConfig
from gmu_lightning.files import digest, write_json
from gmu_lightning.run_files.plain import Damaged, checking, json_object
from gmu_lightning.run_files.records import CONFIG, EVALUATED, MB
from gmu_lightning.run_files.shapes import Unexpected, maybe, record, sequence, whole, word
from gmu_lightning.sweep.job import Job

FOLDER = "slurm"  # inside the sweep's folder


def _name(value: Any, place: str) -> None:
    word(value, place)
    if value in ("", ".", "..") or Path(value).name != value:
        raise Unexpected(f"{place} names no folder of the sweep")


def _config(value: Any, place: str) -> None:
    CONFIG(value, place)
    EVALUATED(value, place)


PLAN = record(
    {
        "started": word,
        "lost": whole(),
        "jobs": sequence(
            record({"folder": _name, "config": _config, "overrides": sequence(word), "retry": maybe(word)}),
            least=1,
        ),
        "skipped": sequence(record({"overrides": sequence(word), "why": word})),
    }
)


@dataclass(frozen=True)
class Plan:
    """The work of an array of workers.

    Attributes:
        started: when the sweep began.
        lost: how often a job is repeated after the death of its worker.
        jobs: to be done, each with `retry` false.
        tokens: {folder of a failed job that is to be done again: token of its failure}. With another token it has been done.
        skipped: (overrides, reason) of the jobs whose choices do not go together.
    """

    started: str
    lost: int
    jobs: tuple[Job, ...]
    tokens: Mapping[str, str]
    skipped: Sequence[tuple[Sequence[str], str]]

    def write(self, sweep: Path) -> Path:
        """Write the plan into the folder of the sweep, and return its file, whose name follows from the content."""
        content = {
            "started": self.started,
            "lost": self.lost,
            "jobs": [
                {
                    "folder": Path(job.folder).name,
                    "config": job.config.mapping,
                    "overrides": list(job.overrides),
                    "retry": self.tokens.get(job.folder),
                }
                for job in self.jobs
            ],
            "skipped": [{"overrides": list(overrides), "why": why} for overrides, why in self.skipped],
        }
        path = sweep / FOLDER / f"plan-{digest(content)[:12]}.json"
        write_json(path, content)
        return path

    @classmethod
    def read(cls, path: Path, config_dir: str | None = None) -> Plan:
        """Return the plan in a file in the sweep's folder.

        Args:
            path: as `write` returned it.
            config_dir: folder of the user's own classes, or None.

        Raises:
            UserError: the file is missing or damaged, or names another class.
        """
        try:
            found = json_object(path, 1024 * MB, PLAN)
        except FileNotFoundError:
            raise Damaged(path, "it is not there", "type the sweep's command again") from None
        sweep = path.parent.parent
        jobs, tokens = [], {}
        for entry in found["jobs"]:
            folder = str(sweep / entry["folder"])
            with checking(path):
                config = RunConfig.recorded(entry["config"], path, config_dir=config_dir)
            jobs.append(Job(config, entry["overrides"], folder, sweep.name))
            if entry["retry"] is not None:
                tokens[folder] = entry["retry"]
        skipped = [(entry["overrides"], entry["why"]) for entry in found["skipped"]]
        return cls(found["started"], found["lost"], tuple(jobs), tokens, skipped)
