"""The page to play with gives the numbers of `predict` and `explain`, and one sentence for every wrong input."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import socket
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gmu_lightning
from gmu_lightning.config.options import AppConfig
from gmu_lightning.exporting.command import export
from gmu_lightning.movie import UserError
from gmu_lightning.playground import server
from gmu_lightning.playground.movie import Field, content_of, fields_of, values_of
from gmu_lightning.playground.results import Playground, rule_in_words, style
from gmu_lightning.prediction.classifier import Classifier
from gmu_lightning.run import Run

from .shell import last_line, typed

BOTH = ["text", "image"]


class Page(HTMLParser):
    """The genres and shares of an answer."""

    def __init__(self, html: str):
        super().__init__()
        self.genres: list[dict[str, Any]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if "data-genre" in given:
            self.genres.append({"name": given["data-genre"], "logit": float(given["data-logit"] or "nan"), "shares": {}})
        if "data-share" in given:
            self.genres[-1]["shares"][given["data-modality"]] = float(given["data-share"] or "nan")

    def logits(self, names: tuple[str, ...]) -> list[float]:
        found = {genre["name"]: genre["logit"] for genre in self.genres}
        return [found[name] for name in names]


def text_of(html: str) -> str:
    """Return the words of a page."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


@pytest.fixture(scope="module")
def run(train, raw) -> Run:
    return train(f"data.root={raw}")


@pytest.fixture(scope="module")
def classifier(run) -> Classifier:
    return gmu_lightning.load(run.folder)


@pytest.fixture(scope="module")
def movie(raw) -> dict[str, str]:
    """A test movie of the generated ones."""
    id = json.loads((raw / "split.json").read_text())["test"][0]
    plot = json.loads((raw / "dataset" / f"{id}.json").read_text())["plot"][0]
    return {"plot": plot, "poster": str(raw / "dataset" / f"{id}.jpeg")}


@pytest.fixture
def uploads(tmp_path) -> Path:
    folder = tmp_path / "uploads"
    folder.mkdir()
    return folder


def uploaded(file: str | Path, uploads: Path) -> dict[str, str]:
    """Return what the browser sends of an uploaded file."""
    path = shutil.copy(file, uploads / "1f2e3d.jpeg")
    return {"path": str(path), "orig_name": Path(file).name}


def predicted(classifier: Classifier, movie: dict[str, str]) -> np.ndarray:
    return classifier.predict([movie])[[f"logit/{genre}" for genre in classifier.genres]].to_numpy()[0]


def test_the_page_shows_the_numbers_of_predict(classifier, movie, uploads):
    page = Page(Playground([classifier], "0.5", uploads, 0).answer([movie["plot"], uploaded(movie["poster"], uploads)], BOTH))
    assert page.logits(classifier.genres) == pytest.approx(predicted(classifier, movie), abs=1e-6)
    assert [genre["logit"] for genre in page.genres] == sorted(page.logits(classifier.genres), reverse=True)
    record = classifier.explain(movie).record["genres"]
    for genre in page.genres:
        assert genre["shares"] == pytest.approx(record[genre["name"]]["contributions"], abs=1e-6)


def test_a_modality_that_is_switched_off_is_absent(classifier, movie, uploads):
    playground = Playground([classifier], "0.5", uploads, 0)
    values = [movie["plot"], uploaded(movie["poster"], uploads)]
    for used, rest in ((["text"], "plot"), (["image"], "poster")):
        page = Page(playground.answer(values, used))
        assert page.logits(classifier.genres) == pytest.approx(predicted(classifier, {rest: movie[rest]}), abs=1e-6)
        assert {m for genre in page.genres for m in genre["shares"]} == set(used)


