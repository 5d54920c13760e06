"""The words every room shares: what a movie is, and what it turns into on its way to a prediction.

What travels through the trainer is a `NamedTuple` of tensors (immutable, moves to a device, pins); what is
configured or written is a frozen dataclass.
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
SPLITS = ("train", "val", "test")


class UserError(Exception):
    """The request was wrong: its text is one sentence (what, where, what was expected, what to do), control characters shown.

    Attributes:
        audit: audit.json as far as the data was read, where the data is at fault; it is left in the run's folder.
    """

    audit: Mapping[str, Any] | None = None

    def __init__(self, *words: object):
        super().__init__(*(visible(word) if isinstance(word, str) else word for word in words))


class Senseless(UserError):
    """Parts that do not go together: an error alone, a reason to skip within a sweep's cross product."""


class BadContent(Exception):
    """One movie's content in one modality cannot be used; the movie stays and the modality is marked absent.

    `kind` is the audit's word for it (`unreadable_image`, `bad_array`, ...), the text says what was wrong. It is not `lasting`
    where the machine may be to blame, and another try may succeed.
    """

    def __init__(self, kind: str, detail: str, lasting: bool = True):
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.lasting = lasting


@dataclass(frozen=True)
class ArrayFile:
    """A movie's array in a file of its own, read when it is stored and not before.

    Attributes:
        read: the path -> the array, checked for what its layout says of it. Raises BadContent.
    """

    path: Path
    read: Callable[[Path], np.ndarray]

    def load(self) -> np.ndarray:
        """The array. Raises BadContent."""
        return self.read(self.path)


@dataclass(frozen=True)
class Movie:
    """One record as read; an absent modality has no key.

    `content[m]` is raw: a plot (str), a poster's or trailer's file (Path), an array, an `ArrayFile`, or a table's row (dict).
    """

    id: str
    content: Mapping[str, Any]
    genres: tuple[str, ...]


@dataclass(frozen=True)
class GenreVocabulary:
    """The genres of a task, in the order of every (.., C) axis."""

    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def encode(self, genres: Iterable[Sequence[str]]) -> np.ndarray:
        """Genres per movie -> bool (N, C). Names outside the vocabulary are not this function's to judge."""
        column = {name: c for c, name in enumerate(self.names)}
        rows = list(genres)
        labels = np.zeros((len(rows), len(self.names)), dtype=bool)
        for n, names in enumerate(rows):
            labels[n, [column[name] for name in names if name in column]] = True
        return labels


class MovieBatch(NamedTuple):
    """B movies. Every field of `inputs[m]` has B rows; rows where `present` is False hold nothing of meaning."""

    ids: tuple[str, ...]
    inputs: dict[str, Any]  # {modality: Inputs | Features}
    present: Tensor  # (B, M) bool, in the order of `modalities=`
    labels: Tensor | None  # (B, C) float32


class Features(NamedTuple):
    """One modality, encoded."""

    vector: Tensor  # (B, d)
    sequence: Tensor | None = None  # (B, T, d)
    mask: Tensor | None = None  # (B, T) bool, True where real


class Fused(NamedTuple):
    """All modalities, fused. Where the fusion is additive, `parts` sum to `vector` over M."""

    vector: Tensor  # (B, ..., D)
    parts: Tensor | None = None  # (B, ..., M, D)
    gates: Tensor | None = None  # (B, ..., M, D), in [0, 1]


class Prediction(NamedTuple):
    """What the model says of B movies."""

    logits: Tensor  # (B, C)
    contributions: Tensor | None = None  # (B, M, C): bias + their sum over M is the logit
    gates: Tensor | None = None  # (B, M, D)


@runtime_checkable
class Preparation(Protocol):
    """How an encoder wants one movie's raw content stored, and stored rows batched.

    Attributes:
        fingerprint: all that the stored bytes depend on, apart from the content (and, where `learns`, the train split).
        learns: whether `fit` learns anything from train.
        costly: (False where a class does not say) whether to store a content takes seconds, so that each is kept by itself as
            soon as it is done, for whoever begins again or adds movies.
        close: (where a class has it) to be called once all is stored: lets go of networks and processes that storing needed.
    """

    @property
    def fingerprint(self) -> str: ...

    @property
    def learns(self) -> bool: ...

    def fit(self, contents: Iterable[Any]) -> Preparation:
        """Learn from the raw contents of train alone; itself where nothing is learned."""
        ...

    def state(self) -> dict[str, Any]:
        """What `fit` learned, as plain containers; `{}` where nothing is learned."""
        ...

    def restored(self, state: Mapping[str, Any]) -> Preparation:
        """The fitted preparation that `state()` came from."""
        ...

    def store(self, content: Any) -> np.ndarray:
        """One movie's content as the array to keep on disk. Raises BadContent."""
        ...

    def batch(self, rows: Sequence[np.ndarray | None], training: bool) -> Any:
        """Stored rows (None: absent, becomes a placeholder) -> Inputs: a tensor or a NamedTuple of tensors, of B rows."""
        ...
