"""Fine-tune as a simple notebook would, for comparison in `fine_tuning`.

Batches hold 8 movies in random order, padded to the longest. Every step opens, transforms and encodes the posters. All layers of
the transformers library's MiniLM are trained, with mean pooling, a GMU, BCE, plain AdamW and float32.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import AutoModel, AutoTokenizer

from benchmarks.workers import Turns
from gmu_lightning.encoders import weights
from gmu_lightning.encoders.timm_network import TimmNetwork

TEXT, POSTER = "sentence-transformers/all-MiniLM-L6-v2", "tf_efficientnet_lite0.in1k"
BATCH, LONGEST, DIM = 8, 256, 256


class Movies(Dataset[tuple[str, Tensor, Tensor]]):
    """The train split, read from the raw files."""

    def __init__(self, root: Path):
        ids = json.loads((root / "split.json").read_text())["train"]
        self.files = [root / "dataset" / f"{number}.json" for number in ids]
        self.records = [json.loads(file.read_text()) for file in self.files]
        self.genres = sorted({genre for record in self.records for genre in record["genres"]})
        cfg = timm.get_pretrained_cfg(POSTER)
        self.transform = create_transform(**resolve_data_config(pretrained_cfg=cfg.to_dict()))

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, n: int) -> tuple[str, Tensor, Tensor]:
        record = self.records[n]
        image = Image.open(self.files[n].with_suffix(".jpeg")).convert("RGB")
        label = torch.tensor([float(genre in record["genres"]) for genre in self.genres])
        return max(record["plot"], key=len), self.transform(image), label


class Net(nn.Module):
    """MiniLM and EfficientNet, a GMU over both."""

    def __init__(self, genres: int):
        super().__init__()
        self.text = AutoModel.from_pretrained(weights.find(TEXT, "").fetched(), dtype=torch.float32)
        image = TimmNetwork(POSTER, None, "").load().to(memory_format=torch.contiguous_format)  # timm's own memory format
        self.image = image.eval().requires_grad_(False)
        self.h_text, self.h_image = nn.Linear(384, DIM), nn.Linear(1280, DIM)
        self.gate = nn.Linear(384 + 1280, DIM)
        self.out = nn.Linear(DIM, genres)

    def forward(self, tokens: dict[str, Tensor], pixels: Tensor) -> Tensor:
        """Return logits (B, C)."""
        with torch.no_grad():
            image = self.image(pixels)
        hidden = self.text(**tokens).last_hidden_state
        mask = tokens["attention_mask"][..., None]
        text = (hidden * mask).sum(1) / mask.sum(1)
        z = torch.sigmoid(self.gate(torch.cat([text, image], 1)))
        return self.out(z * torch.tanh(self.h_text(text)) + (1 - z) * torch.tanh(self.h_image(image)))


def main(root: Path, movies: int, threads: int) -> None:
    """Train in turns of at least `movies` movies, until the harness ends the process."""
    torch.set_num_threads(threads)
    turns = Turns(movies, threads)
    torch.manual_seed(1)
    random.seed(1)
    data = Movies(root)
    tokenizer = AutoTokenizer.from_pretrained(weights.find(TEXT, "").fetched())
    net = Net(len(data.genres))
    net.text.train()
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=3e-5)
    criterion = nn.BCEWithLogitsLoss()
    while True:
        for n, (plots, pixels, labels) in enumerate(DataLoader(data, batch_size=BATCH, shuffle=True)):
            tokens = tokenizer(list(plots), padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
            turns.boundary(first=n == 0)
            turns.took(len(plots), int(tokens["attention_mask"].sum()))
            optimizer.zero_grad()
            loss = criterion(net(dict(tokens), pixels), labels)
            loss.backward()
            optimizer.step()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
