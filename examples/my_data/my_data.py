"""An own data set: see docs/howto/add_a_data_set.md."""

import csv
from pathlib import Path

from gmu_lightning.data.datamodule import MovieDataModule
from gmu_lightning.data.dataset import DataSet
from gmu_lightning.data.readers.layouts import Layout
from gmu_lightning.movie import Movie, UserError


class CsvLayout(Layout):
    """Read the rows of a CSV file with the columns id, split, genres, plot, year and country."""

    name = "csv"

    def __init__(self, root):
        self.root = root
        with root.open(encoding="utf-8", newline="") as file:
            self.rows = list(csv.DictReader(file))

    def read(self, split, audit):
        for row in self.rows:
            if row["split"] == split:
                metadata = {"year": int(row["year"]), "country": row["country"]}
                yield Movie(row["id"], {"text": row["plot"], "metadata": metadata}, tuple(row["genres"].split("|")))


class MyMovies(DataSet):
    """Movies with a plot, a year and a country."""

    modalities = ("text", "metadata")

    def open(self, modalities, store):
        if self.root is None:
            raise UserError("data.root is missing: type data.root=FILE with the CSV file of your movies")
        return CsvLayout(Path(self.root))


class MyMoviesDataModule(MovieDataModule):
    """Batches of these movies."""

    reads = MyMovies
