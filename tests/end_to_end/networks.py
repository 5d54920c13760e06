"""Small networks on disk, in the layouts of pretrained ones."""

from __future__ import annotations

import json
from pathlib import Path

# With fewer than 16 channels, oneDNN's gradient of a 1x1 convolution of stride 2 writes past its workspace:
# https://github.com/uxlfoundation/oneDNN/issues/6035
NARROW = {"layers": [1, 1, 1, 1], "channels": [16, 16, 16, 16]}


def write_bert(folder: Path, plots: list[str]) -> None:
    """Write it as save_pretrained does; its vocabulary is every word of the plots."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = sorted({word.strip(".,;:!?").lower() for plot in plots for word in plot.split()})
    vocabulary = {word: n for n, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", ".", *words])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    BertModel(BertConfig(vocab_size=len(vocabulary), **shape)).save_pretrained(folder)


def write_resnet(folder: Path) -> None:
    """In the layout of timm's repositories on the hub; it reads 64 pixels."""
    import timm
    from safetensors.torch import save_file

    network = timm.create_model("resnet18", num_classes=7, **NARROW)
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, folder / "model.safetensors")
    described = timm.get_pretrained_cfg("resnet18").to_dict() | {"input_size": [3, 64, 64], "num_classes": 7}
    config = {"architecture": "resnet18", "pretrained_cfg": described, "model_args": NARROW}
    (folder / "config.json").write_text(json.dumps(config))
