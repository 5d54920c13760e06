"""Balanced training: the published steps, exact limits, absent modalities, and refusals."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmu_lightning.balance import OGMGE, PlainTraining, UnimodalLoss
from gmu_lightning.callbacks import Modulation, noise_generator
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.fusion import GMU, Concat, Fusion, Late, Max, MixtureOfExperts, SelfGate
from gmu_lightning.losses import CrossEntropy, WeightedBCE
from gmu_lightning.model import MovieGenreClassifier
from gmu_lightning.movie import Features, MovieBatch, UserError
from gmu_lightning.nn.dropout import Dropout

SIZES = {"audio": 5, "image": 4}
WIDTH, GENRES, B, STEPS = 7, 3, 12, 6
RATE = 0.1
PUBLISHED = {"alpha": 0.4, "starts": 0, "ends": 1}


class Network(Encoder):
    """Return relu(W x + b)."""

    def __init__(self, modality: str, dropout: float = 0.0):
        super().__init__(modality, pretrained=False, normalise="none", dropout=dropout)

    @property
    def dim(self) -> int:
        return WIDTH

    def _load(self) -> nn.Module:
        return nn.Linear(SIZES[self.modality], WIDTH)

    def forward(self, inputs: Tensor) -> Features:
        return Features(torch.relu(self.network(inputs)))


def model_of(balance: PlainTraining | None, fusion: Fusion | None = None, loss: nn.Module | None = None, **options):
    torch.manual_seed(0)
    encoders = {m: Network(m, **options) for m in SIZES}
    for encoder in encoders.values():
        encoder.build()
    fusion = fusion or Concat(dict.fromkeys(SIZES, WIDTH), hidden=False)
    single = loss is None
    loss = loss or CrossEntropy(torch.eye(GENRES).bool().numpy())
    return MovieGenreClassifier(encoders, fusion, GENRES, loss, "multiclass" if single else "multilabel", balance=balance)


def batches(count: int = STEPS, present: Tensor | None = None, single: bool = True) -> list[MovieBatch]:
    """Return batches whose audio shows the genre much better than the image does."""
    generator = torch.Generator().manual_seed(7)
    found = []
    for _ in range(count):
        genre = torch.randint(GENRES, (B,), generator=generator)
        labels = F.one_hot(genre, GENRES).float()
        if not single:
            labels = torch.maximum(labels, (torch.rand(B, GENRES, generator=generator) > 0.7).float())
        clear = {"audio": 2.0, "image": 0.2}
        inputs = {}
        for m, d in SIZES.items():
            inputs[m] = torch.randn(B, d, generator=generator)
            inputs[m][:, :GENRES] += clear[m] * labels
        there = torch.ones(B, 2, dtype=torch.bool) if present is None else present
        found.append(MovieBatch(tuple(map(str, range(B))), inputs, there, labels))
    return found


def trained(model: MovieGenreClassifier, given: list[MovieBatch], epochs: int = 1, accumulate: int = 1) -> MovieGenreClassifier:
    """Train as Lightning does: the hooks in its order, around plain SGD."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    trainer = SimpleNamespace(current_epoch=0, strategy=SimpleNamespace(reduce=lambda tensor, reduce_op: tensor))
    modulation = Modulation(seed=3)
    for epoch in range(epochs):
        trainer.current_epoch = epoch
        for n, batch in enumerate(given):
            torch.manual_seed(100 * epoch + n)  # of dropout
            modulation.on_train_batch_start(trainer, model, batch, n)
            (model.training_step(batch, n) / accumulate).backward()
            if (n + 1) % accumulate == 0:
                if model.balance.modulates:
                    modulation.on_before_optimizer_step(trainer, model, optimizer)
                optimizer.step()
                optimizer.zero_grad()
    return model


