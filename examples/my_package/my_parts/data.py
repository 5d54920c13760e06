"""An own data set, which invents its movies."""

import random
from pathlib import Path

from gmu_lightning.data.datamodule import MovieDataModule
from gmu_lightning.data.dataset import DataSet
from gmu_lightning.data.readers.layouts import Layout
from gmu_lightning.movie import Movie

WORDS = {"Comedy": "jazz", "Horror": "crypt", "Western": "horse"}
SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}


class InventedLayout(Layout):
    """Yield movies whose plots hold a word for each of their genres."""

    name, root = "invented", Path(__file__).parent

    def __init__(self, movies):
        self.movies = movies

    def read(self, split, audit):
        draw = random.Random(split)
        for number in range(round(SHARES[split] * self.movies)):
            genres = draw.sample(sorted(WORDS), draw.choice([1, 2]))
            plot = " ".join(["a", "tale", "of", *(WORDS[genre] for genre in genres)])
            yield Movie(f"{split}-{number}", {"text": plot, "metadata": {"year": draw.randint(1950, 2020)}}, tuple(genres))


class Invented(DataSet):
    """A number of invented movies."""

    modalities = ("text", "metadata")

    def __init__(self, movies: int = 60, **options):
        super().__init__(**options)
        self.movies = movies

    def open(self, modalities, store):
        return InventedLayout(self.movies)


class InventedDataModule(MovieDataModule):
    """Batches of these movies."""

    reads = Invented
