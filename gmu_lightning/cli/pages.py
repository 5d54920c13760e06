"""The help page of each command, made from the comments of the configuration files, and the list of all commands."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from gmu_lightning import __version__
from gmu_lightning.cli.page_contents import PAGES
from gmu_lightning.config.groups import choices_of, conf_folder, file_of, folders, read_yaml

WIDTH, INDENT = 79, 28  # of a page, and of a comment beside its option
WORD = re.compile(r"""(?:[^\s"]|"[^"]*")+""")  # of a command, its quotes included
FROM_ENVIRONMENT = re.compile(r"\$\{oc\.env:(\w+),([^}]*)\}")
RESOLVER = re.compile(r"\$\{(\w+):[^}]*\}")
PACKAGES = {"_global_": "", "hydra": "hydra."}  # {package in a file's first line: prefix of its keys}


class Option(NamedTuple):
    """One key of a configuration file, with its default as written and its comment."""

    key: str
    default: str
    comment: str


OWN_CLASSES = {
    **dict.fromkeys(("evaluate", "predict", "app", "export", "compare"), "accept runs of your own classes, from their folder"),
    "info": "list the choices of this folder too",
}
# Keys that prepare inherits from train and does without.
OF_BATCHES = ("data.batch_size", "data.token_budget", "data.workers")
NOT_PREPARED = ("seed", "monitor", "check", "encode.", *OF_BATCHES)
INTERNAL = ("hydra.output_subdir", "hydra.sweep.subdir", "hydra.sweeper.max_batch_size")


def version() -> str:
    """Return the package's name and version."""
    return f"gmu_lightning {__version__}"


def commands() -> str:
    """Return the list of all commands, with a line each."""
    return "\n".join(
        [
            "Which modalities, fused how, tell a movie's genres?",
            "",
            "Usage: python -m gmu_lightning.COMMAND [KEY=VALUE] ...",
            "",
            *(f"  {name:<11}{page.purpose}" for name, page in PAGES.items()),
            "",
            "python -m gmu_lightning.COMMAND --help shows examples and options.",
            "gmu-train, gmu-evaluate and so on are the same commands.",
        ]
    )


def asks_for_a_page(typed: Sequence[str]) -> bool:
    """Return whether the arguments of a command ask for its help page or the version."""
    return bool({"--help", "-h", "--version"} & set(typed))


def help_page(name: str, typed: Sequence[str] = (), config_dir: str | None = None) -> str:
    """Return a command's help page.

    Args:
        name: of the command.
        typed: its arguments. The options of each choice among them, such as `fusion=gmu_hier`, are listed at the end.
        config_dir: the folder of the user's own choices, which are listed too.

    Raises:
        UserError: the file of a choice among the arguments is no valid YAML.
    """
    page = PAGES[name]
    start, several = f"python -m gmu_lightning.{name}", "[-m] " if name == "train" else ""
    lines = [
        page.purpose,
        "",
        f"Usage: {start} {several}[KEY=VALUE] ...",
        f"       gmu-{name} is the same command.",
        "",
        "Examples:",
    ]
    for what, arguments in page.examples:
        lines += [f"  {what}:", *_command(f"{start} {arguments}".rstrip())]
    typed_choices = {
        group: choice
        for group, choice in (argument.partition("=")[::2] for argument in typed)
        if group in page.groups and choice in choices_of(group, config_dir)
    }
    if page.groups:
        lines += ["", "Choices, the default first. To see the options of one, add --help to it:"]
        lines += _command(f"{start} data=planted --help")
        lines += [line for group in page.groups for line in _choices(group, config_dir)]
    lines += ["", "Options, with their defaults:"]
    for file, prefix in page.shown:
        if prefix.rstrip(".") not in typed_choices:
            lines += [line for option in options(conf_folder() / file, prefix) if _belongs(option, name) for line in _row(option)]
    for group, choice in typed_choices.items():
        lines += ["", *_of_choice(group, choice, config_dir)]
    own = "find choices and classes of your own there too" if page.groups else OWN_CLASSES.get(name)
    lines += ["", *columns("--config-dir FOLDER", own)] if own else [""]
    lines += [*columns("--cfg job", "print the composed configuration"), *columns("--version", "print the version")]
    return "\n".join(lines)


def _belongs(option: Option, name: str) -> bool:
    """Return whether a command takes an option of the files that it shows."""
    unused = {"prepare": NOT_PREPARED, "adopt": OF_BATCHES}.get(name, ())
    return option.key not in INTERNAL and not option.key.startswith(unused)


def options(path: Path, prefix: str = "", config_dir: str | None = None) -> Iterator[Option]:
    """Yield the options of a configuration file: those of its bases first, unless the file sets them too.

    Args:
        path: of the YAML file.
        prefix: of its keys.
        config_dir: a further folder with bases.

    Raises:
        UserError: the file or a base is no valid YAML.
    """
    found: dict[str, Option] = {}
    for base in bases_of(path, config_dir):
        found |= {option.key: option for option in options(base, prefix, config_dir)}
    text = path.read_text(encoding="utf-8")
    for option in _own(yaml.compose(text), text.splitlines(), prefix):
        before = found.get(option.key)
        found[option.key] = option if option.comment or before is None else option._replace(comment=before.comment)
    yield from found.values()


def bases_of(path: Path, config_dir: str | None = None) -> Iterator[Path]:
    """Yield the files that a configuration file extends by its list `defaults`. They may stand in another folder of choices.

    Raises:
        UserError: the file is no valid YAML.
    """
    names = [entry.partition("@")[0] for entry in read_yaml(path).get("defaults", []) if isinstance(entry, str)]
    for name in (name for name in names if name != "_self_"):
        folder = next(folder for folder in folders(config_dir) if path.is_relative_to(folder))
        group = "" if name.startswith("/") else path.parent.relative_to(folder).as_posix()
        if file := file_of(f"{group}/{name}".lstrip("./"), config_dir):
            yield file


def _own(node: yaml.Node | None, lines: Sequence[str], prefix: str) -> Iterator[Option]:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        name = key.value
        if name.startswith("_") or (not prefix and name in ("defaults", "hydra")) or name == "defaults":
            continue
        if isinstance(value, yaml.MappingNode) and not value.flow_style:
            yield from _own(value, lines, f"{prefix}{name}.")
            continue
        line = lines[value.start_mark.line]
        written, rest = line[value.start_mark.column : value.end_mark.column], line[value.end_mark.column :]
        yield Option(f"{prefix}{name}", written.strip(), rest.partition("#")[2].strip())


def _choices(group: str, config_dir: str | None) -> list[str]:
    """Return the lines on a group: its default, and every other choice."""
    default = _defaults().get(group)
    rest = [choice for choice in choices_of(group, config_dir) if choice != default]
    return columns(f"{group}={default or 'CHOICE'}", ", ".join(rest))


def _defaults() -> dict[str, str]:
    """Return {group: its default choice in train.yaml}; groups that have none are left out."""
    entries = yaml.safe_load((conf_folder() / "train.yaml").read_text(encoding="utf-8"))["defaults"]
    found = {group: choice for entry in entries if isinstance(entry, dict) for group, choice in entry.items()}
    return {group: "".join(choice) for group, choice in found.items() if choice}


def _of_choice(group: str, choice: str, config_dir: str | None) -> list[str]:
    """Return the lines on one choice: the comment at the top of its file, and its options."""
    path = file_of(f"{group}/{choice}", config_dir)
    assert path is not None, f"{group}={choice} is no choice"
    about, package = about_choice(path)
    prefix = PACKAGES.get(package or "", f"{group.replace('/', '.')}.")
    lines = [f"{group}={choice}", *textwrap.wrap(" ".join(about), WIDTH, initial_indent="  ", subsequent_indent="  ")]
    return lines + [line for option in options(path, prefix, config_dir) if option.key not in INTERNAL for line in _row(option)]


def about_choice(path: Path) -> tuple[list[str], str | None]:
    """Return the lines of the comment at the top of a choice's file, and the package in Hydra's own line; None without one."""
    top = [line.removeprefix("#").strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    package = next((line.removeprefix("@package ") for line in top if line.startswith("@package ")), None)
    return [line for line in top if not line.startswith(("@package ", "python -m "))], package


def _row(option: Option) -> list[str]:
    default = FROM_ENVIRONMENT.sub(r"$\1 or \2", option.default).replace("${now:", "${time:")
    default = RESOLVER.sub(r"<\1>", default)
    if default == "???":
        return columns(f"{option.key}=...", f"needed: {option.comment}")
    return columns(f"{option.key}={default}", option.comment)


def columns(left: str, right: str, indent: int = INDENT) -> list[str]:
    """Return `left` and the wrapped `right` beside it, from the column `indent` on, or below it where `left` is long."""
    beside = textwrap.wrap(right, WIDTH - indent, break_on_hyphens=False)
    if not beside:
        return [f"  {left}"]
    if len(left) + 2 < indent - 1:
        return [f"  {left:<{indent - 2}}{beside[0]}", *(" " * indent + line for line in beside[1:])]
    return [f"  {left}", *(" " * indent + line for line in beside)]


def _command(command: str) -> list[str]:
    """Return the lines of a command, which a shell reads as one."""
    words = WORD.findall(command)
    lines, line = [], "    " + words[0]
    for word in words[1:]:
        if len(line) + len(word) + 3 > WIDTH:
            lines.append(f"{line} \\")
            line = "       "
        line += f" {word}"
    return [*lines, line]