class Published(nn.Module):
    """Two networks, side by side, and one linear layer, as in the published code."""

    def __init__(self, weights: dict[str, Tensor]):
        super().__init__()
        self.audio_net, self.visual_net = (nn.Linear(d, WIDTH) for d in SIZES.values())
        self.fc_out = nn.Linear(2 * WIDTH, GENRES)
        names = {"audio_net": "encoders.audio.network", "visual_net": "encoders.image.network", "fc_out": "head"}
        self.load_state_dict({f"{a}.{kind}": weights[f"{b}.{kind}"] for a, b in names.items() for kind in ("weight", "bias")})

    def forward(self, batch: MovieBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the logits, and those of each modality: its half of the layer, with half of the bias."""
        a, v = torch.relu(self.audio_net(batch.inputs["audio"])), torch.relu(self.visual_net(batch.inputs["image"]))
        half = self.fc_out.bias / 2
        out_a, out_v = a @ self.fc_out.weight[:, :WIDTH].T + half, v @ self.fc_out.weight[:, WIDTH:].T + half
        return self.fc_out(torch.cat([a, v], dim=1)), out_a, out_v


def published_ogm_ge(model: Published, noise: bool) -> list[tuple[float, float]]:
    """Train as github.com/GeWu-Lab/OGM-GE_CVPR2022 does in main.py, train_epoch. Return the coefficients of audio and image."""
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    seen = []
    for epoch in range(3):
        for step, batch in enumerate(batches()):
            label = batch.labels.argmax(1)
            optimizer.zero_grad()
            out, out_a, out_v = model(batch)
            F.cross_entropy(out, label).backward()
            score_v = sum(torch.softmax(out_v, dim=1)[i][label[i]] for i in range(B)).item()
            score_a = sum(torch.softmax(out_a, dim=1)[i][label[i]] for i in range(B)).item()
            coeff_a = coeff_v = 1.0
            if score_v / score_a > 1:
                coeff_v = 1 - torch.tanh(torch.tensor(PUBLISHED["alpha"] * score_v / score_a)).item()
            else:
                coeff_a = 1 - torch.tanh(torch.tensor(PUBLISHED["alpha"] * score_a / score_v)).item()
            seen.append((coeff_a, coeff_v))
            generator = noise_generator(3, epoch, step, torch.device("cpu"))
            if PUBLISHED["starts"] <= epoch <= PUBLISHED["ends"]:
                for name, p in model.named_parameters():
                    coeff = coeff_a if "audio" in name else coeff_v
                    if "net" in name and p.ndim > 1:
                        extra = torch.zeros_like(p).normal_(0, p.grad.std().item() + 1e-8, generator=generator)
                        p.grad = p.grad * coeff + (extra if noise else 0)
            optimizer.step()
    return seen


def published_unimodal_loss(model: Published, weight: float) -> None:
    """Train on the joint loss plus the weighted losses of the modalities, as BalanceBenchmark's GBlending_trainer.py does."""
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    for batch in batches() * 3:
        label = batch.labels.argmax(1)
        optimizer.zero_grad()
        weights = (1.0, weight, weight)
        sum(w * F.cross_entropy(logits, label) for w, logits in zip(weights, model(batch), strict=True)).backward()
        optimizer.step()


def assert_equal_weights(model: MovieGenreClassifier, reference: Published) -> None:
    other = Published(dict(model.state_dict()))
    for (name, found), expected in zip(other.named_parameters(), reference.parameters(), strict=True):
        assert torch.allclose(found, expected, rtol=0, atol=1e-6), name


@pytest.mark.parametrize("noise", [False, True])
def test_ogm_ge_trains_as_the_published_code(noise):
    model = model_of(OGMGE(noise=noise, **PUBLISHED))
    reference = Published(dict(model.state_dict()))
    coefficients = published_ogm_ge(reference, noise)
    assert min(a for a, _ in coefficients) < 0.7 and (1.0, 1.0) not in coefficients
    assert_equal_weights(trained(model, batches(), epochs=3), reference)


def test_unimodal_loss_trains_as_the_published_code():
    model = model_of(UnimodalLoss(weight=0.7))
    reference = Published(dict(model.state_dict()))
    published_unimodal_loss(reference, 0.7)
    assert_equal_weights(trained(model, batches(), epochs=3), reference)


LIMITS = {
    "alpha=0 without noise": OGMGE(alpha=0.0, noise=False),
    "another epoch": OGMGE(starts=5),
    "weight=0": UnimodalLoss(weight=0.0),
}
FUSIONS = {
    "concat": lambda sizes: Concat(sizes, 6),
    "gmu": lambda sizes: GMU("softmax", sizes, 6),
    "self_gate": lambda sizes: SelfGate(sizes, 6),
    "late": lambda sizes: Late(sizes, 6),
    "moe": lambda sizes: MixtureOfExperts(sizes, 6),
}


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_at_its_limit_a_method_trains_as_none(limit, fusion):
    present = torch.ones(B, 2, dtype=torch.bool)
    present[:3, 0] = present[3:5, 1] = False
    given = batches(present=present, single=False)
    states = []
    for balance in (None, LIMITS[limit]):
        torch.manual_seed(1)
        made = FUSIONS[fusion](dict.fromkeys(SIZES, WIDTH))
        loss = WeightedBCE(torch.eye(GENRES).bool().numpy())
        states.append(trained(model_of(balance, made, loss, dropout=0.3), given, epochs=2).state_dict())
    assert all(torch.equal(states[1][name], value) for name, value in states[0].items())


def scores_of(model: MovieGenreClassifier, batch: MovieBatch) -> Tensor:
    model.seen = None
    model.training_step(batch, 0)
    return model.seen


def test_only_the_stronger_modality_is_slowed():
    model = trained(model_of(OGMGE(noise=False)), batches(), epochs=2)
    audio, image = OGMGE(alpha=0.3).coefficients(scores_of(model, batches()[0])).tolist()
    assert audio < 0.7 and image == 1.0


def test_three_modalities_have_the_mean_of_pairwise_ratios():
    sums = torch.tensor([[0.8 * 4, 4.0], [0.4 * 4, 4.0], [0.2 * 8, 8.0]])
    found = OGMGE(alpha=0.1).coefficients(sums)
    ratios = torch.tensor([(0.8 / 0.4 + 0.8 / 0.2) / 2, (0.4 / 0.8 + 0.4 / 0.2) / 2])
    assert torch.allclose(found, torch.cat([1 - torch.tanh(0.1 * ratios), torch.ones(1)]), atol=1e-6)


def test_a_modality_without_movies_has_no_coefficient():
    sums = torch.tensor([[0.8 * 4, 4.0], [0.0, 0.0], [0.2 * 8, 8.0]])
    found = OGMGE(alpha=0.1).coefficients(sums)
    assert torch.allclose(found, torch.tensor([1 - torch.tanh(torch.tensor(0.4)), 1.0, 1.0]), atol=1e-6)
    assert OGMGE().coefficients(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("single", [True, False])
def test_scores_are_probabilities_of_true_labels_where_present(single):
    present = torch.ones(B, 2, dtype=torch.bool)
    present[:4, 1] = False
    loss = None if single else WeightedBCE(torch.eye(GENRES).bool().numpy())
    model = model_of(OGMGE(), loss=loss)
    (batch,) = batches(1, present, single)
    split = model(batch, split=True)
    chance = torch.softmax(split.unimodal, -1) if single else torch.sigmoid(split.unimodal)
    found = scores_of(model, batch)
    for m, rows in enumerate((range(B), range(4, B))):
        true = [chance[n, m, c].item() for n in rows for c in range(GENRES) if batch.labels[n, c]]
        assert found[m].tolist() == pytest.approx([sum(true), len(true)])


def test_present_modalities_predictions_sum_to_the_logits():
    present = torch.ones(B, 2, dtype=torch.bool)
    present[:4, 1] = False
    (batch,) = batches(1, present)
    split = model_of(OGMGE())(batch, split=True)
    total = torch.where(present[..., None], split.unimodal, 0.0).sum(dim=1)
    assert torch.allclose(total, split.logits, atol=1e-6)


def test_an_absent_modality_has_no_loss_of_its_own():
    def gradients(weight: float) -> list[Tensor]:
        model = model_of(UnimodalLoss(weight))
        present = torch.tensor([[True, False]]).expand(B, 2)
        model.training_step(batches(1, present)[0], 0).backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    # Every movie has audio alone, whose own prediction is the fused one.
    assert all(torch.allclose(three, 3 * one, atol=1e-6) for one, three in zip(gradients(0.0), gradients(2.0), strict=True))


def test_an_absent_movie_weighs_nothing_in_a_modalitys_loss():
    model = model_of(UnimodalLoss(1.0))
    present = torch.ones(B, 2, dtype=torch.bool)
    present[:4, 1] = False
    (batch,) = batches(1, present)
    split = model(batch, split=True)
    each = [F.cross_entropy(split.unimodal[:, m], batch.labels, reduction="none") for m in range(2)]
    joint = F.cross_entropy(split.logits, batch.labels, reduction="none")
    expected = (joint + torch.where(present[:, 0], each[0], 0.0) + torch.where(present[:, 1], each[1], 0.0)).mean()
    parameters = list(model.parameters())
    found = torch.autograd.grad(model.training_step(batch, 0), parameters)
    for a, b in zip(found, torch.autograd.grad(expected, parameters), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_an_accumulated_update_is_that_of_one_larger_batch():
    given = batches(4, single=False)
    loss = WeightedBCE(torch.eye(GENRES).bool().numpy())
    larger = [
        MovieBatch(
            (*a.ids, *b.ids),
            {m: torch.cat([a.inputs[m], b.inputs[m]]) for m in SIZES},
            torch.cat([a.present, b.present]),
            torch.cat([a.labels, b.labels]),
        )
        for a, b in list(pairwise(given))[::2]
    ]
    one = trained(model_of(OGMGE(noise=False), loss=loss), given, accumulate=2).state_dict()
    other = trained(model_of(OGMGE(noise=False), loss=loss), larger).state_dict()
    assert all(torch.allclose(other[name], value, atol=1e-6) for name, value in one.items())


def test_weights_of_a_modality_are_its_own_matrices():
    sizes = dict.fromkeys(SIZES, WIDTH)
    assert model_of(None, GMU("softmax", sizes, 6, bias=True)).modality_weights() == [
        [f"encoders.{m}.network.weight", f"fusion.hidden.{m}.weight", f"fusion.transform.{m}.weight"] for m in SIZES
    ]
    assert model_of(None, SelfGate(sizes, 6)).modality_weights()[0][1:] == [
        f"fusion.{part}.audio.weight" for part in ("hidden", "gate")
    ]


def test_a_frozen_encoder_has_no_weights_to_change():
    encoders = {m: Network(m) for m in SIZES}
    encoders["audio"].freeze = "all"
    for encoder in encoders.values():
        encoder.build()
    model = MovieGenreClassifier(encoders, Concat(dict.fromkeys(SIZES, WIDTH), hidden=False), GENRES, nn.BCEWithLogitsLoss())
    assert model.modality_weights() == [[], ["encoders.image.network.weight"]]


def test_noise_has_the_gradients_deviation_and_leaves_other_generators():
    before, gradient = torch.random.get_rng_state(), torch.linspace(-2, 2, 90_000).view(300, 300)
    found = gradient.clone()
    OGMGE(alpha=0.0).modulate(torch.ones(1, 2), [[found]], noise_generator(1, 2, 3, torch.device("cpu")))
    assert (found - gradient).std().item() == pytest.approx(gradient.std().item(), rel=0.01)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_fusion_without_parts_ends_in_a_sentence():
    model = model_of(UnimodalLoss(), Max(dict.fromkeys(SIZES, WIDTH), 6))
    with pytest.raises(UserError, match=r"UnimodalLoss reads logits of single modalities, and Max gives none: return `parts`"):
        model.training_step(batches(1)[0], 0)


def test_dropout_masks_are_those_of_plain_training():
    model = model_of(UnimodalLoss(), dropout=0.5)
    assert all(isinstance(part, Dropout) for part in model.dropouts.values())
    torch.manual_seed(5)
    split = model.train()(batches(1)[0], split=True)
    torch.manual_seed(5)
    assert torch.equal(split.logits, model(batches(1)[0]).logits)
