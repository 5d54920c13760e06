from __future__ import annotations

import numpy as np
import torch

from gmu_lightning.encoders.metadata import MetadataMLP, MetadataVector

ROWS = [{"year": 1994, "country": "USA"}, {"year": 2001, "country": "France"}, {"year": 1972, "country": "USA"}]


def built(encoder, contents=ROWS):
    encoder.adopt(encoder.preparation.fit(contents))
    encoder.build()
    inputs = encoder.preparation.batch([encoder.preparation.store(content) for content in contents], training=False)
    return encoder.eval(), inputs


def test_the_vector_equals_the_rows_numbers():
    encoder, inputs = built(MetadataVector(min_count=1, freeze="all"))
    assert torch.equal(encoder(inputs).vector, inputs)
    assert encoder.dim == inputs.shape[1] == 3 and encoder.constant


def test_the_perceptron_is_trained():
    assert MetadataMLP(dim=7).dim == 7
    encoder, inputs = built(MetadataMLP(hidden=5, dim=7, min_count=1))
    assert encoder(inputs).vector.shape == (3, 7) and not encoder.constant
    assert [tuple(p.shape) for p in encoder.parameters()] == [(5, 3), (5,), (7, 5), (7,)]
    assert all(p.requires_grad for p in encoder.parameters())


def test_vectors_are_read_like_rows():
    encoder, inputs = built(MetadataMLP(dim=7), list(np.random.default_rng(0).normal(size=(4, 312))))
    assert encoder(inputs).vector.shape == (4, 7)
