"""Step keys: what changes them, what does not, and how a change is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.keys import Parts, differences

FILE = b"file " + b"a" * 64
BASE = Parts("sha256:p", "copy\n", 5, {"A": "1"}, "/w", "app", {b"src/a.py": FILE, b"src/b.py": FILE})

CHANGES = {
    "parent": (Parts("sha256:q", "copy\n", 5, {"A": "1"}, "/w", "app", BASE.inputs), []),
    "text": (Parts("sha256:p", "copy \n", 5, {"A": "1"}, "/w", "app", BASE.inputs), ["the step's text changed"]),
    "epoch": (Parts("sha256:p", "copy\n", 6, {"A": "1"}, "/w", "app", BASE.inputs), ["SOURCE_DATE_EPOCH changed"]),
    "env value": (Parts("sha256:p", "copy\n", 5, {"A": "2"}, "/w", "app", BASE.inputs), ["env A changed"]),
    "env new": (Parts("sha256:p", "copy\n", 5, {"A": "1", "B": ""}, "/w", "app", BASE.inputs), ["env B is new"]),
    "env gone": (Parts("sha256:p", "copy\n", 5, {}, "/w", "app", BASE.inputs), ["env A is gone"]),
    "workdir": (Parts("sha256:p", "copy\n", 5, {"A": "1"}, "/x", "app", BASE.inputs), ["the workdir changed from /w to /x"]),
    "user": (Parts("sha256:p", "copy\n", 5, {"A": "1"}, "/w", "", BASE.inputs), ["the user changed from app to root"]),
    "content": (
        Parts("sha256:p", "copy\n", 5, {"A": "1"}, "/w", "app", {**BASE.inputs, b"src/a.py": b"file " + b"b" * 64}),
        ["src/a.py changed"],
    ),
    "executable": (
        Parts("sha256:p", "copy\n", 5, {"A": "1"}, "/w", "app", {**BASE.inputs, b"src/a.py": b"file x " + b"a" * 64}),
        ["src/a.py became executable"],
    ),
    "type": (
        Parts("sha256:p", "copy\n", 5, {"A": "1"}, "/w", "app", {**BASE.inputs, b"src/a.py": b"symlink b.py"}),
        ["src/a.py became a symlink"],
    ),
    "new": (
        Parts("sha256:p", "copy\n", 5, {"A": "1"}, "/w", "app", {**BASE.inputs, b"src/c.py": FILE}),
        ["src/c.py is new"],
    ),
    "gone": (Parts("sha256:p", "copy\n", 5, {"A": "1"}, "/w", "app", {b"src/a.py": FILE}), ["src/b.py is gone"]),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_of_any_part_changes_the_key_and_is_named(what: str) -> None:
    changed, expected = CHANGES[what]
    assert changed.key() != BASE.key()
    assert differences(BASE, changed) == expected


def test_the_order_of_env_and_inputs_does_not_count() -> None:
    one = Parts("", "", 0, {"A": "1", "B": "2"}, inputs={b"a": b"1", b"b": b"2"})
    other = Parts("", "", 0, {"B": "2", "A": "1"}, inputs={b"b": b"2", b"a": b"1"})
    assert one.key() == other.key()


def test_parts_that_join_to_the_same_text_have_different_keys() -> None:
    # A naive key, the parts written one after the other, takes these for one.
    one, other = Parts("ab", "c", 0), Parts("a", "bc", 0)
    assert one.parent + one.text == other.parent + other.text
    assert one.key() != other.key()
    assert Parts("", "", 0, env={"a": "b"}).key() != Parts("", "", 0, inputs={b"a": b"b"}).key()


texts = st.text(st.characters(codec="utf-8"), max_size=20)
names = st.binary(max_size=20)


@given(texts, texts, st.integers(0, 2**40), st.dictionaries(texts, texts), texts, texts, st.dictionaries(names, names))
def test_parts_come_back_from_their_bytes(
    parent: str, text: str, epoch: int, env: dict[str, str], workdir: str, user: str, inputs: dict[bytes, bytes]
) -> None:
    parts = Parts(parent, text, epoch, env, workdir, user, inputs)
    assert Parts.decode(parts.encoded()) == parts


@given(st.binary(max_size=200))
def test_bytes_that_are_no_parts_are_none_and_no_error(data: bytes) -> None:
    assert Parts.decode(data) is None


def test_parts_cut_anywhere_are_none() -> None:
    whole = BASE.encoded()
    for length in range(len(whole)):
        found = Parts.decode(whole[:length])
        assert found is None or found != BASE
