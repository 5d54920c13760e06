"""Every backend gives the features that torch gives, and the runner names the backend."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from gmu_lightning.config.schema import EncodeConfig
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.encoders.image import TimmImage
from gmu_lightning.encoders.text.huggingface import HuggingFaceText
from gmu_lightning.features import runner as runners
from gmu_lightning.features.runner import Sample, difference, run, runner, worth_converting
from gmu_lightning.movie import Features, UserError

CPU = torch.device("cpu")
MANY = 10**6


def text(folder, **options):
    encoder = HuggingFaceText(str(folder), max_tokens=32, freeze="all", **options)
    encoder.build()
    return encoder.eval()


def texts(encoder, lengths, seed=0):
    random = np.random.default_rng(seed)
    return encoder.preparation.batch([random.integers(3, 20, size=n).astype(np.int32) for n in lengths], False)


def sample_of(encoder):
    return lambda: Sample(texts(encoder, [2, 5, 9, 17]), texts(encoder, [2]))


def made(encoder, backend, precision="float32", sample=None, contents=MANY, **options):
    given = sample or sample_of(encoder)
    return runner(encoder, EncodeConfig(backend=backend, precision=precision), CPU, given, contents=contents, cores=2, **options)


@pytest.fixture
def pretend(monkeypatch):
    """Return a function that replaces OpenVINO by another function, of an encoder and inputs."""

    def pretending(function):
        class Pretended:
            def __init__(self, encoder, sample, parts):
                self.encoder = encoder

            def calls(self, precision, cores):
                return [lambda inputs: function(self.encoder, inputs)] * cores

        monkeypatch.setattr(runners, "installed", lambda: True)
        monkeypatch.setattr(runners, "Converted", Pretended)

    return pretending


HEAVY = pytest.mark.heavy  # a conversion takes 10 s


@pytest.mark.parametrize("pool", ["mean", *(pytest.param(pool, marks=HEAVY) for pool in ("cls", "pooler"))])
def test_a_converted_text_encoder_gives_torchs_features(text_folder, pool):
    pytest.importorskip("openvino")
    encoder = text(text_folder(), pool=pool)
    found = made(encoder, "openvino", sequences=True)
    assert found.backend == "openvino" and "checked against torch" in found.note
    for lengths in ([1], [31, 4], [8, 8, 8], [2, 3, 5, 7, 11, 13]):
        inputs = texts(encoder, lengths, seed=len(lengths))
        features, expected = found(inputs), run(encoder, inputs, CPU)
        assert difference(features, expected) < 1e-4
        assert torch.equal(features.mask, expected.mask) and features.sequence.shape == expected.sequence.shape
    assert made(encoder, "openvino")(inputs).sequence is None


def test_a_converted_image_encoder_gives_torchs_features(image_folder):
    pytest.importorskip("openvino")
    encoder = TimmImage(str(image_folder("resnet50")), freeze="all")
    encoder.build()
    pixels = torch.randint(0, 256, (7, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    found = made(encoder.eval(), "openvino", sample=lambda: Sample(pixels[:5], pixels[:1]))
    for inputs in (pixels, pixels[2:3], torch.cat([pixels, pixels])):  # batches are filled up or divided
        assert difference(found(inputs), run(encoder, inputs, CPU)) < 1e-4


@pytest.mark.heavy
def test_openvino_computes_in_bfloat16(text_folder):
    pytest.importorskip("openvino")
    encoder = text(text_folder())
    inputs = texts(encoder, [4, 9])
    exact = run(encoder, inputs, CPU)
    found = made(encoder, "openvino", "bfloat16")
    assert found.precision == "bfloat16" and found(inputs).vector.dtype == torch.float32
    assert difference(found(inputs), exact) < 0.1


def test_torch_computes_in_bfloat16(text_folder):
    encoder = text(text_folder())
    inputs = texts(encoder, [4, 9, 20])
    off = difference(made(encoder, "torch", "bfloat16")(inputs), made(encoder, "torch")(inputs))
    assert 1e-5 < off < 0.1


def test_a_missing_openvino_is_an_error_unless_auto(text_folder, monkeypatch):
    monkeypatch.setattr(runners.importlib.util, "find_spec", lambda name: None)
    encoder = text(text_folder())
    with pytest.raises(UserError, match=r"encode\.backend=openvino: openvino is not installed \(pip install '.*\[openvino\]'\)"):
        made(encoder, "openvino")
    found = made(encoder, "auto")
    assert found.backend == "torch" and "pip install" in found.note


def test_auto_converts_only_for_many_contents(text_folder, pretend):
    pretend(lambda encoder, inputs: run(encoder, inputs, CPU))
    encoder = text(text_folder())
    assert made(encoder, "auto").backend == "openvino"
    few = made(encoder, "auto", contents=10)
    assert few.backend == "torch" and "too few" in few.note and not few.fell_back
    assert made(encoder, "openvino", contents=10).backend == "openvino"
    assert made(encoder, "openvino", contents=0).backend == "torch"


def test_auto_converts_convolutions_earlier_and_on_many_cores_later(text_folder, image_folder):
    convolutions, transformer = TimmImage(str(image_folder("resnet50")), freeze="all"), text(text_folder())
    convolutions.build()
    assert 0 < worth_converting(convolutions, 2) < worth_converting(transformer, 2)
    assert worth_converting(convolutions, 8) == 4 * worth_converting(convolutions, 2)


def fails(encoder, inputs):
    raise RuntimeError("no such operation\nand a page about it")


def slightly_off(encoder, inputs):
    features = run(encoder, inputs, CPU)
    return features._replace(vector=features.vector * (1 + torch.linspace(0, 3e-3, features.vector.shape[1])))


def not_numbers(encoder, inputs):
    features = run(encoder, inputs, CPU)
    return features._replace(vector=torch.full_like(features.vector, torch.nan))


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (fails, r"it cannot run HuggingFaceText \(RuntimeError: no such operation\)"),
        (slightly_off, r"its features differ from torch's by \d\.\de-03"),
        (not_numbers, r"its features differ from torch's by inf"),
    ],
)
def test_a_wrong_or_failing_backend_is_refused(text_folder, pretend, function, sentence):
    pretend(function)
    encoder = text(text_folder())
    with pytest.raises(UserError, match=r"encode\.backend=openvino: " + sentence + r".*; choose encode\.backend=torch$"):
        made(encoder, "openvino")
    found = made(encoder, "auto")
    assert found.backend == "torch" and found.fell_back and found.note.startswith("torch, as openvino was refused: ")
    inputs = texts(encoder, [3, 6])
    assert torch.equal(found(inputs).vector, run(encoder, inputs, CPU).vector)


def test_an_encoder_without_weights_is_never_converted(pretend):
    pretend(fails)

    class Sum(Encoder):
        def forward(self, inputs):
            return Features(inputs.sum(dim=1))

    found = made(Sum("video", pretrained=True, freeze="all"), "openvino", sample=lambda: None)
    assert found.backend == "torch"
    assert found(torch.ones(2, 3, 4)).vector.tolist() == [[3.0] * 4] * 2


def test_the_difference_is_relative_and_ignores_padding():
    expected = Features(torch.tensor([[3.0, -3.0]]), torch.full((1, 2, 2), 2.0), torch.tensor([[True, False]]))
    found = Features(torch.tensor([[3.0, -3.3]]), expected.sequence.clone(), expected.mask)
    assert difference(found, expected) == pytest.approx(0.1, rel=1e-5)
    found.sequence[0, 1] = 100.0
    assert difference(found, expected) == pytest.approx(0.1, rel=1e-5)
    found.sequence[0, 0] = 4.0
    assert difference(found, expected) == pytest.approx(1.0)


def test_threads_have_separate_modules(text_folder):
    """A forward may set attributes, because each thread has separate modules with the same weights."""
    encoder = text(text_folder())
    both = threading.Barrier(2)

    def forward(self, inputs):
        self.noted = inputs.ids
        both.wait(timeout=20)
        return Features(self.noted.float().sum(1, keepdim=True))

    class Noting(HuggingFaceText):
        pass

    Noting.forward = forward
    encoder.__class__ = Noting
    found = made(encoder, "torch")
    inputs = [texts(encoder, [4, 6], seed=seed) for seed in (1, 2)]
    with ThreadPoolExecutor(2) as pool:
        features = list(pool.map(found, inputs))
    for one, each in zip(inputs, features, strict=True):
        assert torch.equal(each.vector[:, 0], one.ids.sum(1).float())