def test_pieces_are_drawn_on_demand(classifier, movie, uploads):
    playground = Playground([classifier], "0.5", uploads, 0)
    values = [movie["plot"], uploaded(movie["poster"], uploads)]
    assert "<rect" not in playground.answer(values, BOTH)
    html = playground.answer(values, BOTH, "pieces")
    found = classifier.explain(movie, "pieces")
    genre = found.reasons.shown[0]
    sentences = [p["effect"] for p in found.record["genres"][genre]["pieces"] if p["modality"] == "text"]
    shown = re.findall(r'<span class="(?:up|down)" style="--share:[\d.]+" title="([+-][\d.]+)">', html)
    assert [float(number) for number in shown[: len(sentences)]] == pytest.approx(sentences, abs=6e-4)
    assert html.count("<rect") == 49 * len(found.reasons.shown)
    assert "data:image/jpeg;base64," in html


def test_a_wrong_input_is_one_sentence(classifier, movie, uploads, tmp_path):
    playground = Playground([classifier], "0.5", uploads, 0)
    broken = uploads / "2b.jpg"
    broken.write_bytes(b"no picture")
    bad = {"path": str(broken), "orig_name": "my poster.jpg"}
    assert "Nothing is entered yet: write a plot or choose a poster, then press Predict." in playground.answer([None, None], BOTH)
    assert "Nothing is entered yet" in playground.answer(["  ", None], BOTH)
    assert "Everything that is entered is switched off" in playground.answer(["A boy.", None], ["image"])
    alone = text_of(playground.answer([None, bad], BOTH))
    assert alone.startswith("The movie cannot be explained: image my poster.jpg is not used:")
    beside = text_of(playground.answer(["A boy.", bad], BOTH))
    assert beside.startswith("Image my poster.jpg is not used:") and "0." in beside
    gone = {"path": str(uploads / "gone.jpg"), "orig_name": "gone.jpg"}
    assert "The file of the poster is not on the server any more: choose it again" in playground.answer(["A boy.", gone], BOTH)
    for outside in (movie["poster"], str(uploads / ".." / "outside.jpg"), "/etc/passwd"):
        assert "is not on the server any more" in playground.answer([None, {"path": outside}], BOTH)
    assert str(tmp_path) not in alone + beside


def test_what_is_typed_stays_text(classifier, uploads):
    playground = Playground([classifier], "0.5", uploads, 0)
    html = playground.answer(['<script>alert("x")</script> \x1b[31m A boy.', None], BOTH, "pieces")
    assert "<script" not in html and "&lt;script&gt;" in html and "\x1b" not in html


def test_runs_stand_side_by_side(classifier, train, raw, movie, uploads):
    posters = gmu_lightning.load(train("modalities=image", "fusion=none", f"data.root={raw}").folder)
    playground = Playground([classifier, posters], "0.5", uploads, 0)
    assert [field.modality for field in playground.fields] == BOTH
    assert "poster alone" in playground.head() and "gmu_original" in playground.head()
    html = playground.answer([movie["plot"], uploaded(movie["poster"], uploads)], BOTH)
    both, one = (Page(part) for part in html.split("<section")[1:])
    assert both.logits(classifier.genres) == pytest.approx(predicted(classifier, movie), abs=1e-6)
    assert one.logits(posters.genres) == pytest.approx(predicted(posters, {"poster": movie["poster"]}), abs=1e-6)
    without = playground.answer([movie["plot"], None], BOTH)
    assert "This run reads poster, and none of it is entered and switched on." in without
    assert len(Page(without).genres) == len(classifier.genres)


def test_equal_settings_have_different_titles(run, classifier, train, raw, uploads, tmp_path):
    second = gmu_lightning.load(train(f"data.root={raw}", "seed=2").folder)
    shutil.copytree(run.folder, tmp_path / "copy")
    copy = gmu_lightning.load(tmp_path / "copy")
    titles = [player.title for player in Playground([classifier, second, copy], "0.5", uploads, 0).players]
    assert titles == ["gmu_original, seed 1, run", "gmu_original, seed 2", "gmu_original, seed 1, copy"]
    assert [player.title for player in Playground([second], "0.5", uploads, 0).players] == ["gmu_original"]


