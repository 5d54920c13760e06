"""Sequences of a frozen encoder are kept as its vectors are, and equal those of the step."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from gmu_lightning import features
from gmu_lightning.data.store import Store, content_digest, prepared
from gmu_lightning.encoders.backends import Encoding
from gmu_lightning.encoders.base import Encoder
from gmu_lightning.features import FeatureColumn, encoded, feature_key, features_of
from gmu_lightning.movie import Features, UserError

CPU = torch.device("cpu")
RNG = np.random.default_rng(0)
CONTENTS = [RNG.normal(size=(t, 3)).astype(np.float32) for t in RNG.integers(1, 9, size=70)]
CONTENTS[4] = None


@dataclass(frozen=True)
class Padded:
    """Rows (T, 3) padded to the longest, with the mask as a column in front."""

    learns, fingerprint = False, "padded"

    def fit(self, contents):
        return self

    def state(self):
        return {}

    def restored(self, state):
        return self

    def store(self, content):
        return content

    def batch(self, rows, training):
        out = torch.zeros(len(rows), max(len(r) for r in rows if r is not None), 4)
        for n, row in enumerate(rows):
            if row is not None:
                out[n, : len(row), 0] = 1
                out[n, : len(row), 1:] = torch.from_numpy(np.array(row))
        return out


class Frames(Encoder):
    """A linear map of every frame, or the frames themselves; the vector is their mean."""

    sequences = True
    dim, fingerprint = 3, "frames"

    def __init__(self, layer):
        super().__init__("video", pretrained=True, freeze="all", normalise="none")
        self.layer, self.preparation = layer, Padded()

    def blocks(self):
        return [self.network]

    def _load(self):
        return self.layer

    def forward(self, inputs):
        mask = inputs[..., 0] > 0
        sequence = self.network(inputs[..., 1:]) * mask[..., None]
        return Features(sequence.sum(1) / mask.sum(1, keepdim=True), sequence, mask)


@pytest.fixture
def column(tmp_path):
    digests = [None if content is None else content_digest(content) for content in CONTENTS]
    return prepared(Store(tmp_path), "video", CONTENTS, digests, np.ones(len(CONTENTS), bool), Padded())


def test_kept_sequences_equal_those_of_the_step(tmp_path, column):
    encoder = Frames(torch.nn.Linear(3, 3))
    kept = encoded(Store(tmp_path), column, encoder, CPU, sequences=True)
    assert isinstance(kept, FeatureColumn)
    encoder.build()
    rows = [7, 0, 69, 12]
    (step,) = features_of(encoder, column, rows, CPU)
    found = kept.batch(rows)
    assert torch.equal(found.mask, step.mask)
    assert torch.allclose(found.sequence, step.sequence, atol=1e-6)
    assert torch.allclose(found.vector, step.vector, atol=1e-6)
    assert kept.lengths.tolist() == [0 if content is None else len(content) for content in CONTENTS]
    assert not kept.batch([4, 0]).mask[0].any()


def test_vectors_alone_are_kept_where_nobody_reads_sequences(tmp_path, column):
    encoder = Frames(torch.nn.Linear(3, 3))
    kept = encoded(Store(tmp_path), column, encoder, CPU)
    assert kept.batch([0, 1]).sequence is None and kept.lengths is None
    assert feature_key(column.key, encoder) != feature_key(column.key, encoder, sequences=True)


def test_features_do_not_depend_on_how_many_cores_there_are(tmp_path, column, monkeypatch):
    encoder, found = Frames(torch.nn.Linear(3, 3)), []
    for cores in (1, 3):
        monkeypatch.setattr(features, "cores", lambda cores=cores: cores)
        found.append(encoded(Store(tmp_path / str(cores)), column, encoder, CPU, sequences=True))
    assert torch.equal(found[0].vectors, found[1].vectors)
    assert np.array_equal(found[0].sequences.batch([7, 0])[0], found[1].sequences.batch([7, 0])[0])


def test_features_of_another_arithmetic_are_another_column_and_say_so(tmp_path, column, capsys):
    encoder, store = Frames(torch.nn.Linear(3, 3)), Store(tmp_path)
    exact, near = (encoded(store, column, encoder, CPU, encoding=Encoding("torch", p)) for p in ("float32", "bfloat16"))
    assert exact.key == feature_key(column.key, encoder)
    assert near.key == feature_key(column.key, encoder, computed_in="bfloat16") != exact.key
    assert not torch.equal(near.vectors, exact.vectors) and torch.allclose(near.vectors, exact.vectors, atol=0.05)
    assert near.how == {"backend": "torch", "precision": "bfloat16", "from_cache": False}
    assert "video is encoded by torch" in capsys.readouterr().err
    again = encoded(store, column, encoder, CPU, encoding=Encoding("openvino"))  # in float32 all backends' are the same
    assert again.key == exact.key and again.how == {"backend": "torch", "precision": "float32", "from_cache": True}
    assert not capsys.readouterr().err


def test_what_an_encoder_without_parameters_passes_through_is_not_kept_twice(tmp_path, column):
    assert encoded(Store(tmp_path), column, Frames(torch.nn.Identity()), CPU, sequences=True) is column


@pytest.mark.parametrize("sequences", [False, True])
def test_half_precision_takes_half_the_room_and_comes_back_as_float32(tmp_path, column, sequences):
    encoder = Frames(torch.nn.Linear(3, 3))
    full = encoded(Store(tmp_path), column, encoder, CPU, sequences)
    half = encoded(Store(tmp_path, precision="float16"), column, encoder, CPU, sequences)
    assert full.key != half.key
    for name in ("vectors.npy", "tokens.bin")[: 1 + sequences]:
        sizes = [np.fromfile(tmp_path / "features" / kept.key / name, np.uint8).nbytes for kept in (full, half)]
        assert sizes[1] - 128 * (name == "vectors.npy") == (sizes[0] - 128 * (name == "vectors.npy")) / 2
    assert "float16" in half.resident
    for found, expected in zip(half.batch([7, 0, 4]), full.batch([7, 0, 4]), strict=True):
        if expected is not None and expected.dtype != torch.bool:
            assert found.dtype == torch.float32
            assert not torch.equal(found, expected), "nothing was rounded"
            assert torch.allclose(found, expected, rtol=2**-11, atol=2**-24)


@pytest.mark.parametrize("sequences", [False, True])
def test_what_half_precision_cannot_hold_is_refused_in_a_sentence_and_never_infinite(tmp_path, column, sequences):
    layer = torch.nn.Linear(3, 3)
    with torch.no_grad():
        layer.bias.fill_(70_000)
    store = Store(tmp_path, precision="float16")
    with pytest.raises(UserError, match=r"store\.precision=float16 ends at 65504, and the video encoder reaches 7e\+04: give"):
        encoded(store, column, Frames(layer), CPU, sequences)
    assert not list(tmp_path.glob("features/*/meta.json"))
    assert encoded(Store(tmp_path), column, Frames(layer), CPU, sequences).vectors.max() > 65504


def test_a_precision_that_is_none_is_refused(tmp_path):
    for refuse in (lambda: Store(tmp_path, precision="float64"), lambda: Store(tmp_path).keeping("float64")):
        with pytest.raises(UserError, match=r"store\.precision=float64 is not known: give one of float32, float16"):
            refuse()


def test_features_that_another_jobs_bound_removes_as_they_are_asked_for_are_computed_again(tmp_path, column, monkeypatch):
    encoder = Frames(torch.nn.Linear(3, 3))
    first = encoded(Store(tmp_path), column, encoder, CPU)
    bounded = Store(tmp_path, max_gb=1e-9)
    use = Store.use

    def too_late(store, folder):
        if "features" in folder.parts:
            monkeypatch.undo()
            bounded.folder("columns", "other", lambda _: {})
        use(store, folder)

    monkeypatch.setattr(Store, "use", too_late)
    again = encoded(Store(tmp_path), column, encoder, CPU)
    assert torch.equal(again.vectors, first.vectors)
