"""Measure one CUDA device: fine-tuning of a base-size BERT in bfloat16, heads, and the input pipeline.

python benchmarks/gpu.py [--rounds N] [--movies N] [--out FOLDER]

Nothing is downloaded: the weights of the network and the texts are random, and the pipeline reads generated movies with the two
encoders of the extra `offline`. Fine-tuning is our model under Lightning, the same compiled, and a plain loop that runs the
transformers library on padded batches. One kind of batch holds texts of 512 tokens, the other texts of 64 to 512. Heads are
trained in stacks and in workers, and their step is also compiled and captured in a CUDA graph.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from benchmarks import gpu_parts
from benchmarks.harness import Options, Report, alternated, gemm_gflops, parser, perform, ratios, spread
from benchmarks.raw_bert import Shape, training_flops
from gmu_lightning.callbacks.determinism import Determinism
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.encoders.text.huggingface import HuggingFaceText, TokenInputs
from gmu_lightning.encoders.vector import Vector
from gmu_lightning.fusion import GMU
from gmu_lightning.losses import WeightedBCE
from gmu_lightning.model import MovieGenreClassifier
from gmu_lightning.movie import Features, MovieBatch

BASE = Shape(layers=12, heads=12, width=768, inner=3072)
WORDS, LONGEST, SHORTEST, GENRES, POSTER = 30522, 512, 64, 23, 1280
STEPS, WARM = 10, 8  # a compiled model meets the lengths of every batch twice before it is measured
GEMM = (2048, 4096, 8192, 16384)


def measure(options: Options, movies: int | None = None) -> Report:
    """Return a report with one row per kind of batch and variant, and per way to train heads."""
    refuse_without_device()
    torch.manual_seed(1)
    peak = max(gemm_gflops("bfloat16", 1, GEMM, "cuda").values())
    folder = written(options.scratch / "bert")
    plain = Plain(folder)
    count = movies or filling(plain)
    report = Report(f"Fine-tuning on {torch.cuda.get_device_name()}", [])
    ours, compiled = our_model(folder), our_model(folder)
    compiled.compile()
    for kind, shortest in (("512 tokens", LONGEST), ("64 to 512 tokens", SHORTEST)):
        batches = [batch_of(count, shortest, seed) for seed in range(4)]
        variants = {"ours": partial(ours_taking, ours, batches), "ours, compiled": partial(ours_taking, compiled, batches)}
        found = alternated(variants | {"plain": partial(plain.taking, batches)}, options.rounds)
        report.raw[kind] = found
        for name, taken in found.items():
            rates = [count * STEPS / took["seconds"] for took in taken]
            row: dict[str, Any] = {"batch": f"{count} of {kind}", "variant": name, "movies/s": spread(rates)}
            if name != "plain":
                row["ours / plain"] = ratios(rates, [count * STEPS / took["seconds"] for took in found["plain"]])
            flops = sum(training_flops(lengths_of(batches[n % len(batches)]), BASE) for n in range(STEPS))
            tflops = spread([flops / took["seconds"] / 1e12 for took in taken])
            row |= {"model TFLOP/s": tflops.median, "share of the best product": f"{tflops.median * 1000 / peak:.1%}"}
            report.rows.append(row | {"peak GiB": max(took["gib"] for took in taken)})
    fastest = max(row["movies/s"].median for row in report.rows)
    report.rows += gpu_parts.head_steps(options, torch.device("cuda")) + gpu_parts.heads(options)
    report.notes = [
        f"Best square bfloat16 product of {GEMM[0]} to {GEMM[-1]}: {peak / 1000:,.0f} TFLOP/s. No gradient is clipped.",
        gpu_parts.pipeline_note(gpu_parts.pipeline(options), fastest),
    ]
    return report


def refuse_without_device() -> None:
    """Exit in one sentence if torch sees no CUDA device."""
    if not torch.cuda.is_available():
        raise SystemExit("gpu needs a CUDA device, and torch sees none: run it on a machine with one")


def written(folder: Path) -> Path:
    """Save a base-size BERT with random weights and a tokenizer with the same vocabulary, and return the folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    names = [*special.values(), *(f"w{n}" for n in range(WORDS - len(special)))]
    words = Tokenizer(models.WordLevel({name: n for n, name in enumerate(names)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    BertModel(BertConfig(), add_pooling_layer=False).save_pretrained(folder)
    return folder


def batch_of(count: int, shortest: int, seed: int) -> MovieBatch:
    """Return a batch of `count` movies in pinned memory, with text lengths from `shortest` to LONGEST."""
    drawn = random.Random(seed)
    lengths = [LONGEST, *(drawn.randint(shortest, LONGEST) for _ in range(count - 1))]
    mask = torch.arange(LONGEST) < torch.tensor(lengths)[:, None]
    ids = torch.randint(5, WORDS, mask.shape) * mask
    text = TokenInputs(ids.pin_memory(), mask.pin_memory(), tuple(lengths))
    inputs = {"text": text, "image": Features(torch.randn(count, POSTER).pin_memory())}
    labels = (torch.rand(count, GENRES) < 0.15).float().pin_memory()
    return MovieBatch(tuple(map(str, range(count))), inputs, torch.ones(count, 2, dtype=torch.bool).pin_memory(), labels)


def lengths_of(batch: MovieBatch) -> Sequence[int]:
    """Return the number of real tokens of each text."""
    return batch.inputs["text"].mask.sum(dim=1).tolist()


def our_model(folder: Path) -> MovieGenreClassifier:
    """Return the model that `train` builds for a trained text encoder and cached poster features."""
    text = HuggingFaceText(
        str(folder), "mean", LONGEST, freeze="none", unfreeze_at_epoch=None, lr=3e-5, normalise="layer", dropout=0.0
    )
    image = Vector("image", dim=POSTER, freeze="all", normalise="none", dropout=0.5)
    text.build()
    encoders: dict[str, Encoder] = {"text": text, "image": image}
    labels = np.random.default_rng(0).random((1000, GENRES)) < 0.15
    optimizer = partial(torch.optim.AdamW, fused=True)
    return MovieGenreClassifier(
        encoders, GMU("original", {"text": BASE.width, "image": POSTER}, bias=True), GENRES, WeightedBCE(labels), optimizer
    )


class _Timed(pl.Callback):
    """Measure the seconds of STEPS steps after WARM warm-up steps."""

    seconds = 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, model: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == WARM:
            torch.cuda.synchronize()
            self.start = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, model: pl.LightningModule, out: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == WARM + STEPS - 1:
            torch.cuda.synchronize()
            self.seconds = time.perf_counter() - self.start


def ours_taking(model: MovieGenreClassifier, batches: Sequence[MovieBatch]) -> dict[str, float]:
    """Train under Lightning, and return the seconds of STEPS steps and the peak memory in GiB."""
    torch.cuda.reset_peak_memory_stats()
    timed = _Timed()
    steps = WARM + STEPS
    loader: Any = DataLoader([batches[(n - WARM) % len(batches)] for n in range(steps)], batch_size=None, collate_fn=lambda b: b)  # type: ignore[arg-type]
    trainer = pl.Trainer(
        max_epochs=1,
        precision="bf16-mixed",
        accelerator="cuda",
        devices=1,
        callbacks=[Determinism(1), timed],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, loader)
    found = {"seconds": timed.seconds, "gib": torch.cuda.max_memory_allocated() / 2**30}
    model.cpu()
    torch.cuda.empty_cache()
    return found


class Plain:
    """A plain loop: the transformers library's BERT on padded batches, a GMU, autocast, fused AdamW."""

    def __init__(self, folder: Path):
        from transformers import AutoModel

        self.net = nn.ModuleDict(
            {
                "text": AutoModel.from_pretrained(folder, dtype=torch.float32, add_pooling_layer=False).train(),
                "h_text": nn.Linear(BASE.width, 256),
                "h_image": nn.Linear(POSTER, 256),
                "gate": nn.Linear(BASE.width + POSTER, 256),
                "out": nn.Linear(256, GENRES),
            }
        )

    def taking(self, batches: Sequence[MovieBatch], warm: int = WARM, steps: int = STEPS) -> dict[str, float]:
        """Train, and return the seconds of `steps` steps after `warm` warm-up steps, and the peak memory in GiB."""
        torch.cuda.reset_peak_memory_stats()
        self.net.cuda()
        optimizer = torch.optim.AdamW(self.net.parameters(), lr=3e-5, fused=True)
        start = 0.0
        for n in range(-warm, steps):
            if n == 0:
                torch.cuda.synchronize()
                start = time.perf_counter()
            batch = batches[n % len(batches)]
            moved = [part.cuda(non_blocking=True) for part in (*batch.inputs["text"][:2], batch.inputs["image"].vector)]
            assert batch.labels is not None
            with torch.autocast("cuda", torch.bfloat16):
                loss = F.binary_cross_entropy_with_logits(self._logits(*moved), batch.labels.cuda(non_blocking=True))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        found = {"seconds": time.perf_counter() - start, "gib": torch.cuda.max_memory_allocated() / 2**30}
        del optimizer
        self.net.cpu()
        torch.cuda.empty_cache()
        return found

    def _logits(self, ids: Tensor, mask: Tensor, image: Tensor) -> Tensor:
        part: dict[str, Callable[..., Any]] = dict(self.net.items())
        hidden = part["text"](input_ids=ids, attention_mask=mask.long()).last_hidden_state
        text = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        z = torch.sigmoid(part["gate"](torch.cat([text, image.to(text.dtype)], 1)))
        return part["out"](z * torch.tanh(part["h_text"](text)) + (1 - z) * torch.tanh(part["h_image"](image)))


def filling(plain: Plain) -> int:
    """Return the largest power of two for which the plain loop can train on a batch of this number of 512-token movies."""
    count = 32
    while True:
        try:
            plain.taking([batch_of(2 * count, LONGEST, 0)], warm=0, steps=2)
        except torch.cuda.OutOfMemoryError:
            plain.net.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            return count
        count *= 2


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--movies", type=int, help="movies in a batch; by default as many as the device holds")
    given = options.parse_args()
    refuse_without_device()
    perform({"gpu": partial(measure, movies=given.movies)}, given)
