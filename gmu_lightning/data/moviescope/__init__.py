"""Moviescope: movies with a plot, a trailer, a poster and metadata."""

from gmu_lightning.data.moviescope.dataset import Moviescope, MoviescopeDataModule

__all__ = ["Moviescope", "MoviescopeDataModule"]
