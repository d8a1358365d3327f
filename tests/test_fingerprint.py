"""Identity: what is equal has one fingerprint, what differs has another, and what has no one encoding is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from humpback.store.fingerprint import canonical, derive_seed, diff, fingerprint, hash_file

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(PLAIN)
def test_payload_read_back_from_json_is_the_same_payload(value: Any) -> None:
    plain = canonical(value)
    assert json.loads(json.dumps(plain)) == plain
    assert fingerprint(json.loads(json.dumps(plain))) == fingerprint(value)


@given(PLAIN, PLAIN)
def test_payloads_differ_in_fingerprint_exactly_when_the_diff_names_a_field(one: Any, other: Any) -> None:
    lines = list(diff(canonical({"x": one}), canonical({"x": other})))
    assert bool(lines) == (fingerprint({"x": one}) != fingerprint({"x": other}))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ([1, 2], (1, 2)),
        (1, 1.0),
        (0.0, -0.0),
        ({"a": {"b": (1.0,)}}, {"a": {"b": [1]}}),
    ],
)
def test_values_that_mean_the_same_have_one_fingerprint(one: object, other: object) -> None:
    assert fingerprint(one) == fingerprint(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True),
        (0, None),
        (1, "1"),
        ([1, 2], [2, 1]),
        ({"a": None}, {}),
        ([], {}),
        (0.1, 0.1 + 1e-17 + 1e-16),
        (2**60, float(2**60) * 2),
        ("é", "e\u0301"),
        (["ab"], ["a", "b"]),
    ],
)
def test_values_that_differ_have_different_fingerprints(one: object, other: object) -> None:
    assert fingerprint(one) != fingerprint(other)


@pytest.mark.parametrize("value", [{1, 2}, b"bytes", Path("x"), object(), 1j, {"a": {"b": [Path("x")]}}])
def test_value_without_one_encoding_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="has no one encoding; give plain values"):
        fingerprint(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_number_that_is_not_finite_is_refused_with_its_place(value: float) -> None:
    with pytest.raises(ValueError, match=r"payload\.train\.rate=.* cannot be fingerprinted"):
        fingerprint({"train": {"rate": value}})


def test_key_that_is_not_a_string_is_refused() -> None:
    with pytest.raises(TypeError, match=r"payload\.a has the key 1"):
        fingerprint({"a": {1: 2}})


def test_fingerprint_is_stable_over_versions_and_machines() -> None:
    payload = {"b": [1, 2.5, None, True], "a": "é"}
    text = '{"a":"é","b":[1,2.5,null,true]}'
    assert fingerprint(payload) == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_half_a_character_can_be_fingerprinted() -> None:
    assert fingerprint("\ud800") != fingerprint("\ud801")


def test_diff_names_each_field_with_both_values() -> None:
    old = {"same": 1, "train": {"rate": 0.1, "steps": None}, "files": {"a": "1"}, "list": [1, 2], "on": True}
    new = {"same": 1, "train": {"rate": 0.2, "steps": 5}, "files": {"b": "2"}, "list": [1, 2, 3], "on": 1, "more": None}
    assert list(diff(old, new)) == [
        'files.a: "1" -> (absent)',
        'files.b: (absent) -> "2"',
        "list: [1, 2] -> [1, 2, 3]",
        "more: (absent) -> null",
        "on: true -> 1",
        "train.rate: 0.1 -> 0.2",
        "train.steps: null -> 5",
    ]
    assert list(diff({"inputs": [{"a": 1}, 2]}, {"inputs": [{"a": 3}, 2]})) == ["inputs.0.a: 1 -> 3"]
    assert list(diff(old, old)) == []


def test_derived_seed_depends_on_every_part_and_fits_63_bits() -> None:
    seeds = {
        derive_seed(*parts)
        for parts in ((0, "augment", "a"), (1, "augment", "a"), (0, "audit", "a"), (0, "augment", "b"))
    }
    assert len(seeds) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(0, "augment", "a") == derive_seed("0", "augment", "a")
    assert derive_seed("ab", "c") != derive_seed("a", "bc")


def test_file_hash_is_the_sha256_of_its_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(data)
    assert hash_file(tmp_path / "file") == hashlib.sha256(data).hexdigest()
