"""The checklist's items, and their files checklist.json and checklist.md.

The subjects follow the call for a reliability checklist in Rheude, Eils and Wild 2025, "Fusion or Confusion? Multimodal
Complexity Is Not All You Need" (arXiv 2512.22991). The items, their limits and their words are this project's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from gmu_lightning.files import markdown_table, write_json, write_text
from gmu_lightning.report.caveats import listed
from gmu_lightning.report.checklist import design, evidence
from gmu_lightning.report.checklist.found import BOARD, COMPARISON
from gmu_lightning.report.comparison import Comparison
from gmu_lightning.report.settings import FEWEST_SEEDS
from gmu_lightning.visible import visible

SOURCE = (
    "The subjects follow the call for a reliability checklist in Rheude, Eils and Wild 2025 (arXiv 2512.22991). The items and "
    "their limits are this project's own."
)


@dataclass(frozen=True)
class Item:
    """One item of the checklist.

    Attributes:
        item: its subject.
        ok: yes or no.
        proof: the file or folder that shows it, relative to the comparison's folder if it lies there, and absolute otherwise.
        why: the reason, a sentence without its full stop.
        command: the shell lines that turn a no into a yes; None for a yes, or if no command does.
    """

    item: str
    ok: bool
    proof: str
    why: str
    command: str | None


def checklist(comparison: Comparison, folder: Path) -> list[Item]:
    """Check the runs behind a comparison.

    Args:
        folder: of the comparison's files.

    Raises:
        UserError: a file of a run is damaged.
    """
    settings = comparison.settings
    environments = {run.folder: run.environment for one in settings for run in one.setting.finished}
    checks = {
        f"At least {FEWEST_SEEDS} seeds of every setting": design.seeds(settings),
        "Equal search budgets": design.budgets(settings),
        "Every modality alone": design.unimodal(settings),
        f"The controls {listed(design.CONTROLS)}": design.controls(settings),
        "Parameters and seconds beside the scores": design.costs(settings),
        "Intervals over seeds and movies": design.intervals(comparison),
        "Test was read once, after val had chosen the weights": evidence.test_once(settings),
        "More than one split": evidence.splits(settings, environments),
        "A protocol for missing modalities": evidence.missing(settings),
        "The gates are diagnosed": evidence.diagnosed(comparison),
        "Versions of code and data are recorded and equal": evidence.versions(settings, environments),
    }
    return [Item(name, of.ok, _shown(of.proof, folder), of.why, of.command or None) for name, of in checks.items()]


def _shown(proof: Path, folder: Path) -> str:
    """Return a path relative to the folder if it lies in it, and absolute otherwise."""
    whole, home = proof.absolute(), folder.absolute()
    if proof in (BOARD, COMPARISON):
        return str(proof)
    return str(whole.relative_to(home) if whole.is_relative_to(home) else whole)


def verdict(items: Sequence[Item]) -> str:
    """Return the sentence that counts the met items, and names the others."""
    lacking = [one.item for one in items if not one.ok]
    words = f"{len(items) - len(lacking)} of {len(items)} items of the checklist are met."
    return words + (f" Open: {'; '.join(lacking)}." if lacking else "")


def write_checklist(items: Sequence[Item], folder: Path) -> None:
    """Write checklist.json, a list of {item, ok, proof, why, command}, and checklist.md into a folder."""
    write_json(folder / "checklist.json", [asdict(one) for one in items])
    write_text(folder / "checklist.md", markdown(items))


def markdown(items: Sequence[Item]) -> str:
    """Return the content of checklist.md."""
    rows = [["yes" if one.ok else "**no**", one.item, f"{one.why}.", f"`{one.proof}`"] for one in items]
    lines = ["# Checklist", "", verdict(items), "", *markdown_table(["", "item", "reason", "proof"], rows)]
    todo = [one for one in items if one.command]
    lines += ["", "## What to run next"] if todo else []
    for one in todo:
        lines += ["", f"{one.item}:", "", "```sh", str(one.command), "```"]
    return visible("\n".join([*lines, "", SOURCE])) + "\n"
