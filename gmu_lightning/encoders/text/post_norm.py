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

# Names of the parts: query, key, value, out, first norm, inner, outer, last norm; activation; dropout of the probabilities, after
# out, and after outer ("" if there is none).
BERT = (
    *("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"),
    *("attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm"),
    *("intermediate.intermediate_act_fn", "attention.self.dropout", "attention.output.dropout", "output.dropout"),
)
DISTILBERT = (
    *("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"),
    *("sa_layer_norm", "ffn.lin1", "ffn.lin2", "output_layer_norm"),
    *("ffn.activation", "attention.dropout", "", "ffn.dropout"),
)
KINDS: tuple[Any, ...] = (*[nn.Linear] * 4, nn.LayerNorm, *[nn.Linear] * 2, nn.LayerNorm)


class Layer(NamedTuple):
    """A layer with H heads: attention, dropout, residual, norm; product, GELU, product, dropout, residual, norm."""

    heads: int
    epsilons: tuple[float, float]  # of the two norms
    rates: tuple[float, float, float]  # of dropout on the probabilities, after `out`, and after `outer`; 0 outside training
    weights: tuple[Tensor, ...]  # weight and bias of query, key, value, out, first norm, inner, outer and last norm


def layer_of(module: nn.Module) -> Layer | None:
    """Return the parts of a layer as in BERT, RoBERTa, ELECTRA or DistilBERT; None for any other layer."""
    found = dict(module.named_modules())
    for names in (BERT, DISTILBERT):
        weighted: list[Any] = [found.get(name) for name in names[:8]]
        activation: Any = found.get(names[8])
        if any(type(p) is not kind or p.bias is None for p, kind in zip(weighted, KINDS, strict=True)) or activation is None:
            continue
        probe, attention = torch.linspace(-3, 3, 7), found[names[0].rpartition(".")[0]]
        heads = getattr(attention, "num_attention_heads", None) or getattr(attention, "n_heads", None)
        if heads is None or not torch.equal(activation(probe), F.gelu(probe)):
            continue
        dropouts = [found.get(name) for name in names[9:]]
        rates = [float(part.p) if isinstance(part, nn.Dropout) and part.training else 0.0 for part in dropouts]
        weights = tuple(tensor for part in weighted for tensor in (part.weight, part.bias))
        return Layer(heads, (weighted[4].eps, weighted[7].eps), (rates[0], rates[1], rates[2]), weights)
    return None


def run(layer: Layer, x: Tensor, groups: tuple[Group, ...]) -> Tensor:
    """Return the layer's output for N packed tokens x (N, d). The products are computed in the dtype of x."""
    return cast(Tensor, _PostNorm.apply(x, groups, layer, *layer.weights))


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
        qkv = _linear(x, joined, shift).view(len(x), 3, layer.heads, -1)
        read, products = attended(qkv, groups, qkv.shape[-1] ** -0.5, p_attention)
        read = read.flatten(1)
        summed, kept_out = _dropped(x, _linear(read, wo, bo), p_out)
        middle, *first = torch.native_layer_norm(summed, size, g1, c1, layer.epsilons[0])
        before = _linear(middle, w1, b1)
        inner = F.gelu(before)
        total, kept_outer = _dropped(middle, _linear(inner, w2, b2), p_outer)
        out, *last = torch.native_layer_norm(total, size, g2, c2, layer.epsilons[1])
        ctx.heads, ctx.rates, ctx.groups = layer.heads, layer.rates, groups
        ctx.save_for_backward(
            x, joined, read, wo, kept_out, summed, *first, g1, c1, middle, w1, before, inner, w2, kept_outer,
            total, *last, g2, c2, *products,
        )  # fmt: skip
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Return the gradients of x (N, d) and of the weights, which autograd casts to the weights' dtype."""
        x, joined, read, wo, kept_out, summed, *saved = ctx.saved_tensors
        mean1, rstd1, g1, c1, middle, w1, before, inner, w2, kept_outer, total, mean2, rstd2, g2, c2, *products = saved
        p_attention, p_out, p_outer = ctx.rates
        size, of_norm = (x.shape[1],), torch.ops.aten.native_layer_norm_backward
        back, dg2, dc2 = of_norm(gradient.contiguous(), total, size, mean2, rstd2, g2, c2, [True, True, True])
        outer = _undropped(back, kept_outer, p_outer)
        dw2, db2 = _of_linear(outer, inner)
        hidden = torch.ops.aten.gelu_backward(outer @ w2, before)
        dw1, db1 = _of_linear(hidden, middle)
        back, dg1, dc1 = of_norm(torch.addmm(back, hidden, w1), summed, size, mean1, rstd1, g1, c1, [True, True, True])
        out = _undropped(back, kept_out, p_out)
        dwo, dbo = _of_linear(out, read)
        heads = (out @ wo).view(len(x), ctx.heads, -1)
        qkv = attention_gradient(heads, products, ctx.groups, heads.shape[-1] ** -0.5, p_attention).view(len(x), -1)
        dws, dbs = (found.chunk(3) for found in _of_linear(qkv, x))
        of_parts = [found for pair in zip(dws, dbs, strict=True) for found in pair]
        return torch.addmm(back, qkv, joined), None, None, *of_parts, dwo, dbo, dg1, dc1, dw1, db1, dw2, db2, dg2, dc2


def _joined(parts: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
    """Return parts one below the other, cast to `dtype`."""
    return torch.cat(parts, out=parts[0].new_empty(0, dtype=dtype))


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return x @ weight.T + bias. In bfloat16, oneDNN adds the bias within the product, and `addmm` in a pass of its own."""
    onednn = x.dtype == torch.bfloat16 and torch.backends.mkldnn.is_available()
    if onednn and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], ""))
    return torch.addmm(bias, x, weight.t())


def _of_linear(gradient: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of weight and bias of a linear layer, given its input and the gradient of its output."""
    return gradient.t() @ x, gradient.sum(0)
