"""Fine-tune by a hand-written loop on the same batches as our run, for comparison in `fine_tuning`.

The loop uses `raw_bert`, cached poster features, a GMU, weighted BCE, fused AdamW with warm-up, and clipping. In bfloat16 the
encoder's weights are bfloat16 too, and the optimizer keeps a float32 copy of them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.ours import Made, made
from benchmarks.raw_bert import MINILM, Masks, Shape, encoded, packed
from benchmarks.workers import Turns
from gmu_lightning.model import MovieGenreClassifier
from gmu_lightning.movie import MovieBatch

BERT = "encoders.text.network."


class Batch(NamedTuple):
    """B movies, shortest plot first."""

    rows: list[Tensor]  # ids of each plot, (T_n,)
    image: Tensor  # (B, 1280), standardised
    present: Tensor  # (B, 2) bool
    labels: Tensor  # (B, C)


def weights_of(model: MovieGenreClassifier) -> dict[str, Tensor]:
    """Return trainable copies of the model's initial weights, by name."""
    buffers = {name for name, _ in model.named_buffers()}
    state = {name: value for name, value in model.state_dict().items() if name not in buffers}
    return {name: value.detach().clone().float().requires_grad_() for name, value in state.items()}


def converted(batch: MovieBatch, mean: Tensor, std: Tensor) -> Batch:
    """Convert the framework's batch for this loop. Every movie must have a plot."""
    ids, mask = batch.inputs["text"].ids, batch.inputs["text"].mask
    assert bool(batch.present[:, 0].all()), "a movie has no plot"
    assert batch.labels is not None
    order = mask.sum(dim=1).argsort(stable=True)
    rows = [ids[n][mask[n]] for n in order]
    image = (batch.inputs["image"].vector[order] - mean) / std
    return Batch(rows, image, batch.present[order], batch.labels[order])


def narrowed(w: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the weights with copies of the encoder's in `dtype`; the weights themselves if they have it already."""
    return {
        name: value if value.dtype == dtype or not name.startswith(BERT) else value.detach().to(dtype).requires_grad_()
        for name, value in w.items()
    }


def widen(w: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Move the gradients of narrow copies to the weights."""
    for name, value in own.items():
        if value is not w[name] and value.grad is not None:
            w[name].grad, value.grad = value.grad.float(), None


@torch.no_grad()
def renew(w: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Copy the weights to their narrow copies."""
    names = [name for name, value in own.items() if value is not w[name]]
    if names:
        torch._foreach_copy_([own[name] for name in names], [w[name] for name in names])


def logits_of(w: Mapping[str, Tensor], batch: Batch, shape: Shape, masks: Masks | None) -> Tensor:
    """Return logits (B, C). Without masks there is no dropout."""
    bert = {name.removeprefix(BERT): value for name, value in w.items() if name.startswith(BERT)}
    text = encoded(bert, packed(batch.rows), shape, masks)
    text = F.layer_norm(text, (shape.width,), w["normalisers.text.weight"], w["normalisers.text.bias"])
    image = torch.where(batch.present[:, 1:], batch.image, 0.0)
    if masks is not None:
        image = F.dropout(image, 0.5)

    def layer(x: Tensor, name: str) -> Tensor:
        return F.linear(x, w[f"fusion.{name}.weight"], w[f"fusion.{name}.bias"])

    z = torch.sigmoid(layer(torch.cat([text, image], dim=1), "gate"))
    z = torch.where(batch.present[:, 1:], z, 1.0)
    h = z * torch.tanh(layer(text, "hidden.text")) + (1 - z) * torch.tanh(layer(image, "hidden.image"))
    return F.linear(h, w["head.weight"], w["head.bias"])


def optimizer_of(w: Mapping[str, Tensor], encoder_rate: float, rate: float, decay: float) -> torch.optim.AdamW:
    """Return a fused AdamW, with the encoder at its own rate and weight decay on matrices only."""
    groups = []
    for inside, lr in ((True, encoder_rate), (False, rate)):
        own = [value for name, value in w.items() if name.startswith(BERT) is inside]
        groups += [
            {"params": [p for p in own if (p.ndim > 1) is matrix], "lr": lr, "weight_decay": decay if matrix else 0.0}
            for matrix in (True, False)
        ]
    return torch.optim.AdamW(groups, fused=True)


def epochs(of: Made, mean: Tensor, std: Tensor) -> Iterator[list[Batch]]:
    """Yield each epoch's batches in the framework's order, converted before the epoch starts."""
    epoch = 0
    while True:
        yield [converted(batch, mean, std) for batch in of.data.loader("train", training=True, epoch=epoch)]
        epoch += 1


def main(dtype: str, movies: int, threads: int, words: list[str]) -> None:
    """Train in turns of at least `movies` movies, until the harness ends the process."""
    torch.set_num_threads(threads)
    turns, of = Turns(movies, threads), made(words)
    w = weights_of(of.model)
    scale: Any = of.model.normalisers["image"]
    loss: Any = of.model.loss
    total = of.model.total_steps()
    rates = of.config.encoder["text"].lr, of.config.optimizer.lr, of.config.optimizer.weight_decay
    own, masks = narrowed(w, getattr(torch, dtype)), Masks(getattr(torch, dtype))
    optimizer = optimizer_of(w, *map(float, rates))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(share, total=total))
    for batches in epochs(of, scale.mean, scale.std):
        for n, batch in enumerate(batches):
            turns.boundary(first=n == 0)
            turns.took(len(batch.rows), sum(map(len, batch.rows)))
            logits = logits_of(own, batch, MINILM, masks)
            F.binary_cross_entropy_with_logits(logits, batch.labels, pos_weight=loss.weight).backward()
            widen(w, own)
            torch.nn.utils.clip_grad_norm_(w.values(), 1.0)
            optimizer.step()
            renew(w, own)
            schedule.step()
            optimizer.zero_grad(set_to_none=True)


def share(step: int, total: int) -> float:
    """Return the share of the full rate: 10 % warm-up, then linear to 0."""
    warm = max(1, round(0.1 * total))
    return (step + 1) / warm if step < warm else max(0.0, (total - step) / (total - warm))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
