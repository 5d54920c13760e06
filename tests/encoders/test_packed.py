"""A packed network has the values and gradients of the padded network, and its dropout is unbiased."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertLayer

from gmu_lightning.encoders.text.group_attention import MOST_GROUPS, GroupAttention, _cuts
from gmu_lightning.encoders.text.huggingface import HuggingFaceText
from gmu_lightning.encoders.text.packed import LENGTH, TOKENS, Packed, pack
from gmu_lightning.encoders.text.post_norm import _linear, layer_of, run
from gmu_lightning.encoders.text.tokens import padded
from gmu_lightning.nn.dropout import Dropout, gain, kept_of

LENGTHS = {
    "one text": (5,),
    "one token": (1, 4, 1),
    "all alike": (6, 6, 6),
    "no two alike": tuple(range(2, 20)),
    "mixed": (20, 3, 3, 11, 20, 7),
}


def texts(lengths, seed=0):
    random = np.random.default_rng(seed)
    return padded([random.integers(5, 20, length) for length in lengths], 0)


def built(folder, **arguments):
    encoder = HuggingFaceText(str(folder), freeze="none", **arguments)
    encoder.build()
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return encoder


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize(("family", "pool"), [("bert", "mean"), ("bert", "pooler"), ("roberta", "cls"), ("distilbert", "mean")])
def test_packed_and_padded_networks_agree(text_folder, family, pool, lengths):
    encoder, inputs = built(text_folder(family), pool=pool).double(), texts(lengths)  # so that no machine's rounding counts
    assert encoder.packed is not None
    weights = torch.randn(encoder.dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = []
    for given in (inputs, inputs._replace(lengths=None)):
        encoder.zero_grad()
        features = encoder(given)
        (torch.tanh(features.vector.double()) @ weights).square().sum().backward()
        gradients = {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}
        found.append((features, gradients))
    (packed, steep), (plain, expected) = found
    assert torch.allclose(packed.vector.double(), plain.vector.double(), atol=1e-5)
    assert torch.allclose(packed.sequence[inputs.mask], plain.sequence[inputs.mask], atol=1e-5)
    assert not packed.sequence[~inputs.mask].any()
    assert steep.keys() == expected.keys() and any(g.abs().max() > 1e-3 for g in steep.values())
    for name, gradient in expected.items():
        assert torch.allclose(steep[name], gradient, atol=1e-6, rtol=1e-4), name


@pytest.mark.parametrize("layers", ["our own", "the library's"])
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_rounded_sizes_change_nothing(text_folder, monkeypatch, family, layers):
    if layers == "the library's":
        monkeypatch.setattr(f"{Packed.__module__}.layer_of", lambda layer: None)
    encoder, inputs = built(text_folder(family)).double(), texts(LENGTHS["no two alike"])
    found = []
    for narrow in (False, True):
        encoder.zero_grad()
        packing = pack(inputs.lengths, inputs.ids.shape[1], torch.device("cpu"), narrow)
        hidden = encoder.packed.hidden(inputs.ids, packing)
        (hidden * torch.linspace(-1, 1, hidden.numel()).view_as(hidden)).sum().backward()
        found += [hidden, torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None])]
    tokens = sum(inputs.lengths)
    assert len(hidden) == tokens and (tokens + packing.spare) % TOKENS == 0 < packing.spare
    assert all(group.longest % LENGTH == 0 for group in packing.groups)
    exact, steep, rounded, other = found
    assert torch.allclose(rounded, exact, atol=1e-6) and torch.allclose(other, steep, atol=1e-6, rtol=1e-4)


def test_autocast_stays_near_float32(text_folder):
    encoder, inputs = built(text_folder()), texts((8, 3, 5))
    read = []
    encoder.network.embeddings.register_forward_hook(lambda _, __, out: read.append(out.shape[1]))
    exact = encoder(inputs).vector
    with torch.autocast("cpu", torch.bfloat16):
        rounded = encoder(inputs).vector
    assert read == [16, TOKENS]  # only bfloat16 needs shapes that repeat
    rounded.sum().backward()
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 0.05
    assert all(p.grad.dtype == torch.float32 for p in encoder.parameters() if p.grad is not None)


def test_a_network_with_its_own_attention_is_padded(text_folder, tmp_path, capsys):
    import shutil

    import transformers

    shape = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}
    shutil.copytree(text_folder(), tmp_path / "mpnet")
    vocabulary = len(transformers.AutoTokenizer.from_pretrained(text_folder()))
    transformers.MPNetModel(transformers.MPNetConfig(vocab_size=vocabulary, **shape)).save_pretrained(tmp_path / "mpnet")
    encoder = built(tmp_path / "mpnet")
    assert encoder.packed is None
    assert "mpnet cannot be run without padding" in capsys.readouterr().err
    assert torch.isfinite(encoder(texts((4, 2))).vector).all()


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_the_attentions_backward_is_its_derivative(p):
    packing = pack((3, 1, 4, 4, 2), 4, torch.device("cpu"))
    q, k, v = (torch.randn(14, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(3))

    def attend(*inputs):
        torch.manual_seed(7)
        return GroupAttention.apply(torch.stack(inputs, dim=1), packing.groups, 0.5, p)

    assert torch.autograd.gradcheck(attend, (q, k, v))


@pytest.mark.parametrize("rates", [(0.0, 0.0, 0.0), (0.3, 0.2, 0.4)])
def test_the_layers_backward_is_its_derivative(rates):
    torch.manual_seed(0)
    layer = BertLayer(BertConfig(hidden_size=4, num_attention_heads=2, intermediate_size=3)).double()
    groups = pack((3, 1, 2), 3, torch.device("cpu")).groups
    found = layer_of(layer)._replace(rates=rates)
    x = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)

    def output(x, *weights):
        torch.manual_seed(7)
        return run(found._replace(weights=weights), x, groups)

    assert torch.autograd.gradcheck(output, (x, *found.weights))


@pytest.mark.parametrize("lengths", [LENGTHS["no two alike"], LENGTHS["mixed"]], ids=["no two alike", "mixed"])
@pytest.mark.parametrize("shift", [0.0, 0.1], ids=["no biases", "biases"])
def test_bfloat16_gradients_stay_near_float32(text_folder, lengths, shift):
    encoder, inputs = built(text_folder("bert")), texts(lengths)
    draw = torch.Generator().manual_seed(3)
    for name, parameter in encoder.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=shift, generator=draw)
    weights = torch.randn(encoder.dim, generator=torch.Generator().manual_seed(1))
    found = []
    for narrow in (False, True):
        encoder.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            vector = encoder(inputs).vector
        (torch.tanh(vector) @ weights).sum().backward()  # a square would multiply the rounding where the value is near 0
        found.append(torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None]))
    exact, rounded = found
    assert 0 < (rounded - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_linear_layer_adds_its_bias_in_both_precisions(dtype):
    draw = torch.Generator().manual_seed(1)
    x, weight, bias = (torch.randn(*shape, generator=draw).to(dtype) for shape in ((40, 16), (24, 16), (24,)))
    expected = nn.functional.linear(x.double(), weight.double(), bias.double())
    rounding = torch.finfo(dtype).eps
    assert torch.allclose(_linear(x, weight, bias).double(), expected, atol=32 * rounding, rtol=rounding)


def test_only_layers_of_a_bert_are_replaced():
    config = {"hidden_size": 4, "num_attention_heads": 2, "intermediate_size": 3}
    plain, other, changed = (
        BertLayer(BertConfig(**config)),
        BertLayer(BertConfig(**config, hidden_act="gelu_new")),
        BertLayer(BertConfig(**config)),
    )
    changed.attention.self.query = type("Adapted", (nn.Linear,), {})(4, 4)  # as adapters do
    assert layer_of(plain.train()).rates == (0.1, 0.1, 0.1) and layer_of(plain.eval()).rates == (0.0, 0.0, 0.0)
    assert layer_of(other) is None and layer_of(changed) is None


def test_dropout_on_attention_keeps_its_expectation():
    packing = pack((12,), 12, torch.device("cpu"))
    qkv = torch.randn(12, 3, 1, 4, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    whole = GroupAttention.apply(qkv, packing.groups, 0.5, 0.0)
    drawn = torch.stack([GroupAttention.apply(qkv, packing.groups, 0.5, 0.4) for _ in range(4000)])
    assert (drawn.std(0) > 0.01).all()
    assert torch.allclose(drawn.mean(0), whole, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_masks_follow_probability_and_seed(dtype):
    x = torch.empty(1000, 1001, dtype=dtype)
    torch.manual_seed(3)
    first, second = kept_of(x, 0.1), kept_of(x, 0.1)
    torch.manual_seed(3)
    assert torch.equal(kept_of(x, 0.1), first) and not torch.equal(first, second)
    assert first.dtype == dtype and set(first.unique().tolist()) == {0.0, 1.0}
    share = 1 - first.float().mean()
    assert abs(share - 0.1) < 0.0015  # five standard deviations
    assert abs(first.float().mean(0).std() - (0.09 / 1000) ** 0.5) < 0.001  # no column is favoured
    assert abs(gain(0.1) * (1 - share) - 1) < 0.002 and abs(gain(0.1) - 1 / 0.9) < 0.003
    assert gain(0.001) > 1 and gain(0.5) == 2


def test_the_dropout_module_drops_and_rescales():
    x = torch.randn(500, 40, requires_grad=True)
    layer = Dropout(0.25)
    y = layer(x)
    y.sum().backward()
    kept = y != 0
    assert abs(kept.float().mean() - 0.75) < 0.02
    assert torch.allclose(y[kept], x[kept] / 0.75, rtol=1e-3)
    assert torch.equal(x.grad != 0, kept)
    assert torch.equal(layer.eval()(x), x)


def test_a_few_groups_cover_every_text_once():
    random = np.random.default_rng(0)
    for count in (1, 2, 7, 64):
        ranked = sorted(random.integers(1, 257, count).tolist())
        cuts = _cuts(ranked)
        assert cuts[0] == 0 and cuts[-1] == count and cuts == sorted(set(cuts))
        assert len(cuts) - 1 <= MOST_GROUPS
    assert _cuts([10] * 5 + [250] * 5) == [0, 5, 10]  # joining these groups would cost time
    assert _cuts([250, 251]) == [0, 2]  # joining these groups saves time


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("narrow", "near"), [(None, 1e-4), (torch.bfloat16, 0.05)])
def test_packed_and_padded_networks_agree_on_a_gpu(text_folder, narrow, near):
    encoder, inputs = built(text_folder()).cuda(), texts((40, 3, 17))
    inputs = inputs._replace(ids=inputs.ids.cuda(), mask=inputs.mask.cuda())
    found = []
    for given, precision in ((inputs, narrow), (inputs._replace(lengths=None), None)):
        encoder.zero_grad()
        with torch.autocast("cuda", precision or torch.bfloat16, enabled=precision is not None):
            vector = encoder(given).vector
        vector.float().square().sum().backward()
        found.append((vector, {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}))
    (packed, steep), (plain, expected) = found
    assert torch.allclose(packed, plain, atol=near)
    for name, gradient in expected.items():
        assert steep[name].dtype == torch.float32
        assert (steep[name] - gradient).norm() <= near * (gradient.norm() + 1), name
