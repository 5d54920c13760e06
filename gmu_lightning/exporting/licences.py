"""The licences of the pretrained weights that this package's choices name. They hold for an export too, which holds the weights.

The licence of weights is that of their page on the Hugging Face hub. Those of timm also stand in its `pretrained_cfg`.
"""

from __future__ import annotations

from typing import NamedTuple

HUB = "https://huggingface.co"
UNKNOWN = "unknown"


class Licence(NamedTuple):
    """The terms of some weights.

    Attributes:
        name: identifier of the licence as the hub writes it, or `unknown`.
        source: page that states it, or an empty text.
    """

    name: str
    source: str


LICENCES: dict[str, str | Licence] = {
    "sentence-transformers/all-MiniLM-L6-v2": "apache-2.0",
    "bert-base-uncased": "apache-2.0",
    "bert-large-uncased": "apache-2.0",
    "distilbert-base-uncased": "apache-2.0",
    "roberta-base": "mit",
    "answerdotai/ModernBERT-base": "apache-2.0",
    "intfloat/e5-base-v2": "mit",
    "google/siglip2-base-patch16-224": "apache-2.0",
    "facebook/dinov3-vitb16-pretrain-lvd1689m": "dinov3-license",
    # The page of CLIP states no licence, but the repository that it was published in does.
    "openai/clip-vit-base-patch32": Licence("mit", "https://github.com/openai/CLIP/blob/main/LICENSE"),
    "MIT/ast-finetuned-audioset-10-10-0.4593": "bsd-3-clause",
    "timm/tf_efficientnet_lite0.in1k": "apache-2.0",
    "timm/resnet50.a1_in1k": "apache-2.0",
    "timm/resnet152.tv_in1k": "bsd-3-clause",
    "timm/vgg16.tv_in1k": "bsd-3-clause",
    "timm/vit_small_patch16_224.augreg_in21k_ft_in1k": "apache-2.0",
}


def licence_of(weights: str) -> Licence:
    """Return the licence of weights by their name on the hub."""
    known = LICENCES.get(weights)
    if isinstance(known, Licence):
        return known
    return Licence(known, f"{HUB}/{weights}") if known else Licence(UNKNOWN, "")
