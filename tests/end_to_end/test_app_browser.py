"""A real browser plays with the page. The page sends requests to its server alone, and the server sends none."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import gmu_lightning
from gmu_lightning.cli.command_line import ends_by_signals
from gmu_lightning.playground import server
from gmu_lightning.run import Run
from gmu_lightning.signals import Terminated

from .shell import PATIENCE, command
from .test_no_hidden_calls import Spied, spied

BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)


class Served(NamedTuple):
    """A page that is served under the spy."""

    address: str
    folder: Path
    ended: Future[Spied]

    def end(self, number: int) -> Spied:
        """End the server by a signal, and return what it did."""
        os.kill(int((self.folder / "pid").read_text()), number)
        return self.ended.result(PATIENCE)


@pytest.fixture(scope="module")
def run(train, raw) -> Run:
    return train(f"data.root={raw}")


@pytest.fixture
def served(run, tmp_path, store) -> Iterator[Served]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "tmp").mkdir()
    words = command("app", f"run={run.folder}", f"port={port}", "upload_mb=1", "examples=2")
    started = ["sh", "-c", 'echo $$ > pid; exec "$@"', "sh", *words]
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(spied, started, tmp_path, store, TMPDIR=str(tmp_path / "tmp"))
        page = Served(f"http://127.0.0.1:{port}/", tmp_path, ended)
        try:
            _wait(port, ended)
            yield page
        finally:
            if not ended.done():
                page.end(signal.SIGTERM)


def _wait(port: int, ended: Future[Spied]) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and not ended.done():
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(ended.result(0).err)


def logits_on(page: Any) -> dict[str, float]:
    """Return {genre: logit} of the answer in the browser."""
    found = page.locator("li[data-genre]").evaluate_all("all => all.map(li => [li.dataset.genre, li.dataset.logit])")
    return {genre: float(logit) for genre, logit in found}


@pytest.mark.heavy
@pytest.mark.skipif(BROWSER is None, reason="no browser is installed")
def test_a_browser_plays_with_the_page(served, run, raw, tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api")
    id = json.loads((raw / "split.json").read_text())["test"][1]
    plot = json.loads((raw / "dataset" / f"{id}.json").read_text())["plot"][0]
    poster = raw / "dataset" / f"{id}.jpeg"
    classifier = gmu_lightning.load(run.folder)
    rows = classifier.predict([{"plot": plot, "poster": str(poster)}, {"plot": plot}])
    whole, less = (dict(zip(classifier.genres, row, strict=True)) for row in _logits(rows, classifier.genres))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no picture")
    requests: list[str] = []
    complaints: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.context.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(served.address)
        page.get_by_text("Nothing is entered yet").wait_for()
        page.get_by_role("textbox", name="Plot").fill(plot)
        page.locator("input[type=file]").first.set_input_files(poster)
        page.locator("img[src*='gradio_api/file=']").wait_for()
        page.get_by_role("button", name="Predict").click()
        page.locator("li[data-modality=image]").first.wait_for()
        assert logits_on(page) == pytest.approx(whole, abs=1e-6)
        best = max(whole, key=lambda genre: whole[genre])
        assert page.locator("li.genre .name").first.inner_text().startswith(best)
        assert page.locator("li.genre summary .number").first.inner_text().split()[-1] == f"{1 / (1 + np.exp(-whole[best])):.3f}"

        page.get_by_role("checkbox", name="Poster").uncheck()
        page.locator("li[data-modality=image]").first.wait_for(state="detached")
        assert page.locator("li[data-modality=text]").count() == len(classifier.genres)
        assert logits_on(page) == pytest.approx(less, abs=1e-6)
        page.get_by_role("checkbox", name="Poster").check()
        page.locator("li[data-modality=image]").first.wait_for()
        odd = 'A ${document.title = "x"} boy `a` {{value}}. It ends.'
        page.get_by_role("textbox", name="Plot").fill(odd)
        page.get_by_role("button", name="Explain").click()
        page.locator(".pieces rect").first.wait_for()
        for width in (1280, 400):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.screenshot(path=tmp_path / f"{width}.png", full_page=True)
            assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        shown = re.sub(r" [+-]\d\.\d\d", "", page.locator(".pieces .plot").first.inner_text())
        assert (shown, page.title()) == (odd, "Movie genres")

        page.get_by_role("button", name="Clear").click()
        page.get_by_text("Nothing is entered yet").wait_for()
        page.locator("input[type=file]").first.set_input_files(tmp_path / "broken.png")
        page.locator("img[src*='gradio_api/file=']").wait_for(state="attached")
        page.get_by_role("button", name="Predict").click()
        page.get_by_text(re.compile("The movie cannot be explained: image broken.png is not used")).wait_for()
        page.locator("#examples button.gallery-item").nth(1).click()
        page.locator("li[data-modality=image]").first.wait_for()
        assert page.get_by_role("textbox", name="Plot").input_value() == plot
        assert logits_on(page) == pytest.approx(whole, abs=1e-6)

        large = {"files": {"name": "a.png", "mimeType": "image/png", "buffer": b"x" * 1_200_000}}
        assert page.request.post(f"{served.address}gradio_api/upload", multipart=large).status == 413
        for place in ("gradio_api/info", "gradio_api/file=/etc/passwd", f"gradio_api/file={run.folder}/config.yaml"):
            assert page.request.get(served.address + place).status == 403
        stolen = {"path": f"{run.folder}/config.yaml", "meta": {"_type": "gradio.FileData"}}
        asked = {"data": [["image"], None, stolen], "fn_index": 0, "session_hash": "stranger"}
        assert page.request.post(f"{served.address}gradio_api/queue/join", data=asked).ok
        heard = page.request.get(f"{served.address}gradio_api/queue/data?session_hash=stranger").text()
        assert '"success":false' in heard and str(run.folder) not in heard
        assert not list((tmp_path / "tmp").rglob("config.yaml"))
        browser.close()
    assert complaints == []
    outside = [url for url in requests if not url.startswith((served.address, "data:", "blob:"))]
    assert requests and outside == []
    assert list((tmp_path / "tmp").glob("gmu_lightning-*/*"))
    seen = served.end(signal.SIGINT)
    assert (seen.code, seen.err.splitlines()[-1:]) == (130, ["interrupted"]), seen.err
    assert seen.err.count("Traceback") == 1 and "it was not uploaded by a user" in seen.err  # the stranger's request
    assert seen.outside == seen.loopback == []
    assert not list((tmp_path / "tmp").glob("gmu_lightning-*"))


def _logits(rows: Any, genres: tuple[str, ...]) -> np.ndarray:
    return rows[[f"logit/{genre}" for genre in genres]].to_numpy()


@pytest.mark.heavy
def test_sigterm_ends_the_page(served, tmp_path):
    seen = served.end(signal.SIGTERM)
    assert seen.code == 143, seen.err
    assert "Traceback" not in seen.err
    assert not list((tmp_path / "tmp").glob("gmu_lightning-*"))


def test_uploaded_files_are_deleted_at_a_signal(monkeypatch):
    for name in (*server.ENVIRONMENT, "GRADIO_TEMP_DIR"):
        monkeypatch.setenv(name, "")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), ends_by_signals(), server.uploads() as folder:
        (folder / "poster.jpg").write_bytes(b"x")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert not folder.exists()
    assert signal.getsignal(signal.SIGTERM) is before