def test_the_rule_of_decision_is_shown(classifier, movie, uploads):
    def marks(threshold: str) -> tuple[str, set[str]]:
        html = Playground([classifier], threshold, uploads, 0).answer([movie["plot"], None], BOTH)
        return text_of(html), set(re.findall(r'class="mark" style="left: ([\d.]+)%"', html))

    words, found = marks("0.25")
    assert "A genre is predicted from a probability of 0.25 on" in words and found == {"25.00"}
    words, found = marks("val_per_genre")
    assert "Each genre has a threshold of its own" in words and len(found) > 1
    assert "No genre reaches its threshold" in marks("1")[0]
    with pytest.raises(UserError, match="threshold=vall is no rule"):
        Playground([classifier], "vall", uploads, 0)
    single: Any = SimpleNamespace(task="multiclass", threshold=0.5)
    assert rule_in_words(single) == "The most probable label is predicted."


@pytest.fixture(scope="module")
def of_arrays(train) -> Classifier:
    """A run on plots, arrays of frames, and a table of metadata."""
    words = ("data.modalities=text+video+metadata", "modalities=text+video+metadata", "fusion=mean")
    return gmu_lightning.load(train(*words).folder)


def test_columns_of_a_table_are_fields(of_arrays, uploads):
    playground = Playground([of_arrays], "0.5", uploads, 0)
    fields = {field.column or field.modality: field for field in playground.fields}
    assert next(iter(fields)) == "text" and "video" not in fields
    assert fields["screens"].choices is None and fields["screens"].hint.startswith("such as ")
    assert "France" in (fields["country"].choices or ())
    assert "The trailer cannot be entered here, since a run reads extracted features of it." in playground.head()
    values = {"text": "A boy.", "screens": "3", "country": ["France"], "keywords": ["heist", "rain"]}
    html = playground.answer([values.get(name) for name in fields], ["text", "metadata"])
    expected = predicted(of_arrays, {"plot": "A boy.", "screens": 3, "country": "France", "keywords": ["heist", "rain"]})  # type: ignore[dict-item]
    assert Page(html).logits(of_arrays.genres) == pytest.approx(expected, abs=1e-6)
    assert {m for genre in Page(html).genres for m in genre["shares"]} == {"text", "metadata"}


def test_an_example_fills_the_fields_as_if_typed(of_arrays, uploads):
    fields = fields_of([of_arrays])
    row = {"screens": 1234.0, "country": "France", "keywords": ["heist", "rain"], "unknown": "x"}
    values = values_of(fields, {"text": "A boy.", "video": np.zeros((2, 2)), "metadata": row})
    content = content_of(fields, values, ["text", "metadata"], uploads)
    assert content["text"] == "A boy."
    assert content["metadata"] == {"screens": "1234", "country": ["France"], "keywords": ["heist", "rain"]}


def test_a_run_on_features_alone_is_refused(train):
    frames = gmu_lightning.load(train("data.modalities=video", "modalities=video", "fusion=none").folder)
    with pytest.raises(UserError, match="the run reads features: give another one"):
        fields_of([frames])


def test_examples_are_movies_of_the_test_split(run, classifier, raw, uploads, tmp_path):
    playground = Playground([classifier], "0.5", uploads, 3)
    found, reason = playground.examples()
    ids = json.loads((raw / "split.json").read_text())["test"]
    records = [json.loads((raw / "dataset" / f"{id}.json").read_text()) for id in ids[:3]]
    assert [example.content["text"] for example in found] == [record["plot"][0] for record in records]
    assert [set(example.genres) for example in found] == [set(record["genres"]) & set(classifier.genres) for record in records]
    assert reason == "" and values_of(playground.fields, found[0].content)[1] == raw / "dataset" / f"{ids[0]}.jpeg"
    assert Playground([classifier], "0.5", uploads, 0).examples() == ([], "")
    moved = tmp_path / "moved"
    shutil.copytree(run.folder, moved)
    config = (moved / "config.yaml").read_text()
    (moved / "config.yaml").write_text(config.replace(str(raw), str(tmp_path / "nowhere")))
    assert (
        Playground([gmu_lightning.load(moved)], "0.5", uploads, 3)
        .examples()[1]
        .startswith(f"There are no examples: the data of {moved} are not there any more")
    )
    (moved / "predictions" / "test.parquet").unlink()
    assert "There are no examples: " in Playground([gmu_lightning.load(moved)], "0.5", uploads, 3).examples()[1]


