"""Every sequence reads every other; what is no sequence goes to the gate as it is; what is absent is read by nobody."""

from __future__ import annotations

import pytest
import torch

from gmu_lightning.fusion import GMU, MulTGMU
from gmu_lightning.fusion.mult import last
from gmu_lightning.movie import Features, UserError

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


def test_parameters_of_every_ordered_pair_and_of_every_reader():
    fusion = made(("text", "video", "audio"), {"text": 4, "video": 4, "audio": 4}, layers=2)

    def layer(d: int) -> int:
        attention, feed_forward, norms = 4 * (d * d + d), (4 * d * d + 4 * d) + (4 * d * d + d), 2 * 2 * d
        return attention + feed_forward + norms

    assert numbers(fusion.crossmodal) == 6 * (2 * layer(4) + 2 * 4)
    assert numbers(fusion.memory) == 3 * (3 * layer(8) + 2 * 8)
    assert fusion.gmu.sizes == {"text": 8, "video": 8, "audio": 8}
    assert not len(fusion.project)


def test_it_is_the_gate_over_what_each_has_read():
    fusion, inputs = made(), movies()
    (_, text, mask), (_, video, _) = inputs["text"], inputs["video"]
    text = text @ fusion.project["text"].weight.T  # the video is of the common size already
    crossed = fusion.crossmodal["text"]["video"](text, mask, video), fusion.crossmodal["video"]["text"](video, mask, text)
    read = [last(fusion.memory[m](x, mask), mask) for m, x in zip(("text", "video"), crossed, strict=True)]
    expected = fusion.gmu({"text": read[0], "video": read[1], "metadata": inputs["metadata"].vector})
    found = fusion(inputs)
    for name in ("vector", "parts", "gates"):
        assert torch.allclose(getattr(found, name), getattr(expected, name))


def test_what_is_no_sequence_enters_the_gate_directly():
    fusion = made(())
    gate = GMU("original", SIZES, 4, bias=True).double()
    gate.load_state_dict(fusion.gmu.state_dict())
    assert numbers(fusion) == numbers(gate)
    inputs = movies(())
    assert torch.equal(fusion(inputs).vector, gate({m: x.vector for m, x in inputs.items()}).vector)


def test_a_lone_sequence_reads_itself():
    fusion, inputs = made(("video",)), movies(("video",))
    _, video, mask = inputs["video"]
    expected = last(fusion.memory["video"](video, mask), mask)
    assert fusion.gmu.sizes == {"text": 3, "video": 4, "metadata": 5}
    vectors = {m: x.vector for m, x in inputs.items()} | {"video": expected}
    assert torch.allclose(fusion(inputs).vector, fusion.gmu(vectors).vector)


def test_what_a_modality_shows_reaches_the_others_only_while_it_is_there():
    fusion, inputs = made(), movies()
    other = inputs | {"video": inputs["video"]._replace(sequence=inputs["video"].sequence.flip(2))}
    for there, reached in ((True, True), (False, False)):
        present = torch.tensor([[True, there, True]] * 2)
        a, b = (fusion(x, present).parts[:, 0] for x in (inputs, other))
        assert torch.allclose(a, b) != reached


def test_a_batch_without_any_sequence_of_a_modality_is_one_where_it_is_absent():
    fusion, inputs = made(), movies()
    present = torch.tensor([[True, False, True]] * 2)
    without = inputs | {"video": Features(torch.zeros(2, 4, dtype=torch.float64))}
    assert torch.allclose(fusion(without, present).vector, fusion(inputs, present).vector)


@pytest.mark.parametrize(("variant", "threshold"), [("original", 0.5), ("hier", 1 / 3), ("softmax", 1 / 3)])
def test_any_gate_may_weigh(variant, threshold):
    fusion = made(variant=variant)
    assert fusion.gmu.variant == variant
    assert fusion.open_threshold == threshold


def test_the_last_step_is_the_last_real_one():
    sequence = torch.arange(6.0).view(2, 3, 1)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert last(sequence, mask).tolist() == [[1], [3]]


def test_no_layer_ends_in_a_sentence():
    with pytest.raises(UserError, match=r"fusion.layers=0: give 1 or more"):
        made(layers=0)
