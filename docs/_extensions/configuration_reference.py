"""The directive `configuration`: tables of options from the comments of conf/ and the docstrings of the classes named there."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from gmu_lightning.cli.command_line import register_plugins

CONF = Path(__file__).parents[2] / "conf"
SKIPPED = ("defaults", "_target_", "_partial_", "hydra")


def header(text: str) -> str:
    """Return the comment at the beginning of a YAML file, without Hydra's own line."""
    lines = [line[1:].strip() for line in re.match(r"(#.*\n)*", text)[0].splitlines()]  # type: ignore[index]
    return "\n".join(line for line in lines if not line.startswith("@package"))


def options(text: str) -> list[tuple[str, str, str]]:
    """Return (key, default, comment) of every value in a YAML file, nested keys joined by dots."""
    lines = text.splitlines()
    found: list[tuple[str, str, str]] = []

    def walk(node: yaml.Node, prefix: str) -> None:
        for key, value in node.value:
            name = f"{prefix}{key.value}"
            if key.value in SKIPPED:
                continue
            if isinstance(value, yaml.MappingNode) and value.value and not value.flow_style:
                walk(value, f"{name}.")
                continue
            default = text[value.start_mark.index : value.end_mark.index].strip() or "null"
            tail = lines[value.end_mark.line][value.end_mark.column :] if value.end_mark.line < len(lines) else ""
            found.append((name, default, tail.partition("#")[2].strip()))

    root = yaml.compose(text)
    if isinstance(root, yaml.MappingNode):
        walk(root, "")
    return found


def classes(text: str) -> dict[str, Any]:
    """Return {dotted name: class or function} of every `_target_` in a file, the file's own first."""
    targets = re.findall(r"_target_: (\S+)", text)
    parted = [target.rpartition(".") for target in targets]
    return {f"{module}.{name}": getattr(importlib.import_module(module), name) for module, _, name in parted}


def arguments(made: Any) -> dict[str, str]:
    """Return {argument: description} from the `Args:` of a class, its bases, and of the functions of a module."""
    described: dict[str, str] = {}
    read = getattr(made, "reads", None)  # of a data module: its data set
    for level in reversed((*inspect.getmro(made), *(inspect.getmro(read) if read else ())) if inspect.isclass(made) else (made,)):
        documentation = inspect.cleandoc(level.__doc__ or "") if level.__module__.startswith("gmu_lightning") else ""
        block = re.search(r"^(?:Args|Attributes):\n((?:[ \t]+.*\n?|\n)*)", documentation, re.M)
        for names, words in re.findall(r"^    (\w[\w, *]*): (.*(?:\n     +.*)*)", block[1] if block else "", re.M):
            if not words.startswith("as in "):  # then the base class describes it
                described.update(dict.fromkeys(re.split(r",\s*", names), " ".join(words.split())))
    return described


class Configuration(SphinxDirective):
    """Describe each choice of a group, or one file: `{configuration} fusion` or `{configuration} train.yaml`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return a section per choice, or the table of the one file."""
        named = CONF / self.arguments[0]
        self.env.note_dependency(str(named))
        if named.is_file():
            return self.described(named)
        files = [file for file in sorted(named.glob("*.yaml")) if not file.name.startswith("_")]
        assert files, f"{named} holds no choice"
        return [self.section(file) for file in files]

    def section(self, file: Path) -> nodes.section:
        """Return the section of one choice."""
        self.env.note_dependency(str(file))
        choice = f"{file.parent.relative_to(CONF).as_posix()}={file.stem}"
        made = nodes.section(ids=[nodes.make_id(choice)], names=[nodes.fully_normalize_name(choice)])
        made += nodes.title("", "", nodes.literal(text=choice))
        made += self.described(file)
        self.state.document.note_explicit_target(made, made)
        return made

    def described(self, file: Path) -> list[nodes.Node]:
        """Return the comment of a file and the table of its options."""
        text = file.read_text(encoding="utf-8")
        made, rows = classes(text), options(text)
        about = {name: words for one in reversed(made.values()) for name, words in arguments(one).items()}
        body: list[nodes.Node] = [paragraph(line) for line in paragraphs(header(text))]
        if made:
            body.append(nodes.paragraph("", "Class: ", nodes.literal(text=next(iter(made)))))
        if rows:
            body.append(table([(key, default, words or about.get(key.rpartition(".")[2], "")) for key, default, words in rows]))
        return body


def paragraphs(text: str) -> list[str]:
    """Return the paragraphs of a comment. A line that begins a list or an example begins one too."""
    return [" ".join(part.split()) for part in re.split(r"\n(?=- |python |fusion=|\s)", text) if part.strip()]


def paragraph(text: str) -> nodes.paragraph:
    """Return a paragraph in which a command at the beginning is code."""
    command, colon, words = text.partition(": ")
    if not text.startswith("python -m"):
        return nodes.paragraph("", text)
    return nodes.paragraph("", "", nodes.literal(text=command), nodes.Text(colon + words))


def shown(default: str) -> str:
    """Return a default as text: `required` for ???, and an environment variable after its fallback."""
    return re.sub(r"\$\{oc\.env:(\w+),([^}]*)\}", r"\2, or $\1", {"???": "required"}.get(default, default))


def table(rows: list[tuple[str, str, str]]) -> nodes.table:
    """Return a table of options, their values, and their meanings if any is known."""
    meant = any(words for _, _, words in rows)
    titles, widths = ("option", "default", "meaning") if meant else ("option", "value"), (25, 20, 55) if meant else (50, 50)
    made, group, body = nodes.table(classes=["options"]), nodes.tgroup(cols=len(titles)), nodes.tbody()
    group += [nodes.colspec(colwidth=width) for width in widths]
    head = nodes.thead("", row([nodes.paragraph("", words) for words in titles]))
    for key, default, words in rows:
        cells = [nodes.paragraph("", "", nodes.literal(text=text)) for text in (key, shown(default))]
        body += row([*cells, *([nodes.paragraph("", words.replace("`", "").removesuffix("."))] if meant else [])])
    group += [head, body]
    made += group
    return made


def row(cells: list[nodes.Node]) -> nodes.row:
    """Return a row of a table."""
    return nodes.row("", *[nodes.entry("", cell) for cell in cells])


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive, and the classes that launchers and sweepers name."""
    register_plugins()
    app.add_directive("configuration", Configuration)
    return {"parallel_read_safe": True}
