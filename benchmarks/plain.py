"""Encode all movies by one network as fast as a plain script can: without store, audit and checks.

python benchmarks/plain.py text|image BACKEND ROOT THREADS LIMIT      prints {"seconds", "movies"} of loading and encoding
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from math import floor
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from gmu_lightning.data.selection import draw
from gmu_lightning.encoders import weights
from gmu_lightning.encoders.timm_network import TimmNetwork

TEXT, POSTER = "sentence-transformers/all-MiniLM-L6-v2", "tf_efficientnet_lite0.in1k"
LONGEST, TOKENS, POSTERS = 256, 4096, 16  # tokens of a plot, padded tokens of a batch, posters of a batch
EDGE, CROP, MEAN, STD = 224, 0.875, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Run = Callable[..., Tensor]


class Raw(NamedTuple):
    """The movies' raw data, in the order train, val, test."""

    plots: list[str]
    posters: list[Path]
    genres: list[list[str]]
    splits: np.ndarray  # (N,) str


def raw(root: Path, limit: str | None) -> Raw:
    """Return the movies that a run with this `data.limit` reads."""
    listed = json.loads((root / "split.json").read_text())
    ids = {"train": listed["train"], "val": listed["dev"], "test": listed["test"]}
    ids = ids if limit is None else draw(limit, ids, 0)
    files = [root / "dataset" / f"{number}.json" for numbers in ids.values() for number in numbers]
    records = [json.loads(file.read_text()) for file in files]
    plots = [max(record["plot"], key=len) for record in records]
    posters = [file.with_suffix(".jpeg") for file in files]
    splits = np.repeat(list(ids), [len(numbers) for numbers in ids.values()])
    return Raw(plots, posters, [record["genres"] for record in records], splits)


def tokenised(plots: Sequence[str]) -> list[list[int]]:
    """Return the token ids of each plot."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(weights.find(TEXT, "").fetched())
    return tokenizer(list(plots), truncation=True, max_length=LONGEST)["input_ids"]


def pixels(posters: Sequence[Path]) -> np.ndarray:
    """Return the decoded, resized and cropped posters, (N, EDGE, EDGE, 3) uint8."""
    found = np.empty((len(posters), EDGE, EDGE, 3), np.uint8)
    for n, poster in enumerate(posters):
        image = Image.open(poster).convert("RGB")
        edge = floor(EDGE / CROP)
        scale = edge / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        left, top = (image.width - EDGE) // 2, (image.height - EDGE) // 2
        found[n] = np.asarray(image.crop((left, top, left + EDGE, top + EDGE)))
    return found


def text_vectors(rows: Sequence[Sequence[int]], backend: str) -> Tensor:
    """Return the mean over each plot's tokens, (N, 384). Plots are encoded by length, in batches of at most TOKENS tokens."""
    from transformers import AutoModel

    network = _Pooled(AutoModel.from_pretrained(weights.find(TEXT, "").fetched(), dtype=torch.float32).eval())
    ids = torch.randint(5, 99, (2, 8))
    run = runner(network, (ids, torch.ones_like(ids)), backend, ("ids", "mask"))
    order = sorted(range(len(rows)), key=lambda n: len(rows[n]))
    found, start = torch.zeros(len(rows), 384), 0
    while start < len(order):
        end = start + 1
        while end < len(order) and (end + 1 - start) * len(rows[order[end]]) <= TOKENS:
            end += 1
        batch = [rows[n] for n in order[start:end]]
        longest = len(batch[-1])
        padded = torch.tensor([[*row, *[0] * (longest - len(row))] for row in batch])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in batch])
        found[order[start:end]] = run(padded, mask)
        start = end
    return found


def image_vectors(images: np.ndarray, backend: str) -> Tensor:
    """Return the posters' pooled features, (N, 1280). The last batch is filled up, so that all have one shape."""
    network = _Scaled(TimmNetwork(POSTER, None, "").load().eval())
    missing = -len(images) % POSTERS
    whole = np.concatenate([images, np.zeros((missing, *images.shape[1:]), np.uint8)])
    parts = [torch.from_numpy(whole[n : n + POSTERS]).permute(0, 3, 1, 2) for n in range(0, len(whole), POSTERS)]
    if backend == "openvino":
        return _image_vectors_by_openvino(network, parts)[: len(images)]
    run = runner(network, (parts[0],), backend, ("pixels",))
    return torch.cat([run(part) for part in parts])[: len(images)]


def _image_vectors_by_openvino(network: nn.Module, parts: Sequence[Tensor]) -> Tensor:
    """Convert for the shape of a batch, and compute as many batches at once as there are threads."""
    openvino, threads = _openvino(), torch.get_num_threads()
    with torch.no_grad():
        program = torch.export.export(network, (parts[0].contiguous(),), strict=False)
    hints = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(openvino.convert_model(program), "CPU", hints)
    found: list[Tensor] = [torch.empty(0)] * len(parts)
    queue = openvino.AsyncInferQueue(compiled, threads)

    def keep(request: Any, n: int) -> None:
        found[n] = torch.from_numpy(request.get_output_tensor(0).data.copy())

    queue.set_callback(keep)
    for n, part in enumerate(parts):
        queue.start_async({0: part.contiguous().numpy()}, n)
    queue.wait_all()
    return torch.cat(found)


def _openvino() -> Any:
    """Import OpenVINO without its telemetry."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


class _Pooled(nn.Module):
    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden = self.network(input_ids=ids, attention_mask=mask).last_hidden_state
        kept = mask[..., None].float()
        return (hidden * kept).sum(1) / kept.sum(1)


class _Scaled(nn.Module):
    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.register_buffer("scale", 1 / (255 * torch.tensor(STD).view(3, 1, 1)))
        self.register_buffer("shift", -(torch.tensor(MEAN) / torch.tensor(STD)).view(3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network(pixels.float() * self.scale + self.shift)


def runner(network: nn.Module, example: tuple[Tensor, ...], backend: str, names: Sequence[str]) -> Run:
    """Return a function from tensors to a tensor that runs the network by a backend."""
    if backend == "torch":
        return torch.inference_mode()(network)
    if backend == "openvino":
        openvino = _openvino()
        threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
        precise = {"INFERENCE_PRECISION_HINT": "f32"}
        with torch.no_grad():
            converted = openvino.convert_model(network, example_input=example)
        compiled = openvino.Core().compile_model(converted, "CPU", {**threads, **precise})
        return lambda *inputs: torch.from_numpy(compiled([part.numpy() for part in inputs])[0].copy())
    raise SystemExit(f"{backend} is no backend: give torch or openvino")


def main(modality: str, backend: str, root: Path, threads: int, limit: str | None) -> None:
    """Encode, and print the seconds. The clock starts when tokens or pixels are ready."""
    torch.set_num_threads(threads)
    movies = raw(root, limit)
    ready: Any = tokenised(movies.plots) if modality == "text" else pixels(movies.posters)
    start = time.perf_counter()
    found = (text_vectors if modality == "text" else image_vectors)(ready, backend)
    print(json.dumps({"seconds": time.perf_counter() - start, "movies": len(found)}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), sys.argv[5] if len(sys.argv) > 5 else None)
