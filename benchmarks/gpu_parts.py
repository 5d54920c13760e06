"""Parts of the benchmark of a device: heads as stacks and in CUDA graphs, and the rate of the input pipeline alone."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.harness import Options, alternated, ratios, spread
from benchmarks.ours import made
from benchmarks.workers import cost
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.encoders.vector import Vector
from gmu_lightning.fusion import GMU
from gmu_lightning.losses import WeightedBCE
from gmu_lightning.model import MovieGenreClassifier
from gmu_lightning.movie import Features, MovieBatch

SIZES, GENRES, BATCH, MOVIES = {"text": 384, "image": 1280}, 23, 64, 1549
FEW, MANY = 8, 40  # jobs of the two sweeps, whose difference excludes start-up
STEPS = 500
PIPELINE = 2_600  # generated movies


def heads(options: Options, few: int = FEW, many: int = MANY) -> list[dict[str, Any]]:
    """Return one row for stacks of seeds and one for workers on CPU cores: the seconds that a further job takes."""
    rounds = alternated({how: partial(more_jobs, options, how, few, many) for how in ("stacks", "workers")}, options.rounds)
    rows = []
    for how, taken in rounds.items():
        row: dict[str, Any] = {"heads": f"{how}, {few} to {many} jobs", "s a job": spread(taken)}
        rows.append(row | ({"stacks / workers": ratios(taken, rounds["workers"])} if how == "stacks" else {}))
    return rows


def more_jobs(options: Options, how: str, few: int, many: int) -> float:
    """Return the seconds that one job more takes in a sweep of seeds, from the difference of two sweeps."""
    walls = []
    for jobs in (few, many):
        sweep = options.scratch / f"heads-{how}"
        shutil.rmtree(sweep, ignore_errors=True)
        words = ["data=planted", "data.modalities=video+audio", "modalities=video+audio", f"seed=range(0,{jobs})"]
        words += [*options.run_words(limited=False), "hydra/launcher=stacked", f"hydra.launcher.how={how}"]
        words += [f"hydra.sweep.dir={sweep}", *(["trainer.accelerator=cpu"] if how == "workers" else [])]
        took = cost(["-m", "gmu_lightning.train", "-m", *words], options.scratch / f"logs/heads-{how}.txt", options.threads)
        walls.append(took.wall)
        states = [json.loads(path.read_text())["state"] for path in sweep.glob("*/status.json")]
        if states.count("finished") != jobs:
            raise SystemExit(f"{sweep}: {states.count('finished')} jobs of {jobs} finished")
    return (walls[1] - walls[0]) / (many - few)


def head_steps(options: Options, device: torch.device) -> list[dict[str, Any]]:
    """Return one row for each way to call the training step of one head: eager, compiled, and on CUDA as a graph."""
    ways: dict[str, Callable[[], float]] = {"eager": HeadStep(device).microseconds}
    refused = []
    for way in ("compiled", "graph") if device.type == "cuda" else ():
        try:
            step = HeadStep(device, way)
            step.call()
            ways[way] = step.microseconds
        except Exception as error:  # of whatever kind the compiler or the capture raises
            why = str(error).splitlines() or [""]
            refused.append({"heads": f"a step of gmu_original, {way}: {type(error).__name__}: {why[0][:100]}"})
    rounds = alternated(ways, options.rounds)
    rows: list[dict[str, Any]] = []
    for way, taken in rounds.items():
        row: dict[str, Any] = {"heads": f"a step of gmu_original, {way}", "us a step": spread(taken)}
        rows.append(row | ({"way / eager": ratios(taken, rounds["eager"])} if way != "eager" else {}))
    return rows + refused


class HeadStep:
    """The training step of one head over resident vectors.

    Args:
        way: `eager`; `compiled`, which compiles the model; or `graph`, which captures the whole step in a CUDA graph.
    """

    def __init__(self, device: torch.device, way: str = "eager"):
        self.device, self.way = device, way
        encoders: dict[str, Encoder] = {
            m: Vector(m, dim=size, freeze="all", normalise="none", dropout=0.5) for m, size in SIZES.items()
        }
        labels = np.random.default_rng(0).random((MOVIES, GENRES)) < 0.15
        model = MovieGenreClassifier(encoders, GMU("original", SIZES, bias=True), GENRES, WeightedBCE(labels)).to(device)
        self.model = model.train()
        if way == "compiled":
            self.model.compile()
        self.columns = {m: torch.randn(MOVIES, size, device=device) for m, size in SIZES.items()}
        self.present = torch.ones(MOVIES, len(SIZES), dtype=torch.bool, device=device)
        self.targets = torch.from_numpy(labels).float().to(device)
        options: dict[str, Any] = {"fused": True, "capturable": True} if device.type == "cuda" else {"fused": True}
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, **options)
        self.rows = torch.arange(BATCH, device=device)
        self.call: Callable[[], Any] = self._step
        if way == "graph":
            self._capture()

    def _step(self) -> None:
        vectors = {m: Features(column[self.rows]) for m, column in self.columns.items()}
        logits = self.model(MovieBatch((), vectors, self.present[self.rows], None)).logits
        self.optimizer.zero_grad(set_to_none=False)
        self.model.loss(logits, self.targets[self.rows]).backward()
        self.optimizer.step()

    def _capture(self) -> None:
        """Run some steps on a stream of their own, as a capture wants it, and capture one."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        self.call = graph.replay

    def microseconds(self, steps: int = STEPS) -> float:
        """Return the microseconds of a step, each with movies of its own."""
        wait = torch.cuda.synchronize if self.device.type == "cuda" else lambda: None
        for n in range(-20, steps):
            if n == 0:
                wait()
                start = time.perf_counter()
            self.rows.copy_(torch.randint(MOVIES, (BATCH,), device=self.device))
            self.call()
        wait()
        return 1e6 * (time.perf_counter() - start) / steps


def pipeline(options: Options, movies: int = PIPELINE) -> list[float]:
    """Return the movies per second that the loader alone gives, once a round: tokens of plots, and pixels of posters.

    The movies are generated and prepared first, and the networks that would read them are never built.
    """
    trained = ("encoder/text=minilm", "encoder.text.freeze=none", "encoder/image=efficientnet_lite0", "encoder.image.freeze=none")
    words = ["data=planted", f"data.movies={movies}", "modalities=text+image", *trained, *options.run_words(limited=False)]
    data = made(words).data
    return [loaded(data, epoch) for epoch in range(options.rounds + 1)][1:]


def loaded(data: Any, epoch: int) -> float:
    """Return the movies per second of one pass over the batches of train."""
    start = time.perf_counter()
    seen = sum(len(batch.ids) for batch in data.loader("train", training=True, epoch=epoch))
    return seen / (time.perf_counter() - start)


def pipeline_note(rates: Sequence[float], trained: float) -> str:
    """Return a sentence that compares the loader's rate with `trained`, the movies per second of the fastest fine-tuning."""
    median = spread(rates).median
    limit = "It is no limit." if median > trained else "**It is the limit**: set data.workers."
    return f"The loader alone gives {median:,.0f} movies/s, {median / trained:.1f} times what fine-tuning takes. {limit}"
