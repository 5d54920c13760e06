"""Record, count and summarise problems of the data."""

from __future__ import annotations

import pytest

from gmu_lightning.data.audit import Audit
from gmu_lightning.movie import UserError


@pytest.fixture
def audit() -> Audit:
    audit = Audit()
    for n in range(4):
        audit.add(f"000000{n}", f"dataset/000000{n}.jpeg", "train", "missing_image", "kept_absent", "no such file")
    audit.add("0000009", "dataset/0000009.json", "val", "broken_json", "removed", "not JSON")
    return audit


def test_audit_json_has_the_keys_of_the_contract(audit):
    written = audit.as_dict("raw", {"train": 4, "val": 0}, {"train": {"Drama": 4}, "val": {"Drama": 0}})
    assert written["layout"] == "raw"
    assert written["movies"] == {"train": 4, "val": 0}
    assert written["genres"]["train"] == {"Drama": 4}
    assert written["counts"] == {"missing_image": 4, "broken_json": 1}
    assert written["problems"][4] == {
        "id": "0000009",
        "file": "dataset/0000009.json",
        "split": "val",
        "kind": "broken_json",
        "action": "removed",
        "detail": "not JSON",
    }


def test_an_unknown_kind_or_action_raises_value_error():
    with pytest.raises(ValueError, match="kind='lost'"):
        Audit().add("1", "f", "train", "lost", "removed")
    with pytest.raises(ValueError, match="action='dropped'"):
        Audit().add("1", "f", "train", "no_genre", "dropped")


def test_summary_counts_movies_and_names_the_first(audit):
    assert audit.summary() == [
        "4 movies kept without it: no poster (0000000, 0000001, 0000002, ...)",
        "1 movie removed: a broken record (0000009)",
    ]


def test_strict_names_the_first_problem_and_what_to_do(audit):
    with pytest.raises(UserError, match=r"5 \(missing_image 4, broken_json 1\).*dataset/0000000.jpeg.*data.strict=false"):
        audit.raise_if_strict()


def test_strict_accepts_problems_of_the_label_policy():
    audit = Audit()
    audit.add("1", "", "train", "dropped_genre", "kept", by_policy=True)
    audit.raise_if_strict()
    assert audit.counts == {"dropped_genre": 1}
