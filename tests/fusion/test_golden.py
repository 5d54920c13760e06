"""The gates reproduce stored examples from an independent NumPy implementation, checked against two published ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gmu_lightning.fusion import GMU

GOLDEN = dict(np.load(Path(__file__).with_name("golden_gmu.npz")))
CASES = sorted({key.split("/")[0] for key in GOLDEN})


def parts_of(case: str) -> tuple[dict, dict, str]:
    """Return the inputs by modality, the parameters by name, and the variant."""
    own = {key.removeprefix(f"{case}/"): value for key, value in GOLDEN.items() if key.startswith(f"{case}/")}
    inputs = {key.removeprefix("x/"): torch.from_numpy(value) for key, value in own.items() if key.startswith("x/")}
    return inputs, {key: torch.from_numpy(value) for key, value in own.items() if key.endswith(".weight")}, str(own["variant"])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("case", CASES)
def test_gates_and_vectors_match_the_examples(case, dtype, tolerance):
    inputs, weights, variant = parts_of(case)
    fusion = GMU(variant, {m: x.shape[1] for m, x in inputs.items()}, dim=GOLDEN[f"{case}/fused"].shape[1]).to(dtype)
    assert set(fusion.state_dict()) == set(weights)
    fusion.load_state_dict(weights)
    absent = ~torch.from_numpy(GOLDEN[f"{case}/present"])
    poisoned = {m: x.to(dtype).masked_fill(absent[:, i, None], float("nan")) for i, (m, x) in enumerate(inputs.items())}
    fused = fusion(poisoned, ~absent)
    assert fused.gates.dtype == fused.vector.dtype == dtype
    np.testing.assert_allclose(fused.gates.detach(), GOLDEN[f"{case}/gates"], rtol=0, atol=tolerance)
    np.testing.assert_allclose(fused.vector.detach(), GOLDEN[f"{case}/fused"], rtol=0, atol=tolerance)


def test_examples_cover_every_variant_with_missing_modalities():
    shown = {(parts_of(case)[2], bool(GOLDEN[f"{case}/present"].all())) for case in CASES}
    assert shown == {(variant, whole) for variant in ("original", "hier", "softmax") for whole in (True, False)}
