"""The checks of `gmu_lightning.testing` name the rule that a class breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from gmu_lightning.data.audit import Audit
from gmu_lightning.data.dataset import DataSet
from gmu_lightning.data.readers.layouts import Layout
from gmu_lightning.data.store import Store
from gmu_lightning.fusion import Fusion, LinearHead, Mean, SingleModality
from gmu_lightning.movie import Fused, Movie
from gmu_lightning.testing import check_data, check_fusion


class Changed(Mean):
    """Mean with a change of its result."""

    def __init__(self, sizes: dict[str, int], change: Callable[..., Fused]):
        super().__init__(sizes, dim=4)
        self.change = change

    def fuse(self, inputs, present):
        return self.change(super().fuse(inputs, present), inputs, present)


CHANGES = {
    "vector is .*, expected .*fusion.size": lambda f, x, p: f._replace(vector=f.vector[..., :3]),
    "parts are .*, expected": lambda f, x, p: f._replace(parts=f.parts[..., :1, :]),
    "vector is NaN or infinite for a movie without": lambda f, x, p: f._replace(vector=f.vector / p.any(-2).double()),
    "parts do not sum": lambda f, x, p: f._replace(parts=2 * f.parts),
    "a gate lies outside": lambda f, x, p: f._replace(gates=2.5 * f.gates),
    "the gate of an absent modality": lambda f, x, p: f._replace(gates=(f.gates + 0.1).clamp_max(1)),
    "inputs of torch.float32 give results of .*float64": lambda f, x, p: Fused(*(t.double() for t in f)),
    "for a movie alone": lambda f, x, p: Fused(f.vector - f.vector[:1].mean() * p.any(-2)),
    "the vector of a movie without any": lambda f, x, p: Fused(f.vector + 1),
    r"inputs \(B, T, d\) give gates of shape .*, expected \(B, T, ...\)": lambda f, x, p: f._replace(
        gates=f.gates.flatten(1, -3)[:, :1] if x[0].ndim == 3 else f.gates
    ),
    "for one position of a sequence": lambda f, x, p: Fused(
        f.vector.mean(1, keepdim=True).expand_as(f.vector) if x[0].ndim == 3 else f.vector
    ),
    "when the same inputs are fused twice, vector is another": lambda f, x, p: Fused(torch.where(p.any(-2), torch.rand(4), 0.0)),
    "returns a Tensor: return gmu_lightning.movie.Fused": lambda f, x, p: f.vector,
    r"raises ZeroDivisionError \(division by zero\) for inputs of float64": lambda f, x, p: 1 / 0,
    "raises IndexError .* for inputs .B, T, d.; count axes from the last one": lambda f, x, p: (
        f if x[0].ndim == 2 else f.vector[:, :, :, :, 0]
    ),
    "no gradient reaches hidden": lambda f, x, p: Fused(f.vector.detach()),
}


@pytest.mark.parametrize("sentence", CHANGES)
def test_check_fusion_names_a_wrong_result(sentence):
    with pytest.raises(AssertionError, match=sentence) as broken:
        check_fusion(lambda sizes: Changed(sizes, CHANGES[sentence]))
    assert ": " in str(broken.value)  # the remedy stands behind


def test_check_fusion_names_a_missing_fuse():
    with pytest.raises(AssertionError, match=r"Fusion has no `fuse`: write fuse\(self, inputs, present\)"):
        check_fusion(Fusion)


class Unregistered(Fusion):
    """Keep the layers in a list, where torch does not find them."""

    def __init__(self, sizes):
        super().__init__(sizes, dim=4)
        self.layers = [nn.Linear(size, 4) for size in sizes.values()]

    def fuse(self, inputs, present):
        return Fused(sum(layer(x) for layer, x in zip(self.layers, inputs, strict=True)))


class Unbegun(Fusion):
    """Forget the constructor of the base class."""

    def __init__(self, sizes):
        self.layer = nn.Linear(1, 1)


@pytest.mark.parametrize(
    ("cls", "sentence"),
    [
        (Unregistered, r"raises RuntimeError .* for inputs of float64: keep layers in nn\.ModuleList"),
        (Unbegun, r"sizes=.* raises AttributeError .*: take `sizes`, and call super\(\)\.__init__\(sizes, dim\) first"),
    ],
)
def test_check_fusion_names_the_cause_of_an_error(cls, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_fusion(cls)


def test_check_fusion_names_an_object_of_another_kind():
    with pytest.raises(AssertionError, match=r"the object is a Linear: give a subclass of gmu_lightning\.fusion\.Fusion"):
        check_fusion(lambda sizes: nn.Linear(1, 1))


def test_check_fusion_names_modalities_that_do_not_fit():
    with pytest.raises(AssertionError, match=r"SingleModality does not take text\+image\+video: give modalities="):
        check_fusion(SingleModality)


class Careless(Mean):
    """Multiply absent inputs by zero, which keeps NaN."""

    def forward(self, inputs, present=None):
        there = torch.ones(len(next(iter(inputs.values()))), 3, dtype=torch.bool) if present is None else present
        shape = [len(there), *[1] * (next(iter(inputs.values())).ndim - 2), len(self.sizes), 1]
        return self.fuse([inputs[m] for m in self.sizes], there.view(shape))


class Positional(Mean):
    """Read the inputs by position instead of by name."""

    def forward(self, inputs, present=None):
        return super().forward(dict(zip(self.sizes, inputs.values(), strict=True)), present)


class FirstOnly(Mean):
    """Read present=None as if only the first modality were present."""

    def forward(self, inputs, present=None):
        if present is None:
            present = torch.arange(3).expand(len(inputs["text"]), 3) == 0
        return super().forward(inputs, present)


class Forgetful(Mean):
    """Leave a parameter out of the state_dict."""

    def __init__(self, sizes, dim):
        super().__init__(sizes, dim)
        self.scale = torch.rand(1, dtype=torch.float64).item()

    def fuse(self, inputs, present):
        return Fused(super().fuse(inputs, present).vector * self.scale)


class HalvedHead(LinearHead):
    """Return half of every contribution."""

    def contributions(self, fused):
        return super().contributions(fused) / 2


class Halved(Mean):
    def head(self, genres):
        return HalvedHead(self.size, genres)


class Wide(Mean):
    def head(self, genres):
        return nn.Sequential(LinearHead(self.size, 2 * genres))


@pytest.mark.parametrize(
    ("cls", "sentence"),
    [
        (Careless, "with nan in the slots of absent modalities"),
        (Positional, "mat1 and mat2|another order"),
        (FirstOnly, "with present=None"),
        (Forgetful, "after its state_dict went into a new one"),
        (Halved, "bias \\+ contributions differ from the logits"),
        (Wide, r"logits are \(8, 8\), expected \(8, 4\)"),
    ],
)
def test_check_fusion_names_wrong_behaviour(cls, sentence):
    with pytest.raises((AssertionError, RuntimeError), match=sentence):
        check_fusion(lambda sizes: cls(sizes, dim=4))


def test_minimal_fusion_passes():
    class Largest(Fusion):
        """Return the sum over modalities of each one's largest input."""

        def __init__(self, sizes):
            super().__init__(sizes, dim=1)
            self.scale = nn.Parameter(torch.ones(1))

        def fuse(self, inputs, present):
            top = torch.stack([x.amax(dim=-1) for x in inputs], dim=-1).unsqueeze(-1)
            parts = torch.where(present, top * self.scale, 0.0)
            return Fused(parts.sum(dim=-2))

    check_fusion(Largest)


