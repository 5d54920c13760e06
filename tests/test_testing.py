"""A class that breaks what the framework relies on is told which part, in a sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from gmu_lightning.data.audit import Audit
from gmu_lightning.data.module import MovieData
from gmu_lightning.data.store import Store
from gmu_lightning.fusion import Fusion, LinearHead, Mean
from gmu_lightning.movie import Fused, Movie
from gmu_lightning.testing import check_data, check_fusion


class Changed(Mean):
    """Mean, with one thing done to what it says."""

    def __init__(self, sizes: dict[str, int], change: Callable[..., Fused]):
        super().__init__(sizes, dim=4)
        self.change = change

    def fuse(self, inputs, present):
        return self.change(super().fuse(inputs, present), inputs, present)


CHANGES = {
    "vector is .*, expected .*fusion.size": lambda f, x, p: f._replace(vector=f.vector[..., :3]),
    "parts are .*, expected": lambda f, x, p: f._replace(parts=f.parts[..., :1, :]),
    "parts do not sum": lambda f, x, p: f._replace(parts=2 * f.parts),
    "a gate lies outside": lambda f, x, p: f._replace(gates=2.5 * f.gates),
    "the gate of an absent modality": lambda f, x, p: f._replace(gates=(f.gates + 0.1).clamp_max(1)),
    "inputs of torch.float32 come out as .*float64": lambda f, x, p: Fused(*(t.double() for t in f)),
    "for a movie alone": lambda f, x, p: Fused(f.vector - f.vector[:1].mean() * p.any(-2)),
    "the vector of a movie without any": lambda f, x, p: Fused(f.vector + 1),
    r"inputs \(B, T, d\) do not come out": lambda f, x, p: f._replace(
        gates=f.gates.flatten(1, -3)[:, :1] if x[0].ndim == 3 else f.gates
    ),
    "for one position of a sequence": lambda f, x, p: Fused(
        f.vector.mean(1, keepdim=True).expand_as(f.vector) if x[0].ndim == 3 else f.vector
    ),
    "no gradient reaches hidden": lambda f, x, p: Fused(f.vector.detach()),
}


@pytest.mark.parametrize("sentence", CHANGES)
def test_a_fusion_that_says_something_wrong_is_told_what(sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_fusion(lambda sizes: Changed(sizes, CHANGES[sentence]))


class Careless(Mean):
    """Multiplies what is absent by zero, and lets NaN through."""

    def forward(self, inputs, present=None):
        there = torch.ones(len(next(iter(inputs.values()))), 3, dtype=torch.bool) if present is None else present
        shape = [len(there), *[1] * (next(iter(inputs.values())).ndim - 2), len(self.sizes), 1]
        return self.fuse([inputs[m] for m in self.sizes], there.view(shape))


class Positional(Mean):
    """Takes the inputs in the order they come in."""

    def forward(self, inputs, present=None):
        return super().forward(dict(zip(self.sizes, inputs.values(), strict=True)), present)


class Suspicious(Mean):
    """Takes None to mean that nothing but the first is present."""

    def forward(self, inputs, present=None):
        if present is None:
            present = torch.arange(3).expand(len(inputs["text"]), 3) == 0
        return super().forward(inputs, present)


class Forgetful(Mean):
    """Has a parameter that its state_dict leaves out."""

    def __init__(self, sizes, dim):
        super().__init__(sizes, dim)
        self.scale = torch.rand(1, dtype=torch.float64).item()

    def fuse(self, inputs, present):
        return Fused(super().fuse(inputs, present).vector * self.scale)


class Wrong(LinearHead):
    """Half of every contribution is lost."""

    def contributions(self, fused):
        return super().contributions(fused) / 2


class WithWrongHead(Mean):
    def head(self, genres):
        return Wrong(self.size, genres)


class Wide(Mean):
    def head(self, genres):
        return nn.Sequential(LinearHead(self.size, 2 * genres))


@pytest.mark.parametrize(
    ("cls", "sentence"),
    [
        (Careless, "with nan in the slots of absent modalities"),
        (Positional, "mat1 and mat2|another order"),
        (Suspicious, "with present=None"),
        (Forgetful, "after its state_dict went into a new one"),
        (WithWrongHead, "bias \\+ contributions are not the logits"),
        (Wide, r"logits are \(8, 8\), expected \(8, 4\)"),
    ],
)
def test_a_fusion_that_does_something_wrong_is_told_what(cls, sentence):
    with pytest.raises((AssertionError, RuntimeError), match=sentence):
        check_fusion(lambda sizes: cls(sizes, dim=4))


def test_a_fusion_that_leaves_everything_to_the_base_class_passes():
    class Largest(Fusion):
        """The largest input of each movie, repeated."""

        def __init__(self, sizes):
            super().__init__(sizes, dim=1)
            self.scale = nn.Parameter(torch.ones(1))

        def fuse(self, inputs, present):
            top = torch.stack([x.amax(dim=-1) for x in inputs], dim=-1).unsqueeze(-1)
            parts = torch.where(present, top * self.scale, 0.0)
            return Fused(parts.sum(dim=-2))

    check_fusion(Largest)


class Films(MovieData):
    """A movie a line of `films.txt`: id, split, genre, plot."""

    modalities = ("text",)
    layout = "lines"

    def open(self, store: Store) -> None:
        self.lines = [line.split("|") for line in (Path(self.root) / "films.txt").read_text().splitlines()]

    def read(self, split: str, audit: Audit) -> Iterator[Movie]:
        for movie, where, genre, plot in self.lines:
            if where == split:
                yield Movie(movie, {"text": plot} if plot else {}, (genre,))


OFFERED = {"train": ["a", "b"], "val": ["c"], "test": ["d"]}


@pytest.fixture
def films(tmp_path: Path) -> Path:
    (tmp_path / "films").mkdir()
    lines = ["a|train|War|A battle.", "b|train|Drama|", "c|val|War|Another.", "d|test|Drama|A talk."]
    (tmp_path / "films" / "films.txt").write_text("\n".join(lines))
    return tmp_path / "films"


def check(cls: type[MovieData], root: Path, offered=OFFERED) -> None:
    check_data(cls(str(root)), ("text",), Store(root.parent / "store"), offered)


def test_a_data_set_that_reads_its_files_passes_and_is_left_as_it_was(films):
    data = Films(str(films))
    check_data(data, ("text",), Store(films.parent / "store"), OFFERED)
    assert data.movies == []


class Twice(Films):
    def read(self, split, audit):
        yield from super().read(split, audit)
        yield from super().read("train", audit)


class Empty(Films):
    """Gives a movie without a plot an empty one."""

    def read(self, split, audit):
        return (Movie(m.id, {"text": m.content.get("text", "")}, m.genres) for m in super().read(split, audit))


class Silent(Films):
    def read(self, split, audit):
        return (movie for movie in super().read(split, audit) if movie.id != "b")


class Shuffled(Films):
    def read(self, split, audit):
        yield from reversed(list(super().read(split, audit)))


class Undeclared(Films):
    def read(self, split, audit):
        return (Movie(m.id, {**m.content, "audio": b""}, m.genres) for m in super().read(split, audit))


class Named(Films):
    """Puts its folder's name into its movies."""

    def read(self, split, audit):
        return (Movie(m.id, {"text": f"{self.root} {m.content}"}, m.genres) for m in super().read(split, audit))


