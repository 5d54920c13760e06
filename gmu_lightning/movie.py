"""The types that all packages share, from a movie's raw content to its prediction.

Types that pass through the Trainer are NamedTuples of tensors, which are immutable and can be moved or pinned. Types that are
configured or written are frozen dataclasses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from gmu_lightning.visible import visible

if TYPE_CHECKING:
    from torch import Tensor

MODALITIES = ("text", "image", "video", "audio", "metadata")
UNKNOWN = "unknown"  # in place of modalities, in the configuration of adopted predictions
SPLITS = ("train", "val", "test")


class UserError(Exception):
    """An error in the user's request or data. Its text is one sentence: the problem, its place, and the remedy.

    Args:
        *words: the text; control characters in it are made visible.

    Attributes:
        audit: content of audit.json so far, if the data is at fault. It is written to the run's folder.
    """

    audit: Mapping[str, Any] | None = None

    def __init__(self, *words: object):
        super().__init__(*(visible(word) if isinstance(word, str) else word for word in words))

    def _render_traceback_(self) -> list[str]:
        """Return the lines that a notebook shows: the sentence, without a traceback."""
        return [f"{type(self).__name__}: {self}"]


class IncompatibleChoices(UserError):
    """Choices that do not go together: an error for a single run, and a reason to skip a job of a sweep."""


class BadContent(Exception):
    """One movie's content in one modality is unusable. The movie stays, and the modality counts as absent.

    Args:
        kind: the audit's name of the problem, such as `unreadable_image` or `bad_array`.
        detail: description of the problem.
        lasting: False if the machine may be the cause, so that another attempt may succeed.
    """

    def __init__(self, kind: str, detail: str, lasting: bool = True):
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.lasting = lasting


class Unusable(NamedTuple):
    """A content of a data set that cannot be used, with the kind and the detail of its `BadContent`."""

    row: int
    kind: str
    detail: str


@dataclass(frozen=True)
class ArrayFile:
    """A movie's array in a file of its own, which is read only while it is being stored.

    Attributes:
        path: of the file.
        read: returns the array of a path, checked as its layout requires. Raises BadContent.
    """

    path: Path
    read: Callable[[Path], np.ndarray]

    def load(self) -> np.ndarray:
        """Return the array. Raises BadContent."""
        return self.read(self.path)


def file_of(content: Any) -> Path | None:
    """Return the file that a raw content is read from, or None if it is in memory."""
    file = content.path if isinstance(content, ArrayFile) else content
    return file if isinstance(file, Path) else None


@dataclass(frozen=True)
class Movie:
    """One record as read.

    Attributes:
        id: of the movie.
        content: {modality: raw content}, without absent modalities. Raw content is a plot (str), the file of a poster or trailer
            (Path), an array, an `ArrayFile`, or the row of a table (dict).
        genres: as in the data.
    """

    id: str
    content: Mapping[str, Any]
    genres: tuple[str, ...]


@dataclass(frozen=True)
class GenreVocabulary:
    """The genres of a task, in the order of every axis C."""

    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def encode(self, genres: Iterable[Sequence[str]]) -> np.ndarray:
        """Return the labels of N movies, (N, C) bool. Names outside the vocabulary are ignored."""
        column = {name: c for c, name in enumerate(self.names)}
        rows = list(genres)
        labels = np.zeros((len(rows), len(self.names)), dtype=bool)
        for n, names in enumerate(rows):
            labels[n, [column[name] for name in names if name in column]] = True
        return labels


class MovieBatch(NamedTuple):
    """B movies. Every field of `inputs[m]` has B rows; rows of absent movies have arbitrary values."""

    ids: tuple[str, ...]
    inputs: dict[str, Any]  # {modality: Inputs | Features}
    present: Tensor  # (B, M) bool, in the order of `modalities=`
    labels: Tensor | None  # (B, C) float32
    weight: float = 1.0  # of the mean loss, where several processes have batches of different sizes


@dataclass(frozen=True)
class Cached:
    """The origin of stored features.

    Attributes:
        parameters: number of the encoder's parameters.
        backend, precision: of the computation.
        from_cache: whether the store had the features already.
        bytes: size of the vectors.
    """

    parameters: int
    backend: str
    precision: str
    from_cache: bool
    bytes: int


class Column(Protocol):
    """One modality of a data set, from which batches are made. Row n belongs to movie n."""

    @property
    def preparation(self) -> Preparation:
        """The fitted preparation that stored the rows."""
        ...

    @property
    def present(self) -> np.ndarray:
        """(N,) bool, whether a movie has the modality."""
        ...

    @property
    def lengths(self) -> np.ndarray | None:
        """(N,) int, the first axis of each movie's array, such as its number of tokens; 0 if absent. None for cached vectors."""
        ...

    @property
    def cached(self) -> Cached | None:
        """The origin of stored features. None if the encoder runs in every step."""
        ...

    @property
    def resident(self) -> Tensor | None:
        """(N, d) float32, zeros for absent movies, if the features are stored and are only vectors. None otherwise."""
        ...

    def batch(self, rows: Sequence[int], training: bool = False) -> Any:
        """Return the encoder's Inputs, or its Features, for the movies in these rows.

        Args:
            rows: B row numbers.
            training: whether the preparation may augment the inputs.
        """
        ...


