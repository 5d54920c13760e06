"""MM-IMDb: 25,959 movies with a plot and a poster (Arevalo et al. 2017, arXiv 1702.01992)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from gmu_lightning.data.archive import is_archive, is_unpacked
from gmu_lightning.data.audit import Audit
from gmu_lightning.data.labels import POLICIES
from gmu_lightning.data.layouts import Layout, check_choices, reading
from gmu_lightning.data.locate import EXPECTED, find_mmimdb
from gmu_lightning.data.module import MovieData
from gmu_lightning.data.raw import PLOTS
from gmu_lightning.data.store import Store
from gmu_lightning.movie import Movie, UserError


class MMIMDb(MovieData):
    """MM-IMDb in any of its layouts, or another data set in one of them.

    Args:
        root: its folder, the folder above it, the `.tar.gz`, or the `.hdf5` file.
        layout: `auto`, `raw` (plots and posters), `hdf5` (word2vec and VGG vectors) or `jsonl` (plots and posters).
        label_policy: `keep23` or `mmbt`; results under different policies are not comparable.
        plot: which of a movie's plots, under `raw`: `longest`, `first` or `concat`.
        **common: `MovieData`'s.

    Raises:
        UserError: an argument has none of its values.
    """

    modalities: ClassVar[tuple[str, ...]] = ("text", "image")
    published_genres: ClassVar[tuple[str, ...] | None] = (
        *("Drama", "Comedy", "Romance", "Thriller", "Crime", "Action", "Adventure", "Horror", "Documentary", "Mystery"),
        *("Sci-Fi", "Fantasy", "Family", "Biography", "War", "History", "Music", "Animation", "Musical", "Western", "Sport"),
        *("Short", "Film-Noir"),
    )

    def __init__(
        self,
        root: str | None,
        layout: str = "auto",
        label_policy: str = "keep23",
        plot: str = "longest",
        **common: Any,
    ):
        super().__init__(root, **common)
        known = {"layout": ("auto", *EXPECTED), "label_policy": tuple(POLICIES), "plot": tuple(PLOTS)}
        check_choices({"layout": layout, "label_policy": label_policy, "plot": plot}, known)
        self.wanted_layout, self.label_policy, self.plot = layout, label_policy, plot
        self.opened: Layout | None = None

    @property
    def layout(self) -> str:
        """The layout found on disk; before `open`, the one asked for."""
        return self.opened.name if self.opened else self.wanted_layout

    @property
    def folder(self) -> Path:
        """Where the layout was found; an archive's is in the store."""
        return self.opened.root if self.opened else super().folder

    def pending(self, store: Store) -> str | None:
        """An archive that has to be unpacked first."""
        archive = Path(self.root or "").expanduser()
        return f"unpack {archive} once" if is_archive(archive) and not is_unpacked(archive, store) else None

    def open(self, store: Store) -> None:
        """Find the files, and unpack an archive. Raises UserError."""
        if not self.root:
            raise UserError("data=mmimdb needs data.root=PATH: the folder that holds split.json, or mmimdb.tar.gz.")
        found = find_mmimdb(self.root, self.wanted_layout, store)
        if found.also:
            self.warnings.append(
                f"layouts: {self.root} holds several layouts: {found.layout} is read, {', '.join(found.also)} is not."
            )
        with reading(found.path):
            self.opened = found.open(self.plot)

    def read(self, split: str, audit: Audit) -> Iterator[Movie]:
        """Every id of the split, in its order: yielded, or in the audit as removed."""
        if self.opened is None:
            raise RuntimeError("open() comes before read()")
        return self.opened.read(split, audit)

    def record_file(self, id: str, split: str) -> str:
        """As the layout has it."""
        return self.opened.record_file(id, split) if self.opened else ""

    def apply_policy(self, movies: dict[str, list[Movie]], audit: Audit) -> dict[str, list[Movie]]:
        """What `label_policy` leaves."""
        return POLICIES[self.label_policy](movies, audit)
