"""JSON from elsewhere: one meaning, or none."""

import json

import pytest

from store.documents import DEPTH_LIMIT, DOCUMENT_LIMIT, canonical, parse, parse_object
from store.errors import StoreError

REFUSED = {
    "a key twice": (b'{"a":1,"a":2}', "'a' twice"),
    "a key twice, deep down": (b'[{"x":{"a":1,"b":2,"a":1}}]', "'a' twice"),
    "a key twice, spelt differently": (b'{"a":1,"\\u0061":2}', "'a' twice"),
    "not a number": (b'{"a":NaN}', "not finite"),
    "infinity": (b"[-Infinity]", "not finite"),
    "endless digits": (b"[" + b"9" * 100_000 + b"]", "digits"),
    "too deep": (b"[" * (DEPTH_LIMIT + 1) + b"]" * (DEPTH_LIMIT + 1), "deeply"),
    "deep enough for the parser's own stack": (b"[" * 200_000, "deeply"),
    "half a surrogate pair": (b'{"a":"\\ud800"}', "surrogate"),
    "half a surrogate pair as a key": (b'{"\\udc00":1}', "surrogate"),
    "latin-1": (b'{"a":"\xe9"}', "UTF-8"),
    "a byte order mark": (b"\xef\xbb\xbf{}", "not JSON"),
    "two documents": (b"{}{}", "not JSON"),
    "nothing": (b"", "not JSON"),
    "cut short": (b'{"a":', "not JSON"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_document_of_two_meanings_is_refused(name: str) -> None:
    data, reason = REFUSED[name]
    with pytest.raises(StoreError, match=reason):
        parse(data, "the test")


def test_the_standard_parser_believes_what_is_refused_here() -> None:
    """The control: without these checks, the second of two equal keys silently wins."""
    assert json.loads(REFUSED["a key twice"][0]) == {"a": 2}
    assert json.loads(REFUSED["not a number"][0])["a"] != 0


def test_a_document_over_the_limit_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(StoreError, match="too large"):
        parse(b" " * (DOCUMENT_LIMIT + 1), "the test")


def test_a_document_at_the_limits_is_read() -> None:
    assert parse(b"[" * DEPTH_LIMIT + b"]" * DEPTH_LIMIT, "the test")
    assert parse_object(b'{"a":"' + b"x" * (DOCUMENT_LIMIT - 8) + b'"}', "the test")


def test_the_canonical_form_does_not_depend_on_the_order_of_keys() -> None:
    assert canonical({"b": 1, "a": {"d": "é", "c": []}}) == '{"a":{"c":[],"d":"é"},"b":1}'.encode()
    assert canonical({"a": 1, "b": 2}) == canonical({"b": 2, "a": 1})