class Features(NamedTuple):
    """One encoded modality of B movies."""

    vector: Tensor  # (B, d)
    sequence: Tensor | None = None  # (B, T, d)
    mask: Tensor | None = None  # (B, T) bool, True where real; None: all tokens are real

    def real_tokens(self, rows: int | slice = slice(None)) -> Tensor:
        """Return the real tokens of one movie or of several, one after the other, (tokens, d). The features have a sequence."""
        assert self.sequence is not None, "these features have no sequence"
        sequence = self.sequence[rows]
        return sequence.flatten(0, -2) if self.mask is None else sequence[self.mask[rows]]


class Fused(NamedTuple):
    """All modalities, fused. In an additive fusion, `parts` sum to `vector` over M."""

    vector: Tensor  # (B, ..., D)
    parts: Tensor | None = None  # (B, ..., M, D)
    gates: Tensor | None = None  # (B, ..., M, D) or (B, ..., M, 1), in [0, 1]


class Prediction(NamedTuple):
    """The model's output for B movies. In training, and for a model that is not additive, it has only logits."""

    logits: Tensor  # (B, C)
    contributions: Tensor | None = None  # (B, M, C): bias + their sum over M is the logit
    gates: Tensor | None = None  # (B, M, D)


@runtime_checkable
class Preparation(Protocol):
    """Store one movie's raw content as an encoder needs it, and make batches of stored rows.

    Attributes:
        fingerprint: identifies everything that the stored bytes depend on, except the content, and the train split if `learns`.
        learns: whether `fit` learns from train.
        costly: optional, False by default. True if storing a content takes seconds. Each content is then kept at once, so that an
            interrupted job or a larger data set reuses it.
        close: optional method, called after the last content is stored. It frees networks and processes.
    """

    @property
    def fingerprint(self) -> str: ...

    @property
    def learns(self) -> bool: ...

    def fit(self, contents: Iterable[Any]) -> Preparation:
        """Return the preparation fitted on the raw contents of train, or itself if it does not learn."""
        ...

    def state(self) -> dict[str, Any]:
        """Return the learned state as plain containers; {} if the preparation does not learn."""
        ...

    def restored(self, state: Mapping[str, Any]) -> Preparation:
        """Return the fitted preparation whose `state()` this is."""
        ...

    def store(self, content: Any) -> np.ndarray:
        """Return the array to store for one movie's content. Raises BadContent."""
        ...

    def batch(self, rows: Sequence[np.ndarray | None], training: bool) -> Any:
        """Return the Inputs of B stored rows: a tensor or a NamedTuple of tensors with B rows.

        Args:
            rows: stored arrays; None, for an absent movie, becomes a placeholder.
            training: whether to augment the inputs.
        """
        ...
