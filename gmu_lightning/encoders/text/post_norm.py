"""Compute a whole layer of a BERT on packed texts on a CPU, with a backward of its own.

The layers of the transformers library make hundreds of small calls, cast each weight, and pass over memory more often than
needed. Here, the three projections of attention are one product, sums of gradients are part of a product, and each weight is
cast once. The values and gradients are those of the library's layer, up to rounding.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmu_lightning.encoders.text.group_attention import Group, attended, attention_gradient
from gmu_lightning.nn.dropout import gain, kept_of

LINEAR, NORM, DROPOUT = nn.Linear, nn.LayerNorm, nn.Dropout
BERT = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "first_norm": "attention.output.LayerNorm",
    "inner": "intermediate.dense",
    "outer": "output.dense",
    "last_norm": "output.LayerNorm",
    "activation": "intermediate.intermediate_act_fn",
    "attention_dropout": "attention.self.dropout",
    "out_dropout": "attention.output.dropout",
    "outer_dropout": "output.dropout",
}
DISTILBERT = {
    "query": "attention.q_lin",
    "key": "attention.k_lin",
    "value": "attention.v_lin",
    "out": "attention.out_lin",
    "first_norm": "sa_layer_norm",
    "inner": "ffn.lin1",
    "outer": "ffn.lin2",
    "last_norm": "output_layer_norm",
    "activation": "ffn.activation",
    "attention_dropout": "attention.dropout",
    "outer_dropout": "ffn.dropout",
}


class Layer(NamedTuple):
    """The parts of a layer: attention, dropout, residual, norm; product, GELU, product, dropout, residual, norm."""

    heads: int
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    out: nn.Linear
    first_norm: nn.LayerNorm
    inner: nn.Linear
    outer: nn.Linear
    last_norm: nn.LayerNorm
    rates: tuple[float, float, float]  # of dropout on the probabilities, after `out`, and after `outer`; 0 outside training

    def weights(self) -> tuple[Tensor, ...]:
        """Return the eight pairs of weight and bias, in the order of the fields."""
        return tuple(tensor for part in self[1:9] for tensor in (part.weight, part.bias))  # type: ignore[union-attr]


def layer_of(module: nn.Module) -> Layer | None:
    """Return the parts of a layer as in BERT, RoBERTa, ELECTRA or DistilBERT; None for any other layer."""
    found = dict(module.named_modules())
    for names in (BERT, DISTILBERT):
        parts = {part: found.get(name) for part, name in names.items()}
        if any(part is None for part in parts.values()):
            continue
        dense = [parts[name] for name in ("query", "key", "value", "out", "inner", "outer")]
        norms = [parts["first_norm"], parts["last_norm"]]
        if all(type(p) is nn.Linear and p.bias is not None for p in dense) and all(type(p) is nn.LayerNorm for p in norms):
            return _layer(module, cast(dict[str, nn.Module], parts))
    return None


def _layer(module: nn.Module, parts: dict[str, nn.Module]) -> Layer | None:
    probe = torch.linspace(-3, 3, 7)
    owner: Any = module.attention
    owner = getattr(owner, "self", owner)
    heads = getattr(owner, "num_attention_heads", None) or getattr(owner, "n_heads", None)
    if heads is None or not torch.equal(parts.pop("activation")(probe), F.gelu(probe)):
        return None
    rates = [parts.pop(f"{place}_dropout", None) for place in ("attention", "out", "outer")]
    active = tuple(0.0 if rate is None or not rate.training else float(cast(nn.Dropout, rate).p) for rate in rates)
    return Layer(heads, *(cast(Any, part) for part in parts.values()), rates=cast(tuple[float, float, float], active))


def run(layer: Layer, x: Tensor, groups: tuple[Group, ...]) -> Tensor:
    """Return the layer's output for N packed tokens x (N, d). The products are computed in the dtype of x."""
    return cast(Tensor, _PostNorm.apply(x, groups, layer, *layer.weights()))


def _dropped(residual: Tensor, x: Tensor, p: float) -> tuple[Tensor, Tensor | None]:
    """Return residual + dropout(x), and the mask of 0 and 1, or None without dropout."""
    if not p:
        return residual + x, None
    kept = kept_of(x, p)
    return torch.addcmul(residual, x, kept, value=gain(p)), kept


