"""Shell patterns: what they match, as a table, and that nothing is taken for a pattern by accident."""

import pytest

from builder.patterns import Excludes, below, component, is_pattern, split
from store.errors import BuildError

TREE = {
    b"": [b"README", b"setup.py", b".git", b"src"],
    b".git": [b"HEAD"],
    b"src": [b"a.py", b"b.py", b"c.txt", b"deep"],
    b"src/deep": [b"a.py", b"deeper"],
    b"src/deep/deeper": [b"z.py"],
}


def listing(directory: bytes) -> list[tuple[bytes, bool]]:
    prefix = directory + b"/" if directory else b""
    return [(name, prefix + name in TREE) for name in TREE.get(directory, [])]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*", [b".git", b"README", b"setup.py", b"src"]),
        ("*.py", [b"setup.py"]),
        ("src/*.py", [b"src/a.py", b"src/b.py"]),
        ("src/[ab].py", [b"src/a.py", b"src/b.py"]),
        ("src/[!a].py", [b"src/b.py"]),
        ("src/[^a].py", [b"src/b.py"]),
        ("src/?.txt", [b"src/c.txt"]),
        ("**/a.py", [b"src/a.py", b"src/deep/a.py"]),
        ("src/**/*.py", [b"src/a.py", b"src/b.py", b"src/deep/a.py", b"src/deep/deeper/z.py"]),
        ("src/**", [b"src/a.py", b"src/b.py", b"src/c.txt", b"src/deep"]),
        ("**/deeper/*", [b"src/deep/deeper/z.py"]),
        ("*/deep", [b"src/deep"]),
        ("nothing*", []),
        ("*/a.py/*", []),
    ],
)
def test_a_pattern_matches(pattern: str, expected: list[bytes]) -> None:
    prefix, rest = split(pattern)
    assert list(below("/".join(prefix).encode(), rest, listing)) == expected


@pytest.mark.parametrize(
    ("text", "answer"),
    [("a.py", False), ("*.py", True), ("a?", True), ("[x]", True), (r"\*", False), (r"\\*", True), ("a]b", False)],
)
def test_only_unescaped_characters_make_a_pattern(text: str, answer: bool) -> None:
    assert is_pattern(text) is answer


def test_an_escaped_character_stands_for_itself() -> None:
    assert component(r"\*x").fullmatch(b"*x")
    assert not component(r"\*x").fullmatch(b"yx")


def test_a_class_never_matches_a_slash() -> None:
    assert not component("a[!x]b").fullmatch(b"a/b")


def test_a_class_may_hold_its_own_bracket_first() -> None:
    assert component("[]]").fullmatch(b"]")
    assert not component("[!]]").fullmatch(b"]")


def test_a_class_without_an_end_is_refused_with_the_pattern() -> None:
    with pytest.raises(BuildError, match=r"'\[' without '\]' in the pattern '\[abc'"):
        component("[abc")


def test_a_range_backwards_is_refused_and_not_a_traceback() -> None:
    with pytest.raises(BuildError, match="makes no sense"):
        component("[z-a]")


@pytest.mark.parametrize(
    ("pattern", "path", "left_out"),
    [
        ("*.pyc", b"src/deep/x.pyc", True),
        ("*.pyc", b"src/deep/x.py", False),
        ("node_modules", b"web/node_modules", True),
        ("src/*.py", b"src/a.py", True),
        ("src/*.py", b"src/deep/a.py", False),
        ("src/**/*.py", b"src/deep/deeper/a.py", True),
        ("src/**/*.py", b"src/a.py", True),
        ("build/", b"x/build", True),
    ],
)
def test_an_exclude_leaves_out(pattern: str, path: bytes, left_out: bool) -> None:
    assert Excludes([pattern])(path, path.rpartition(b"/")[2]) is left_out