class FilmsLayout(Layout):
    name = "lines"

    def __init__(self, root: Path):
        self.root = root
        self.lines = [line.split("|") for line in (root / "films.txt").read_text().splitlines()]

    def read(self, split: str, audit: Audit) -> Iterator[Movie]:
        for movie, where, genre, plot in self.lines:
            if where == split:
                yield Movie(movie, {"text": plot} if plot else {}, (genre,))


class Films(DataSet):
    """Read `films.txt`, which has one movie per line: id, split, genre, plot."""

    modalities = ("text",)
    layout: type[Layout] = FilmsLayout

    def open(self, modalities: Sequence[str], store: Store) -> Layout:
        return self.layout(Path(self.root))


OFFERED = {"train": ["a", "b"], "val": ["c"], "test": ["d"]}


@pytest.fixture
def films(tmp_path: Path) -> Path:
    (tmp_path / "films").mkdir()
    lines = ["a|train|War|A battle.", "b|train|Drama|", "c|val|War|Another.", "d|test|Drama|A talk."]
    (tmp_path / "films" / "films.txt").write_text("\n".join(lines))
    return tmp_path / "films"


def check(cls: type[DataSet], root: Path, offered=OFFERED) -> None:
    check_data(cls(str(root)), ("text",), Store(root.parent / "store"), offered)