def _undropped(gradient: Tensor, kept: Tensor | None, p: float) -> Tensor:
    """Return the gradient of x in `_dropped`."""
    return gradient if kept is None else (gradient * kept).mul_(gain(p))


class _PostNorm(torch.autograd.Function):
    """A layer of BERT (Devlin et al. 2019, arXiv 1810.04805) on N packed tokens."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, groups: tuple[Group, ...], layer: Layer, *weights: Tensor) -> Tensor:
        """Return the layer's output for x (N, d): (N, d)."""
        wq, bq, wk, bk, wv, bv, wo, bo, g1, c1, w1, b1, w2, b2, g2, c2 = weights
        p_attention, p_out, p_outer = layer.rates
        joined, shift = _joined((wq, wk, wv), x.dtype), _joined((bq, bk, bv), x.dtype)
        wo, bo, w1, b1, w2, b2 = (weight.to(x.dtype) for weight in (wo, bo, w1, b1, w2, b2))
        size = (x.shape[1],)
        qkv = torch.addmm(shift, x, joined.t()).view(len(x), 3, layer.heads, -1)
        read, products = attended(qkv, groups, qkv.shape[-1] ** -0.5, p_attention)
        read = read.flatten(1)
        summed, kept_out = _dropped(x, torch.addmm(bo, read, wo.t()), p_out)
        middle, *first = torch.native_layer_norm(summed, size, g1, c1, layer.first_norm.eps)
        before = torch.addmm(b1, middle, w1.t())
        inner = F.gelu(before)
        total, kept_outer = _dropped(middle, torch.addmm(b2, inner, w2.t()), p_outer)
        out, *last = torch.native_layer_norm(total, size, g2, c2, layer.last_norm.eps)
        ctx.layer, ctx.groups = layer, groups
        ctx.save_for_backward(
            x, joined, read, wo, kept_out, summed, *first, g1, c1, middle, w1, before, inner, w2, kept_outer, total, *last, g2, c2,
            *products,
        )  # fmt: skip
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Return the gradients of x (N, d) and of the weights."""
        x, joined, read, wo, kept_out, summed, *saved = ctx.saved_tensors
        mean1, rstd1, g1, c1, middle, w1, before, inner, w2, kept_outer, total, mean2, rstd2, g2, c2, *products = saved
        p_attention, p_out, p_outer = ctx.layer.rates
        size, of_norm = (x.shape[1],), torch.ops.aten.native_layer_norm_backward
        back, dg2, dc2 = of_norm(gradient.contiguous(), total, size, mean2, rstd2, g2, c2, [True, True, True])
        outer = _undropped(back, kept_outer, p_outer)
        dw2, db2 = _of_linear(outer, inner)
        hidden = torch.ops.aten.gelu_backward(outer @ w2, before)
        dw1, db1 = _of_linear(hidden, middle)
        back, dg1, dc1 = of_norm(torch.addmm(back, hidden, w1), summed, size, mean1, rstd1, g1, c1, [True, True, True])
        out = _undropped(back, kept_out, p_out)
        dwo, dbo = _of_linear(out, read)
        heads = (out @ wo).view(len(x), ctx.layer.heads, -1)
        qkv = attention_gradient(heads, products, ctx.groups, heads.shape[-1] ** -0.5, p_attention).view(len(x), -1)
        dws, dbs = (found.chunk(3) for found in _of_linear(qkv, x))
        of_parts = [found for pair in zip(dws, dbs, strict=True) for found in pair]
        return torch.addmm(back, qkv, joined), None, None, *of_parts, dwo, dbo, dg1, dc1, dw1, db1, dw2, db2, dg2, dc2


def _joined(parts: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
    """Return parts one below the other, cast to `dtype`."""
    return torch.cat(parts, out=parts[0].new_empty(0, dtype=dtype))


def _of_linear(gradient: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of weight and bias of a linear layer, at least in float32, given those of its output."""
    wide = torch.promote_types(gradient.dtype, torch.float32)
    return (gradient.t() @ x).to(wide), gradient.sum(0).to(wide)