class Moody(Films):
    """Says something else each time."""

    said = iter(range(1000))

    def read(self, split, audit):
        return (Movie(m.id, {"text": str(next(self.said))}, m.genres) for m in super().read(split, audit))


class Mislabelled(Films):
    def _settle_genres(self, genres):
        super()._settle_genres(genres)
        self.labels = ~self.labels


@pytest.mark.parametrize(
    ("cls", "sentence"),
    [
        (Twice, "a, b is not in the split file's val"),
        (Silent, "of train, b is neither kept nor in the audit as removed"),
        (Shuffled, "the movies of train are not in the split file's order"),
        (Undeclared, "has audio, which Undeclared does not declare"),
        (Named, "the same files in another folder"),
        (Moody, "differs from one reading to the next"),
        (Mislabelled, "labels are not the movies' genres"),
    ],
)
def test_a_data_set_that_does_something_wrong_is_told_what(films, cls, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check(cls, films)


def test_an_empty_plot_is_an_absent_one(films):
    check(Empty, films)
    data = Empty(str(films))
    data.load(("text",), Store(films.parent / "store"))
    assert [(p.id, p.kind, p.action) for p in data.audit.problems] == [("b", "missing_plot", "kept_absent")]


def test_an_id_from_nowhere_is_named(films):
    with pytest.raises(AssertionError, match="d is not in the split file's test"):
        check(Films, films, OFFERED | {"test": []})