def test_data_set_that_reads_its_files_passes(films):
    check(Films, films)


class Twice(FilmsLayout):
    def read(self, split, audit):
        yield from super().read(split, audit)
        yield from super().read("train", audit)


class Empty(FilmsLayout):
    """Give a movie without a plot an empty plot."""

    def read(self, split, audit):
        return (Movie(m.id, {"text": m.content.get("text", "")}, m.genres) for m in super().read(split, audit))


class Incomplete(FilmsLayout):
    def read(self, split, audit):
        return (movie for movie in super().read(split, audit) if movie.id != "b")


class Shuffled(FilmsLayout):
    def read(self, split, audit):
        yield from reversed(list(super().read(split, audit)))


class Undeclared(FilmsLayout):
    def read(self, split, audit):
        return (Movie(m.id, {**m.content, "audio": b""}, m.genres) for m in super().read(split, audit))


class Named(FilmsLayout):
    """Put the folder's name into the movies."""

    def read(self, split, audit):
        return (Movie(m.id, {"text": f"{self.root} {m.content}"}, m.genres) for m in super().read(split, audit))


class Varying(FilmsLayout):
    """Return another plot at each reading."""

    plots = iter(range(1000))

    def read(self, split, audit):
        return (Movie(m.id, {"text": str(next(self.plots))}, m.genres) for m in super().read(split, audit))


class Mislabelled(Films):
    def load(self, modalities, store, fitted=False):
        table = super().load(modalities, store, fitted)
        return replace(table, labels=~table.labels)


def of(reader: type[Layout]) -> type[Films]:
    """Return a data set that reads with this layout and has its name."""
    return type(reader.__name__, (Films,), {"layout": reader})


@pytest.mark.parametrize(
    ("cls", "sentence"),
    [
        (of(Twice), "a, b is not in the split file's val"),
        (of(Incomplete), "of train, b is neither kept nor in the audit as removed"),
        (of(Shuffled), "the movies of train are not in the split file's order"),
        (of(Undeclared), "has audio, which Undeclared does not declare"),
        (of(Named), "the same files in another folder"),
        (of(Varying), "differs from one reading to the next"),
        (Mislabelled, "labels are not the movies' genres"),
    ],
)
def test_check_data_names_the_broken_rule(films, cls, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check(cls, films)


def test_empty_plot_counts_as_absent(films):
    check(of(Empty), films)
    data = of(Empty)(str(films)).load(("text",), Store(films.parent / "store"))
    assert [(p.id, p.kind, p.action) for p in data.audit.problems] == [("b", "missing_plot", "kept_absent")]


def test_unknown_movie_id_is_named(films):
    with pytest.raises(AssertionError, match="d is not in the split file's test"):
        check(Films, films, OFFERED | {"test": []})