def test_an_exported_model_is_played_with(run, classifier, movie, uploads, tmp_path):
    export(run.folder, tmp_path / "model", None, False, None, True)
    playground = Playground([gmu_lightning.load(tmp_path / "model")], "0.5", uploads, 3)
    page = Page(playground.answer([movie["plot"], None], BOTH))
    assert page.logits(classifier.genres) == pytest.approx(predicted(classifier, {"plot": movie["plot"]}), abs=1e-5)
    assert playground.examples() == ([], "There are no examples: an exported model holds no movies")


def test_wrong_options_are_one_sentence(run, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = typed("app", f"run={run.folder}", f"port={port}", folder=tmp_path, store=None)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [f"port={port} is in use: give another one, or port=0 for a free one"]
    done = typed("app", f"run={run.folder}", "host=192.0.2.7", folder=tmp_path, store=None)
    assert last_line(done.stderr).startswith("host=192.0.2.7 is no address of this machine")
    done = typed("app", f"run={tmp_path}", "port=0", folder=tmp_path, store=None)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1) and "config.yaml" in done.stderr
    for key, wrong in (("port", 70000), ("upload_mb", 0), ("examples", -1), ("browser", "maybe"), ("backend", "tpu")):
        with pytest.raises(UserError, match=f"{key}={wrong}"):
            AppConfig.of({key: wrong})


def test_a_missing_gradio_is_named(monkeypatch):
    monkeypatch.setattr(server, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'gmu_lightning\[app\]'"):
        server.check_installed()


def answered(path: str, host: str, names: tuple[str, ...]) -> tuple[int, dict[bytes, bytes]]:
    """Return status and headers of the guard's answer to a request."""
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "path": path, "headers": [(b"host", host.encode())]}
    asyncio.run(server.Guard(app, names)(scope, None, send))
    return sent[0]["status"], dict(sent[0]["headers"])


def test_requests_of_strangers_are_refused():
    own = server.names_of("127.0.0.1")
    status, headers = answered("/", "127.0.0.1:7860", own)
    assert status == 200 and b"default-src 'self'" in headers[b"content-security-policy"]
    assert answered("/", "localhost:7860", own)[0] == 200
    assert answered("/", "attacker.example:7860", own)[0] == 403
    assert answered("/", "192.168.1.5:7860", server.names_of("0.0.0.0"))[0] == 200
    for path in ("/gradio_api/proxy=https://example.com/", "/gradio_api/info", "/monitoring", "/gradio_api/vibe-code/"):
        assert answered(path, "localhost", own)[0] == 403


def test_the_styles_load_nothing():
    assert not re.search(r"@import|url\(|https?:", style())


def test_gradio_offers_no_function_to_programs(classifier, uploads):
    pytest.importorskip("gradio")
    from gmu_lightning.playground.blocks import blocks, look

    page = blocks(Playground([classifier], "0.5", uploads, 3))
    assert {one["api_visibility"] for one in page.get_config_file()["dependencies"]} == {"private"}
    assert not page.analytics_enabled
    theme = look()["theme"]
    assert not theme._stylesheets and not theme._font_css


def test_a_file_field_takes_one_file(uploads):
    clip = uploads / "a.mp4"
    clip.write_bytes(b"x")
    found = content_of([Field("video", "Trailer")], [{"path": str(clip)}], ["video"], uploads)
    assert found == {"video": clip}
