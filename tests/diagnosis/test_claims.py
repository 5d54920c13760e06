"""Diagnoses of trained units claim an effect of gates and interaction in worlds with a switch, and in no other."""

from __future__ import annotations

import pytest

from benchmarks.false_claims import rates

EFFECTS = ("gates weigh single movies, f1_micro", "interaction helps, f1_micro", "gates weigh single movies, ap_micro")


@pytest.mark.heavy
def test_worlds_without_a_switch_lead_to_no_claim():
    found = rates("text", 20)
    assert max(found[effect] for effect in EFFECTS) <= 0.1
    assert found["image helps"] == 0  # the genres do not depend on it
    assert found["text adds nothing"] == 0
    # Gates of other movies alone would have led to claims.
    assert found["permutation alone, ap_micro"] > 0.2


@pytest.mark.heavy
def test_worlds_with_a_switch_lead_to_claims():
    found = rates("switch", 3)
    assert min(found[effect] for effect in EFFECTS) == 1
    assert found["mean cost of gates_permuted/f1_micro"] > 10
    assert found["mean cost of emap/f1_micro"] > 2
