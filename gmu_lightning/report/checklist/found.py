"""The result of one check, and what the checks share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gmu_lightning.report.caveats import shortened
from gmu_lightning.report.reproduce import train_all
from gmu_lightning.report.scoring import ScoredSetting
from gmu_lightning.report.settings import Setting

BOARD, COMPARISON = Path("leaderboard.csv"), Path("comparison.json")  # in the comparison's folder
NO_FUSION = "No setting fuses several modalities"


@dataclass(frozen=True)
class Found:
    """The result of one check.

    Attributes:
        ok: yes or no.
        proof: the file or folder that shows it; `BOARD` and `COMPARISON` lie in the comparison's folder.
        why: the reason, a sentence without its full stop.
        command: the shell lines that turn a no into a yes; empty for a yes, or if no command does.
    """

    ok: bool
    proof: Path
    why: str
    command: str = ""


@dataclass
class Doubts:
    """Reasons against a yes, each with its settings, and the first file that shows one of them."""

    settings: dict[str, list[ScoredSetting]] = field(default_factory=dict)
    proof: Path | None = None

    def add(self, reason: str, proof: Path, one: ScoredSetting) -> None:
        """Note a reason about a setting."""
        held = self.settings.setdefault(reason, [])
        if one not in held:
            held.append(one)
        self.proof = self.proof or proof

    @property
    def why(self) -> str:
        """The reasons, each with its settings."""
        return "; ".join(f"{reason} ({shortened([one.name for one in held])})" for reason, held in self.settings.items())

    def again(self, also: Sequence[str] = ()) -> str:
        """Return the shell line that trains these settings anew; see `again`."""
        return again([one for held in self.settings.values() for one in held], also)


def trained(settings: Iterable[ScoredSetting]) -> list[ScoredSetting]:
    """Return the settings whose runs were trained here. No command trains or evaluates the others."""
    return [one for one in settings if not one.setting.is_adopted]


def modalities_of(one: ScoredSetting) -> list[str]:
    """Return the modalities of a setting, in order."""
    return str(one.setting.values["modalities"]).split("+")


def fusing(settings: Iterable[ScoredSetting]) -> list[ScoredSetting]:
    """Return the settings with several modalities."""
    return [one for one in settings if len(modalities_of(one)) > 1]


def all_seeds(settings: Iterable[Setting]) -> list[int]:
    """Return every seed of these settings, in order."""
    return sorted({int(seed) for one in settings for seed in one.seeds})


def again(settings: Iterable[ScoredSetting], also: Sequence[str] = ()) -> str:
    """Return the shell line that trains settings anew with their seeds, in a new sweep. Adopted ones are left out."""
    distinct = list({one.name: one.setting for one in trained(settings)}.values())
    return train_all(distinct, all_seeds(distinct), also)


def span(counts: Iterable[int]) -> str:
    """Return the smallest and the largest count, as `3` or `3 to 5`."""
    found = sorted(set(counts))
    return " to ".join(map(str, dict.fromkeys((found[0], found[-1]))))
