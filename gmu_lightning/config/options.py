"""The options of the commands that read a finished run, with every range and every choice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Le
from pydantic.dataclasses import dataclass

from gmu_lightning.config.ranges import Seed
from gmu_lightning.config.schema import STRICT, read_part
from gmu_lightning.movie import UNKNOWN


class _Options:
    @classmethod
    def of(cls, node: Mapping[str, Any]) -> Self:
        """Return the options of a command in a mapping. Raises UserError that names the first wrong one."""
        return read_part(cls, node, "")


@dataclass(frozen=True, config=STRICT, kw_only=True)
class EvaluateConfig(_Options):
    """The options of an evaluation.

    Attributes:
        split: the split to score.
        robustness: whether to score the split again without some of its modalities.
        robustness_seed: seed of the draw of the movies that lose a modality.
        diagnose: whether to measure what gates, interaction and each modality are worth.
        diagnose_seed: seed of the permutations of gates, and of partners.
    """

    split: Literal["train", "val", "test"]
    robustness: bool
    robustness_seed: Seed
    diagnose: bool = False
    diagnose_seed: Seed = 0


@dataclass(frozen=True, config=STRICT, kw_only=True)
class PredictConfig(_Options):
    """The options of a prediction.

    Attributes:
        strict: whether a row with a problem is an error.
        why: the reasons that are computed beside the predictions.
        backend: runs frozen encoders; None leaves the choice to the run.
    """

    strict: bool
    why: Literal["none", "modalities", "pieces", "words"] = "none"
    backend: Literal["auto", "torch", "openvino"] | None = None


@dataclass(frozen=True, config=STRICT, kw_only=True)
class ExportConfig(_Options):
    """The options of an export.

    Attributes:
        onnx: whether to write the parts as ONNX too.
        push: `USER/NAME` on the Hugging Face hub, or None.
        private: whether a repository that is created there is private.
    """

    onnx: bool
    push: str | None
    private: bool


@dataclass(frozen=True, config=STRICT, kw_only=True)
class AppConfig(_Options):
    """The options of the page to play with.

    Attributes:
        examples: number of test movies to offer.
        host: address to listen on.
        port: to listen on. 0 takes a free one.
        browser: whether to open the page in the default browser.
        upload_mb: largest upload, in megabytes.
        backend: runs frozen encoders; None leaves the choice to the run.
    """

    examples: Annotated[int, Ge(0), Le(50)] = 6
    host: str = "127.0.0.1"
    port: Annotated[int, Ge(0), Le(65535)] = 7860
    browser: bool = False
    upload_mb: Annotated[int, Ge(1), Le(10_000)] = 100
    backend: Literal["auto", "torch", "openvino"] | None = None


@dataclass(frozen=True, config=STRICT, kw_only=True)
class AdoptConfig(_Options):
    """The options of an adoption.

    Attributes:
        name: of the predictor.
        modalities: that it has read, joined by `+`, or `unknown`.
        seed: of the first run; None for 1, or for the seeds in the predictions.
    """

    name: str
    modalities: str = UNKNOWN
    seed: Seed | None = None


@dataclass(frozen=True, config=STRICT, kw_only=True)
class StoreCommandConfig(_Options):
    """The options of the command that looks after the store.

    Attributes:
        verify: whether every entry is read and compared with its checksum.
    """

    verify: bool = False
