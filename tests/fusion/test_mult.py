"""Sequences attend to each other, vectors enter the gate by a projection, and absent modalities have no effect."""

from __future__ import annotations

import pytest
import torch

from gmu_lightning.fusion import MulTGMU
from gmu_lightning.fusion.mult import last
from gmu_lightning.movie import Features

SIZES = {"text": 3, "video": 4, "metadata": 5}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def made(sequences: tuple[str, ...] = ("text", "video"), sizes: dict[str, int] = SIZES, **options) -> MulTGMU:
    torch.manual_seed(0)
    return MulTGMU(sizes, sequences, **{"dim": 4, "layers": 1, "heads": 1} | options).double().eval()


def movies(sequences: tuple[str, ...] = ("text", "video"), sizes: dict[str, int] = SIZES) -> dict[str, Features]:
    torch.manual_seed(1)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    inputs = {}
    for m, d in sizes.items():
        vector, sequence = torch.randn(2, d, dtype=torch.float64), torch.randn(2, 3, d, dtype=torch.float64)
        inputs[m] = Features(vector, sequence, mask) if m in sequences else Features(vector)
    return inputs


def numbers(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_number_of_parameters():
    fusion = made(("text", "video", "audio"), {"text": 4, "video": 4, "audio": 4}, layers=2)

    def layer(d: int) -> int:
        attention, feed_forward, norms = 4 * (d * d + d), (4 * d * d + 4 * d) + (4 * d * d + d), 2 * 2 * d
        return attention + feed_forward + norms

    assert numbers(fusion.crossmodal) == 6 * (2 * layer(4) + 2 * 4)
    assert numbers(fusion.memory) == 3 * (3 * layer(8) + 2 * 8)
    assert fusion.gmu.sizes == {"text": 8, "video": 8, "audio": 8}
    assert not len(fusion.project)


def test_result_is_the_gmu_of_the_transformers_last_steps():
    fusion, inputs = made(), movies()
    (_, text, mask), (_, video, _) = inputs["text"], inputs["video"]
    text = text @ fusion.project["text"].weight.T  # the video is of the common size already
    crossed = fusion.crossmodal["text"]["video"](text, mask, video), fusion.crossmodal["video"]["text"](video, mask, text)
    read = [last(fusion.memory[m](x, mask), mask) for m, x in zip(("text", "video"), crossed, strict=True)]
    layer = fusion.project["metadata"]
    table = inputs["metadata"].vector @ layer.weight.T + layer.bias  # with a bias, unlike a sequence's
    expected = fusion.gmu({"text": read[0], "video": read[1], "metadata": table})
    found = fusion(inputs)
    for name in ("vector", "parts", "gates"):
        assert torch.allclose(getattr(found, name), getattr(expected, name))


def test_vectors_enter_the_gmu_through_a_biased_projection():
    fusion = made(())
    assert numbers(fusion) == numbers(fusion.gmu) + sum(4 * d + 4 for d in SIZES.values())
    assert fusion.gmu.sizes == dict.fromkeys(SIZES, 4)
    inputs = movies(())
    projected = {m: fusion.project[m](x.vector) for m, x in inputs.items()}
    assert torch.equal(fusion(inputs).vector, fusion.gmu(projected).vector)


def test_absent_nan_vector_leaves_gradients_zero():
    fusion, inputs = made(), movies()
    inputs["metadata"] = Features(torch.full((2, 5), float("nan"), dtype=torch.float64))
    fusion(inputs, torch.tensor([[True, True, False]] * 2)).vector.sum().backward()
    gradients = fusion.project["metadata"].weight.grad, fusion.project["metadata"].bias.grad
    assert not any(gradient.any() for gradient in gradients)


def test_lone_sequence_attends_to_itself():
    fusion, inputs = made(("video",)), movies(("video",))
    _, video, mask = inputs["video"]
    expected = last(fusion.memory["video"](video, mask), mask)
    vectors = {m: fusion.project[m](inputs[m].vector) for m in ("text", "metadata")} | {"video": expected}
    assert torch.allclose(fusion(inputs).vector, fusion.gmu(vectors).vector)


def test_only_a_present_sequence_changes_the_others():
    fusion, inputs = made(), movies()
    other = inputs | {"video": inputs["video"]._replace(sequence=inputs["video"].sequence.flip(2))}
    for there, reached in ((True, True), (False, False)):
        present = torch.tensor([[True, there, True]] * 2)
        a, b = (fusion(x, present).parts[:, 0] for x in (inputs, other))
        assert torch.allclose(a, b) != reached


def test_missing_sequences_equal_an_absent_modality():
    fusion, inputs = made(), movies()
    present = torch.tensor([[True, False, True]] * 2)
    without = inputs | {"video": Features(torch.zeros(2, 4, dtype=torch.float64))}
    assert torch.allclose(fusion(without, present).vector, fusion(inputs, present).vector)


@pytest.mark.parametrize(("variant", "threshold"), [("original", 0.5), ("hier", 1 / 3), ("softmax", 1 / 3)])
def test_variant_selects_the_gate(variant, threshold):
    fusion = made(variant=variant)
    assert fusion.gmu.variant == variant
    assert fusion.open_threshold == threshold


def test_last_returns_the_last_real_step():
    sequence = torch.arange(6.0).view(2, 3, 1)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert last(sequence, mask).tolist() == [[1], [3]]


def test_dropout_follows_the_source_modality():
    sizes = {"text": 4, "video": 4, "audio": 4}
    fusion = made(tuple(sizes), sizes, dropout=0.1, attention_dropout={"video": 0.0, "audio": 0.2}, embedding_dropout=0.25)
    for m, readers in fusion.crossmodal.items():
        for k, transformer in readers.items():
            assert transformer.layers[0].attention.dropout == {"text": 0.1, "video": 0.0, "audio": 0.2}[k], (m, k)
            assert transformer.dropout.p == 0.25
            assert transformer.layers[0].dropout.p == 0.1
    assert {memory.layers[0].attention.dropout for memory in fusion.memory.values()} == {0.1}
    assert {memory.dropout.p for memory in fusion.memory.values()} == {0.25}
