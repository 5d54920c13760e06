"""The page as Gradio's blocks: inputs on the left, answers on the right, below each other on a phone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import gradio

from gmu_lightning.playground.examples import Example
from gmu_lightning.playground.movie import WORDS, Field, values_of
from gmu_lightning.playground.results import Playground, style

OLD = 3600  # seconds until an uploaded file is deleted
EVERY = 600  # seconds between two looks for such files
COLUMNS = 12  # columns of a table that are in view; others are folded
TYPES = {"video": ["video"], "audio": ["audio", "video"]}
LONGEST = 100_000  # characters of a plot


def look() -> dict[str, Any]:
    """Return Gradio's arguments on fonts, colours and styles. No font is loaded."""
    system = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Liberation Sans", "sans-serif"]
    theme = gradio.themes.Default(primary_hue="blue", neutral_hue="slate", font=system, font_mono=["ui-monospace", "monospace"])
    theme.set(button_primary_background_fill="*primary_700", button_primary_background_fill_hover="*primary_800")
    theme.set(button_primary_background_fill_dark="*primary_700", block_label_text_color="*neutral_600")
    return {"theme": theme, "head": style()}


def blocks(playground: Playground) -> Any:
    """Return the page. Data are read, and contents are encoded, from the first request on."""
    events: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": 1, "concurrency_id": "model"}
    offered = _Offered(playground)
    with gradio.Blocks(title="Movie genres", analytics_enabled=False, delete_cache=(EVERY, OLD), fill_width=True) as page:
        gradio.HTML(playground.head(), apply_default_css=False)
        with gradio.Row(equal_height=False):
            with gradio.Column(scale=5, min_width=320):
                inputs = _inputs(playground.fields)
                with gradio.Row():
                    predict = gradio.Button("Predict", variant="primary", min_width=110, scale=3)
                    explain = gradio.Button("Explain", min_width=100, scale=2)
                    clear = gradio.Button("Clear", min_width=70, scale=1)
                examples = gradio.Dataset(
                    label="Movies of the test split",
                    components=["textbox"],
                    samples=[],
                    type="index",
                    visible=False,
                    elem_id="examples",
                )
                note = gradio.Markdown(visible=False)
            with gradio.Column(scale=9 if len(playground.players) > 1 else 6, min_width=320):
                runs = "runs" if len(playground.players) > 1 else "run"
                names = [(WORDS[m].capitalize(), m) for m in playground.modalities]
                used = gradio.CheckboxGroup(names, value=playground.modalities, label=f"Inputs that the {runs} may use")
                results = gradio.HTML(playground.answer([None] * len(inputs), playground.modalities), apply_default_css=False)
        given = {"inputs": [used, *inputs], "outputs": results, "preprocess": False, **events}
        answer = partial(_answer, playground)
        used.input(partial(answer, "modalities"), **given)
        predict.click(partial(answer, "modalities"), scroll_to_output=True, **given)
        explain.click(partial(answer, "pieces"), scroll_to_output=True, **given)
        clear.click(_cleared(playground), None, [*inputs, used, results], **events)
        chosen = examples.click(offered.values, examples, [*inputs, used], **events)
        chosen.then(partial(answer, "modalities"), scroll_to_output=True, **given)
        page.load(offered.shown, None, [examples, note], api_visibility="private")
    return page


def _answer(playground: Playground, why: Any, used: Sequence[str], *values: Any) -> str:
    return playground.answer(values, used, why)


def _cleared(playground: Playground) -> Callable[[], list[Any]]:
    """Return a function that returns empty inputs, all switches on, and the answer to empty inputs."""
    nothing: list[Any] = [[] if field.choices is not None else None for field in playground.fields]
    return lambda: [*nothing, playground.modalities, playground.answer(nothing, playground.modalities)]


def _inputs(fields: Sequence[Field]) -> list[Any]:
    """Return a component for each field. Files reach the server as they are."""
    found = [_input(field) for field in fields if field.column is None]
    columns = [field for field in fields if field.column is not None]
    for label, part, opened in (("Table", columns[:COLUMNS], True), ("More columns of the table", columns[COLUMNS:], False)):
        if part:
            with gradio.Accordion(label, open=opened), gradio.Row():
                found += [_input(field) for field in part]
    return found


def _input(field: Field) -> Any:
    if field.column is not None and field.choices is not None:
        return gradio.Dropdown(list(field.choices), label=field.label, multiselect=True, allow_custom_value=True, min_width=160)
    if field.column is not None:
        return gradio.Textbox(label=field.label, placeholder=field.hint, max_lines=1, min_width=160)
    if field.modality == "text":
        return gradio.Textbox(
            label=field.label, lines=7, max_lines=16, max_length=LONGEST, placeholder="A boy, a dog and the sea …"
        )
    if field.modality == "image":
        return gradio.Image(
            label=field.label, type="filepath", image_mode=None, sources=["upload", "clipboard"], height=300, buttons=[]
        )
    return gradio.File(label=field.label, file_types=TYPES[field.modality], height=120)


class _Offered:
    """The movies of the test split that the page offers. They are read at the first visit.

    Args:
        playground: whose first run names them.
    """

    def __init__(self, playground: Playground):
        self.playground = playground
        self.lock = Lock()
        self.found: tuple[list[Example], str] | None = None

    def read(self) -> tuple[list[Example], str]:
        """Return the movies, and the reason if there are none."""
        with self.lock:
            if self.found is None:
                self.found = self.playground.examples()
            return self.found

    def shown(self) -> tuple[Any, Any]:
        """Return the list of movies, and the sentence in its place."""
        movies, reason = self.read()
        labels = [movie.label for movie in movies]
        offered = gradio.Dataset(samples=[[label] for label in labels], sample_labels=labels, visible=bool(labels))
        return offered, gradio.Markdown(reason, visible=bool(reason))

    def values(self, number: int) -> list[Any]:
        """Return the values of the fields for a movie, and all modalities as switched on."""
        fields = self.playground.fields
        values = values_of(fields, self.read()[0][number].content)
        return [*(self._uploaded(value) if isinstance(value, Path) else value for value in values), self.playground.modalities]

    def _uploaded(self, file: Path) -> str | None:
        """Return the path of a copy of a file among the uploaded ones; None if it is gone."""
        from gradio.processing_utils import save_file_to_cache

        try:
            return save_file_to_cache(file, str(self.playground.uploads))
        except OSError:
            return None
