"""A model's operations against those counted by hand, and what counting leaves behind."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmu_lightning.callbacks import flops
from gmu_lightning.callbacks.flops import ModelFlops, Peak, Work, measured_peak, quadratic, work_of
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.fusion import Concat
from gmu_lightning.lightning import pl
from gmu_lightning.model import MovieGenreClassifier
from gmu_lightning.movie import Features, MovieBatch

SIZES = {"text": 3, "image": 4}
GENRES = 5
LENGTHS = np.array([2, 7, 3, 5, 4, 6])
NEVER = LENGTHS == 4  # this movie has no text


class Tokens(NamedTuple):
    x: Tensor  # (B, T, d)
    mask: Tensor  # (B, T)


class Attending(Encoder):
    """softmax(q k^T) v over real tokens with q = k = v = W x, then their mean; or W x of a vector."""

    def __init__(self, modality: str, **common: Any):
        super().__init__(modality, **{"pretrained": False, "normalise": "none"} | common)

    @property
    def dim(self) -> int:
        return SIZES[self.modality]

    def blocks(self) -> list[nn.Module]:
        return [self.network]

    def _load(self) -> nn.Module:
        return nn.Linear(self.dim, self.dim, bias=False)

    def forward(self, inputs: Any) -> Features:
        if isinstance(inputs, Tensor):
            return Features(self.network(inputs))
        q = self.network(inputs.x)[:, None]  # (B, 1, T, d)
        read = F.scaled_dot_product_attention(q, q, q, attn_mask=inputs.mask[:, None, None])[:, 0]
        kept = inputs.mask[..., None].float()
        return Features((read * kept).sum(1) / kept.sum(1))


class Movies:
    """Six movies, texts of 2 to 7 tokens; the face of a data module that counting needs."""

    def __init__(self) -> None:
        self.columns = {"text": SimpleNamespace(lengths=np.where(NEVER, 0, LENGTHS)), "image": SimpleNamespace(lengths=None)}
        self.present = torch.tensor(np.stack([~NEVER, np.ones(6, dtype=bool)], axis=1))

    def rows(self, split: str) -> np.ndarray:
        return np.arange(6)

    def loader(self, split: str, training: bool = False) -> Any:
        return SimpleNamespace(dataset=self)

    def __getitem__(self, rows: list[int]) -> MovieBatch:
        lengths = torch.from_numpy(np.where(NEVER, 1, LENGTHS)[rows])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        inputs = {"text": Tokens(torch.randn(*mask.shape, 3), mask), "image": torch.randn(len(rows), 4)}
        return MovieBatch(tuple(map(str, rows)), inputs, self.present[rows], torch.zeros(len(rows), GENRES))


def made(**common: Any) -> tuple[MovieGenreClassifier, Any]:
    torch.manual_seed(0)
    encoders = {m: Attending(m, **common) for m in SIZES}
    for encoder in encoders.values():
        encoder.build()
    model = MovieGenreClassifier(encoders, Concat(SIZES, hidden=False), GENRES, nn.BCEWithLogitsLoss())
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False, barebones=False)
    trainer.datamodule = Movies()  # as it stands after a fit
    trainer.strategy._lightning_module = model
    return model, trainer


HEAD = 3 * 2 * (3 + 4) * GENRES  # forward, gradient of the weights, gradient of the inputs


def text_by_hand(tokens: int) -> int:
    """W x forward and the gradient of W; q k^T and p v forward, and of each the gradients of both factors."""
    return 2 * 2 * tokens * 3 * 3 + 3 * 2 * (2 * tokens * tokens * 3)


def test_operations_are_those_counted_by_hand_at_lengths_that_were_not_tried():
    counted = ModelFlops(*made())
    np.testing.assert_allclose(counted.encoders[1], (2 * 2 * 4 * 4, 0, 0), atol=1e-6)
    np.testing.assert_allclose(counted.rest, (HEAD, 0, 0), atol=1e-6)
    for tokens in (1, 4, 11):
        work = Work(1, np.array([1, 0]), np.array([tokens, 0]), np.array([tokens**2, 0]), np.array([tokens, 0]))
        assert counted(work) == pytest.approx(HEAD + text_by_hand(tokens))


def test_padding_is_no_work():
    model, trainer = made()
    counted, movies = ModelFlops(model, trainer), Movies()
    together = work_of(movies[list(range(6))], list(SIZES)).numpy()
    alone = sum(work_of(movies[[n]], list(SIZES)).numpy() for n in range(6))
    assert together[3, 0] > alone[3, 0]
    assert counted(Work(6, *together)) == counted(Work(6, *alone))
    texts = sum(text_by_hand(int(n)) for n in LENGTHS[~NEVER])
    assert counted(Work(6, *together)) == pytest.approx(6 * HEAD + 6 * 64 + texts)


def test_an_encoder_that_is_not_trained_has_no_backward_pass():
    counted = ModelFlops(*made(pretrained=True, freeze="all"))
    assert counted.encoders[1][0] == pytest.approx(2 * 4 * 4)
    assert counted.rest[0] == pytest.approx(HEAD * 2 / 3)  # nor has the head's input a gradient


def test_counting_changes_neither_the_model_nor_a_generator():
    model, trainer = made(dropout=0.5, modality_dropout=0.5, normalise="batch")
    model.eval()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    ModelFlops(model, trainer)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for module in model.modules() if module is not model.loss)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all((parameter.grad == 1).all() for parameter in model.parameters())


@pytest.mark.parametrize(("x", "terms"), [([1, 2, 5], (3, 4, 5)), ([1, 2], (3, 4, 0)), ([7], (3, 0, 0))])
def test_a_quadratic_goes_through_its_points(x, terms):
    a, b, c = terms
    assert quadratic(x, [a + b * n + c * n * n for n in x]) == pytest.approx(terms, abs=1e-9)


def test_work_counts_real_tokens_of_movies_that_have_them():
    mask = torch.tensor([[True, True, False], [True, True, True], [True, False, False]])
    present = torch.tensor([[True, False], [True, True], [False, True]])
    inputs = {"text": Tokens(torch.zeros(3, 3, 3), mask), "image": torch.zeros(3, 4)}
    found = work_of(MovieBatch(("a", "b", "c"), inputs, present, None), ["text", "image"])
    assert found.tolist() == [[2, 2], [5, 0], [4 + 9, 0], [6, 0]]


def test_the_peak_is_the_fastest_product_and_large_ones_are_left_out_when_time_is_short(monkeypatch):
    speed = {8: 1e3, 16: 4e3, 32: 2e3}
    now = [0.0]

    def seconds(a: Tensor, b: Tensor, out: Tensor) -> float:
        needed = 2 * len(a) ** 3 / speed[len(a)]
        now[0] += needed
        return needed

    monkeypatch.setattr(flops, "SIZES", tuple(speed))
    monkeypatch.setattr(flops, "_seconds_of_product", seconds)
    monkeypatch.setattr(flops.time, "perf_counter", lambda: now[0])
    assert measured_peak(torch.device("cpu"), torch.float32, seconds=1000.0) == Peak(pytest.approx(4e3), 16)
    before = now[0]
    assert measured_peak(torch.device("cpu"), torch.float32, seconds=3.0) == Peak(pytest.approx(1e3), 8)
    assert now[0] - before < 4 * 2 * 8**3 / 1e3  # three tries of the smallest, and nothing else


def test_a_product_takes_time():
    a = torch.ones(64, 64)
    out = torch.empty(64, 64)
    assert flops._seconds_of_product(a, a, out) > 0
    assert (out == 64).all()
