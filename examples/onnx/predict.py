"""Predict a movie's genres from its plot and its poster with ONNX Runtime alone: no torch, and no gmu_lightning.

python predict.py FOLDER --plot "A boy, a dog and the sea." --poster poster.jpg

It needs numpy, onnxruntime, pillow and, for a text encoder with a tokeniser, tokenizers. FOLDER is an exported model with ONNX
files of texts and posters, as written by: python -m gmu_lightning.export run=RUN output=FOLDER onnx=true
"""

from __future__ import annotations

import argparse
import json
import re
import unicodedata
from math import floor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

JOINERS = "\u200c\u200d"


def token_ids(folder: Path, settings: dict[str, Any], plot: str) -> list[int]:
    """Return the numbers of a plot's tokens by the tokeniser of the folder."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "encoders" / "text" / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(settings["max_tokens"])
    return tokenizer.encode(plot).ids


def word_ids(words: list[str], settings: dict[str, Any], plot: str) -> list[int]:
    """Return the numbers of a plot's words in the vocabulary; 0 stands for an unknown word."""
    marks = "".join(
        chr(n)
        for n in range(0x300, 0x20000)
        if unicodedata.category(chr(n)) in ("Mn", "Mc") and not 0xFE00 <= n < 0xFE10  # accents and vowel signs
    )
    part = rf"\w[\w{marks}]*(?:[{JOINERS}]+[\w{marks}]+)*"
    found = re.findall(rf"{part}(?:'{part})*", unicodedata.normalize("NFC", plot.lower()))[: settings["max_words"]]
    numbers = {word: n for n, word in enumerate(words, start=1)}
    return [numbers.get(word, 0) for word in found] or [0]


def pixels(settings: dict[str, Any], poster: Path) -> np.ndarray:
    """Return a poster as uint8 (1, 3, height, width), resized and cropped as in training.

    A pixel of a large poster may differ by 1 of 255, because training shrinks it by torch.
    """
    height, width = settings["size"]
    target = floor(width / settings["crop"]), floor(height / settings["crop"])
    image = ImageOps.exif_transpose(Image.open(poster, formats=("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"))).convert("RGB")
    if settings["mode"] == "squash":
        size = target
    elif target[0] == target[1]:
        edge = target[0]
        w, h = image.size
        size = (edge, int(edge * h / w)) if w <= h else (int(edge * w / h), edge)
    else:
        ratio = min(image.width / target[0], image.height / target[1])
        size = round(image.width / ratio), round(image.height / ratio)
    resized = image.resize(size, Image.Resampling[settings["interpolation"].upper()])
    top, left = round((resized.height - height) / 2), round((resized.width - width) / 2)
    cropped = np.asarray(resized)[top : top + height, left : left + width]
    return np.ascontiguousarray(cropped.transpose(2, 0, 1)[None])


class Model:
    """The ONNX files of a folder.

    Args:
        folder: of an exported model.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.genres: list[str] = json.loads((folder / "genres.json").read_text())["genres"]
        self.preparation = json.loads((folder / "preparation.json").read_text())
        self.parts = json.loads((folder / "onnx" / "check.json").read_text())["parts"]
        self.sessions = {name: onnxruntime.InferenceSession(str(folder / "onnx" / f"{name}.onnx")) for name in self.parts}

    def logits(self, plot: str | None, poster: Path | None) -> dict[str, float]:
        """Return {genre: logit} of a movie, of which a plot or a poster may be missing."""
        given = {"text": plot, "image": poster}
        tensors: dict[str, np.ndarray] = {}
        for modality in self.preparation["modalities"]:
            inputs = self._inputs(modality, given.get(modality))
            name = f"encoder_{modality}"
            tensors |= self._run(name, inputs) if name in self.parts else inputs
        present = [given.get(modality) is not None for modality in self.preparation["modalities"]]
        tensors["present"] = np.array([present])
        (found,) = self._run("fusion", tensors).values()
        return dict(zip(self.genres, found[0].tolist(), strict=True))

    def _inputs(self, modality: str, content: Any) -> dict[str, np.ndarray]:
        """Return the inputs of an encoder for a content; a missing one becomes a placeholder, which `present` turns off."""
        settings = self.preparation["preprocessing"][modality]
        if settings["kind"] == "PosterPreparation":
            black = np.zeros((1, 3, *settings["size"]), dtype=np.uint8)
            return {"image_input": black if content is None else pixels(settings, content)}
        if settings["kind"] == "TokenPreparation":
            ids = token_ids(self.folder, settings, content or "")
        elif settings["kind"] == "WordPreparation":
            ids = word_ids(self.preparation["learned"]["text"]["words"], settings, content or "")
        else:
            raise SystemExit(f"{modality}: this example reads plots and posters, and no {settings['kind']} yet")
        return {"text_ids": np.array([ids]), "text_ids_mask": np.ones((1, len(ids)), dtype=bool)}

    def _run(self, part: str, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        session = self.sessions[part]
        wanted = {one.name for one in session.get_inputs()}
        found = session.run(None, {name: value for name, value in tensors.items() if name in wanted})
        return dict(zip(self.parts[part]["outputs"], found, strict=True))


def main() -> None:
    """Print the genres of the movie on the command line, the most probable first."""
    parser = argparse.ArgumentParser(description="Predict a movie's genres with ONNX Runtime.")
    parser.add_argument("folder", type=Path, help="an exported model with ONNX files")
    parser.add_argument("--plot", help="the plot")
    parser.add_argument("--poster", type=Path, help="the file of the poster")
    typed = parser.parse_args()
    if typed.plot is None and typed.poster is None:
        parser.error("give --plot, --poster, or both")
    for genre, logit in sorted(Model(typed.folder).logits(typed.plot, typed.poster).items(), key=lambda item: -item[1]):
        print(f"{genre:<16}{1 / (1 + np.exp(-logit)):.3f}")


if __name__ == "__main__":
    main()
