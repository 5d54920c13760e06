"""Tiny networks and tokenizers, in the layouts of pretrained ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def vision_network(family: str, texts: Sequence[str] = ()) -> list[Any]:
    """Return a tiny `clip`, `siglip2` or `dinov3`, its tokenizer if any, trained on texts, and its image processor."""
    import transformers as t

    shape = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    if family == "dinov3":
        network = t.DINOv3ViTModel(t.DINOv3ViTConfig(patch_size=8, num_register_tokens=4, image_size=32, **shape))
        with torch.no_grad():
            network.embeddings.register_tokens.normal_()
        return [network, t.DINOv3ViTImageProcessor(size={"height": 32, "width": 32})]
    if family == "clip":
        tokenizer = byte_pairs(texts, ("<|startoftext|>", "<|endoftext|>", "<|endoftext|>", "<|endoftext|>"))
        text = {"vocab_size": len(tokenizer), "max_position_embeddings": 24, "bos_token_id": 0, "eos_token_id": 1}
        vision = {"patch_size": 8, "image_size": 32, **shape}
        network = t.CLIPModel(t.CLIPConfig(text_config=text | shape, vision_config=vision, projection_dim=12))
        processor = t.CLIPImageProcessor(size={"shortest_edge": 33}, crop_size={"height": 32, "width": 32})
        return [network, tokenizer, processor]
    tokenizer = byte_pairs(texts, (None, "<eos>", "<pad>", "<unk>"), model_input_names=["input_ids"])
    ids = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 64, "projection_size": 16, **ids}
    network = t.SiglipModel(t.SiglipConfig(text_config=text | shape, vision_config={"patch_size": 8, "image_size": 32, **shape}))
    return [network, tokenizer, t.SiglipImageProcessor(size={"height": 32, "width": 32}, resample=2)]


def byte_pairs(texts: Sequence[str], names: Sequence[str | None] = ("<s>", "</s>", "<pad>", "<unk>"), **options: Any) -> Any:
    """Return a tokenizer trained on texts that keeps capitals.

    Args:
        texts: of the training.
        names: of the tokens for begin (None adds none), end, padding and unknown.
        options: of the tokenizer.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    begin, end, pad, unknown = names
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = list(dict.fromkeys([begin or pad, pad, end, unknown, "<mask>"]))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet))
    number = {name: tokenizer.token_to_id(name) for name in special}
    single = f"{begin} $A {end}" if begin else f"$A {end}"
    used = [(name, number[name]) for name in (begin, end) if name]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=None, special_tokens=used)
    ends = {"eos_token": end, "sep_token": end, "pad_token": pad, "unk_token": unknown}
    begins = {"bos_token": begin, "cls_token": begin} if begin else {}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **begins, **ends, **options)
