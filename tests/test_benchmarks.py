"""The yardsticks of the benchmarks give the framework's numbers, and their statistics and counts are right."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks import fine_tuning, gpu, gpu_parts, harness, load, raw_heads, raw_loop, run, start_up, workers
from benchmarks.raw_bert import DROPOUT, Attention, Masks, Shape, packed, training_flops
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.encoders.text.tokens import TokenInputs
from gmu_lightning.encoders.vector import Vector
from gmu_lightning.fusion import GMU, Concat, Mean
from gmu_lightning.losses import WeightedBCE
from gmu_lightning.metrics import scores
from gmu_lightning.model import MovieGenreClassifier
from gmu_lightning.movie import Features, MovieBatch
from gmu_lightning.nn.transformer import masked_mean

SMALL = Shape(layers=2, heads=2, width=8, inner=16)
LENGTHS = (3, 5, 5, 9)


def test_spread_has_median_ends_and_quartiles():
    assert harness.spread([5.0, 1.0, 3.0, 2.0, 4.0]) == (3.0, 1.0, 5.0, 2.0)
    assert harness.spread([7.0]) == (7.0, 7.0, 7.0, 0.0)


def test_ratios_are_taken_round_by_round():
    assert harness.ratios([2.0, 8.0, 3.0], [1.0, 2.0, 3.0]).median == 2.0


def test_variants_take_turns():
    calls = []
    found = harness.alternated({name: lambda name=name: calls.append(name) or len(calls) for name in "AB"}, 3)
    assert "".join(calls) == "ABBAAB"
    assert found == {"A": [1, 4, 5], "B": [2, 3, 6]}


def test_table_has_a_column_per_key():
    text = harness.table([{"name": "a", "rate": harness.Spread(1234.5, 1.0, 2000.0, 0.25)}, {"name": "b", "MB": 3}])
    assert text.splitlines() == [
        "| name | rate | MB |",
        "|---|---|---|",
        "| a | 1,234 (1 to 2,000, IQR 0.25) |  |",
        "| b |  | 3 |",
    ]


def test_share_of_peak_uses_the_row_s_dtype():
    report = harness.Report("x", [{"dtype": "bfloat16", "model GFLOP/s": 50.0}, {"dtype": "float32"}])
    harness.finish(report, {"gemm_gflops": {"float32": 100.0, "bfloat16": 200.0}})
    assert report.rows[0]["share of peak"] == "25.0%"
    assert "share of peak" not in report.rows[1]


def test_chosen_benchmarks_follow_names_and_data():
    assert run.chosen([], real=False) == ["start_up", "comparison", "scaling"]
    assert run.chosen(["frozen_sweep", "start_up"], real=True) == ["start_up", "frozen_sweep"]
    with pytest.raises(SystemExit, match="trainn is no benchmark"):
        run.chosen(["trainn"], real=True)


def test_unknown_choices_of_a_benchmark_end_in_a_sentence(tmp_path):
    options = harness.Options(None, 1, 1, None, "processes", [], None, tmp_path)
    with pytest.raises(SystemExit, match="--batches has no 9 movies: choose among 8 movies, 2048 tokens, 4096 tokens"):
        fine_tuning.measure(options, ["9 movies"])
    with pytest.raises(SystemExit, match="no command's name holds --only=nosuch: choose among train --help, "):
        start_up.measure(options, "nosuch")


def test_flops_of_a_layer_by_hand():
    # One text of one token: 2 per weight forward, 4 backward; scores and weighted sums are two products of d numbers each.
    weights = 4 * 8 * 8 + 2 * 8 * 16
    assert training_flops([1], Shape(1, 2, 8, 16)) == 6 * weights + 3 * (2 * 8 + 2 * 8)
    assert training_flops([2, 2], SMALL) == 2 * training_flops([2], SMALL)


def test_dropout_by_a_bank_has_its_rate_and_keeps_the_expectation():
    torch.manual_seed(0)
    masks = Masks(torch.float32)
    mask, other = masks.of((1000, 333)), masks.of((1000, 333))
    assert float((mask == 0).float().mean()) == pytest.approx(DROPOUT, abs=0.002)
    assert float(mask.mean()) == pytest.approx(1, abs=0.003) and not torch.equal(mask, other)


def test_attention_by_hand_equals_torch():
    torch.manual_seed(0)
    qkv = torch.randn(sum(LENGTHS), 3 * SMALL.width, dtype=torch.float64, requires_grad=True)
    groups = packed([torch.zeros(n, dtype=torch.int64) for n in LENGTHS]).groups
    assert any(group.empty is not None for group in packed([torch.zeros(n, dtype=torch.int64) for n in (20, 21)]).groups)
    parts = []
    for text in qkv.split(LENGTHS):
        q, k, v = text.view(-1, 3, SMALL.heads, SMALL.width // SMALL.heads).permute(1, 2, 0, 3)
        parts.append(F.scaled_dot_product_attention(q, k, v).transpose(0, 1).flatten(1))
    found, expected = Attention.apply(qkv, groups, SMALL.heads), torch.cat(parts)
    weight = torch.randn_like(expected)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        *(torch.autograd.grad((out * weight).sum(), qkv, retain_graph=True)[0] for out in (found, expected))
    )


class Bert(Encoder):
    """A BERT with random weights, run by the transformers library."""

    dim = SMALL.width
    fingerprint = "bert"

    def __init__(self) -> None:
        super().__init__("text", pretrained=True, freeze="none", normalise="layer", dropout=0.0)

    def _load(self) -> nn.Module:
        from transformers import BertConfig, BertModel

        sizes = {"hidden_size": SMALL.width, "intermediate_size": SMALL.inner, "num_hidden_layers": SMALL.layers}
        config = BertConfig(vocab_size=50, num_attention_heads=SMALL.heads, max_position_embeddings=32, **sizes)
        return BertModel(config, add_pooling_layer=False)

    def forward(self, inputs: TokenInputs) -> Features:
        out = self.network(input_ids=inputs.ids, attention_mask=inputs.mask.long()).last_hidden_state
        return Features(masked_mean(out, inputs.mask))


@pytest.fixture
def model() -> MovieGenreClassifier:
    torch.manual_seed(0)
    image = Vector("image", dim=6, freeze="all", normalise="standardise", dropout=0.5)
    encoders: dict[str, Encoder] = {"text": Bert(), "image": image}
    encoders["text"].build()
    labels = torch.rand(20, 4).numpy() > 0.4
    made = MovieGenreClassifier(encoders, GMU("original", {"text": SMALL.width, "image": 6}, bias=True), 4, WeightedBCE(labels))
    made.normalisers["image"].fit([torch.randn(30, 6) * 3 + 1])
    return made.eval()


def test_loop_by_hand_has_our_loss_and_gradients(model):
    torch.manual_seed(1)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    ids = torch.randint(1, 50, mask.shape) * mask
    present = torch.tensor([[True, True], [True, False], [True, True], [True, True]])
    labels = (torch.rand(4, 4) > 0.5).float()
    inputs = {"text": TokenInputs(ids, mask), "image": Features(torch.randn(4, 6))}
    batch = MovieBatch(("a", "b", "c", "d"), inputs, present, labels)

    w, scale = raw_loop.weights_of(model), model.normalisers["image"]
    own = raw_loop.converted(batch, scale.mean, scale.std)
    by_hand = model.loss(raw_loop.logits_of(w, own, SMALL, None), own.labels)
    loss = model.loss(model(batch).logits.float(), labels)
    torch.testing.assert_close(by_hand, loss)

    by_hand.backward(), loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(w[name].grad, parameter.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_narrow_weights_by_hand_follow_their_wide_copies():
    w = {f"{raw_loop.BERT}a": torch.randn(4, requires_grad=True), "head": torch.randn(4, requires_grad=True)}
    own = raw_loop.narrowed(w, torch.bfloat16)
    assert own["head"] is w["head"] and raw_loop.narrowed(w, torch.float32) == w
    (own[f"{raw_loop.BERT}a"].float() * torch.arange(4.0)).sum().backward()
    raw_loop.widen(w, own)
    assert torch.equal(w[f"{raw_loop.BERT}a"].grad, torch.arange(4.0)) and own[f"{raw_loop.BERT}a"].grad is None
    with torch.no_grad():
        w[f"{raw_loop.BERT}a"].add_(1)
    raw_loop.renew(w, own)
    assert torch.equal(own[f"{raw_loop.BERT}a"], w[f"{raw_loop.BERT}a"].bfloat16())


@pytest.mark.parametrize(
    ("name", "fusion"),
    [
        ("mean", Mean),
        ("concat", Concat),
        ("gmu_original", lambda sizes: GMU("original", sizes, 256, bias=True)),
        ("gmu_hier", lambda sizes: GMU("hier", sizes, 256, bias=True)),
        ("gmu_softmax", lambda sizes: GMU("softmax", sizes, 256, bias=True)),
    ],
)
def test_plain_head_equals_our_fusion(name, fusion):
    torch.manual_seed(0)
    sizes = {"text": 5, "image": 7}
    ours, plain = fusion(sizes), raw_heads.Head(name, list(sizes.values()), 3)
    head = ours.head(3)
    with torch.no_grad():
        for own, other in zip([*ours.parameters(), *head.parameters()], plain.parameters(), strict=True):
            other.copy_(own)
    inputs = {m: torch.randn(4, size) for m, size in sizes.items()}
    torch.testing.assert_close(plain(list(inputs.values())), head(ours(inputs)))


def test_floor_has_our_scores():
    random = np.random.default_rng(0)
    truth, logits = random.random((40, 5)) > 0.6, random.normal(size=(40, 5))
    expected = scores(truth, 1 / (1 + np.exp(-logits)), list("abcde"))
    given = torch.from_numpy(truth).float(), torch.from_numpy(logits)
    assert raw_heads.average_precision(*given) == pytest.approx(expected["ap_micro"], abs=1e-6)
    assert raw_heads.f1(*given) == pytest.approx(expected["f1_micro"], abs=1e-6)


def test_turns_are_whole_steps_of_one_epoch(monkeypatch):
    """An epoch has seven steps of two movies; three steps warm up, and the last step of epoch 1 completes no turn of four."""
    read_commands, commands = os.pipe()
    reports, write_reports = os.pipe()
    monkeypatch.setenv(workers.DESCRIPTORS, f"{read_commands},{write_reports}")
    turns = workers.Turns(movies=4, threads=1)
    os.write(commands, b"go\n" * 100)
    for epoch in range(2):
        for step in range(7):
            turns.boundary(first=step == 0)
            turns.took(movies=2, tokens=10 * epoch + step)
    turns._reports.close()
    found = [json.loads(line) for line in os.fdopen(reports).read().splitlines()]
    assert [(turn["movies"], turn["steps"], turn["tokens"]) for turn in found] == [
        (4, 2, 3 + 4),
        (4, 2, 21),
        (4, 2, 25),
        (4, 2, 29),
    ]


def test_family_has_a_process_and_its_descendants():
    found = load.family(os.getpid())
    assert os.getpid() in found
    assert os.getppid() not in found


def test_others_take_what_the_cores_worked_without_us(monkeypatch):
    moments = iter([(10.0, 100.0, 30.0), (14.0, 106.0, 34.0)])  # wall, seconds of all cores, own seconds
    monkeypatch.setattr(load.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(load.Watch, "_now", lambda self: next(moments))
    with load.Watch() as watch:
        pass
    assert watch.share == (6 - 4) / (4 * 2)


def test_disturbed_rounds_are_named():
    found = load.Rounds({"ours": None, "plain": None})
    found.others = {"ours": [0.01, 0.2], "plain": [0.02, None]}
    line = load.others_in_words(load.others_in({"text": found, "other": [1]}))
    assert "2.0% of the cores' time in the median, and at most 20.0%" in line
    assert line.endswith("more than 5%**: text: ours in round 2 (20.0%).")
    assert "Disturbed" not in load.others_in_words({"a": [0.05]})


def test_cost_waits_for_processes_that_outlive_the_command(tmp_path):
    late = f"import time; time.sleep(0.5); open({str(tmp_path / 'late')!r}, 'w')"
    workers.cost(["-c", f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {late!r}])"], tmp_path / "log", 1)
    assert (tmp_path / "late").exists()


def test_the_benchmark_of_a_gpu_says_that_it_needs_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"^gpu needs a CUDA device, and torch sees none: "):
        gpu.refuse_without_device()


def test_a_head_s_step_trains(monkeypatch):
    monkeypatch.setattr(gpu_parts, "MOVIES", 80)
    step = gpu_parts.HeadStep(torch.device("cpu"))
    before = step.model.head.bias.detach().clone()
    assert step.microseconds(steps=1) > 0
    assert not torch.equal(before, step.model.head.bias)


def test_a_slow_pipeline_is_named():
    assert "It is no limit" in gpu_parts.pipeline_note([20.0], 10.0)
    assert "**It is the limit**" in gpu_parts.pipeline_note([5.0], 10.0)
