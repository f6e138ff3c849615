import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelkeep.errors import Damaged, LimitExceeded, UsageError
from modelkeep.snapshot.canonical import canonical_json, check_json, parse_json, seal, unseal

from ..state.states import TEXT

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=10,
)


@given(JSON)
def test_json_comes_back_as_it_was_and_has_one_spelling(value):
    data = canonical_json(value)
    back = parse_json(data)
    assert repr(back) == repr(value) or back == value
    assert canonical_json(back) == data


def test_the_spelling_is_the_one_of_the_format():
    value = {"b": [1, 1.0, -0.0, 1e22, 1e-7, True, None], "a": {"é": "\n\x7f", "Z": []}, "": "\U0001f600"}
    assert canonical_json(value) == (
        b'{"":"\xf0\x9f\x98\x80","a":{"Z":[],"\xc3\xa9":"\\n\x7f"},"b":[1,1.0,-0.0,1e+22,1e-07,true,null]}'
    )


def test_a_sealed_document_is_the_one_of_the_format():
    assert seal({"n": 1}) == (b'{"digest":"d88775a5e63750fdc32c2ffeb7d3b456e0ca8cb74a2b71fad447eb67e05d7d30","n":1}')


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", {1, 2}, b"x"])
def test_what_json_has_not_is_refused(value):
    with pytest.raises(UsageError):
        canonical_json([value])


@pytest.mark.parametrize("value", [{1: 2}, (1,), float("inf"), {"a": {"b": {3}}}, b"x", {True: 1}])
def test_metadata_that_would_come_back_otherwise_is_refused_with_its_place(value):
    with pytest.raises(UsageError, match="meta/x"):
        check_json({"x": value}, "meta")


HOSTILE = [
    b"",
    b"{",
    b'{"a":1,"a":2}',
    b'{"a":1,"\\u0061":2}',
    b"[NaN]",
    b"[-Infinity]",
    b"[1e999]",
    b'["\\ud800"]',
    b'["\xff"]',
    b'"\x00"',
    "[1]".encode("utf-16"),
    b"\xef\xbb\xbf[1]",
    b"[1],",
    b"[" + b"9" * 5000 + b"]",
    b"['a']",
]


@pytest.mark.parametrize("data", HOSTILE, ids=lambda data: repr(data[:20]))
def test_hostile_json_is_a_typed_error_that_names_its_key(data):
    with pytest.raises(Damaged, match=r"runs/x\.json") as caught:
        parse_json(data, key="runs/x.json")
    assert caught.value.key == "runs/x.json"


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 100_000,
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b'["\\"[",' * 40,
        b"[[],[]," + b"[]," * 4_000_000 + b"1]",
    ],
    ids=["open", "closed", "strings", "many"],
)
def test_deep_or_swollen_json_is_refused_before_it_is_built(data):
    with pytest.raises(LimitExceeded):
        parse_json(data)


def test_brackets_in_texts_are_not_depth():
    value = ["[" * 100 + '"\\' + "{" * 100] * 3
    assert parse_json(canonical_json(value)) == value


def test_quotes_that_never_close_are_read_once():
    with pytest.raises(Damaged):
        parse_json(b'["' + b'\\"[' * 200_000)


def test_a_document_over_its_budget_is_refused():
    with pytest.raises(LimitExceeded, match="more than 10"):
        parse_json(b"[" + b" " * 20 + b"]", limit_bytes=10)


@given(st.dictionaries(TEXT.filter(lambda text: text != "digest"), JSON, max_size=4), st.data())
def test_one_flipped_bit_in_a_sealed_document_is_damage(document, data):
    sealed = seal(document)
    assert unseal(sealed, "k") == document
    place = data.draw(st.integers(0, len(sealed) - 1))
    torn = bytearray(sealed)
    torn[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises((Damaged, LimitExceeded), match="k: "):
        unseal(bytes(torn), "k")


def test_a_sealed_document_that_was_cut_or_spelt_otherwise_is_damage():
    sealed = seal({"a": [1, 2]})
    for torn in (b"", sealed[:-1], sealed + b" ", json.dumps(json.loads(sealed)).encode(), b'{"a":1}', b"[1]"):
        with pytest.raises(Damaged):
            unseal(torn, "k")
