"""How an error is shown."""

import pytest

from boxfile import parse, render
from boxfile.likeness import nearest, quoted
from store.errors import BoxfileError
from store.likeness import distance


def error(**changes: object) -> BoxfileError:
    values: dict[str, object] = {
        "path": "Boxfile",
        "line": 7,
        "column": 5,
        "source": "    stpes:",
        "width": 5,
        "hint": "did you mean 'steps'?",
    }
    return BoxfileError("unknown key 'stpes'", **{**values, **changes})  # type: ignore[arg-type]  # a table of keyword arguments


def test_an_error_has_its_place_its_line_a_caret_and_a_hint() -> None:
    assert render(error()) == (
        "Boxfile:7:5: unknown key 'stpes'\n  |\n7 |     stpes:\n  |     ^^^^^\nhint: did you mean 'steps'?"
    )


def test_an_error_without_line_or_hint_is_one_line() -> None:
    assert render(error(source="", hint="")) == "Boxfile:7:5: unknown key 'stpes'"


def test_the_gutter_is_as_wide_as_the_number() -> None:
    assert render(error(line=1234)).split("\n")[1:4] == ["     |", "1234 |     stpes:", "     |     ^^^^^"]


def test_colour_changes_nothing_but_colour() -> None:
    import re

    coloured = render(error(), color=True)
    assert coloured != render(error())
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == render(error())


def test_nothing_of_the_user_reaches_the_terminal_raw() -> None:
    said = render(error(path="a\x1bb\n", source="    \x1b[2Jstpes\x9b", hint="\x07", width=9))
    assert said == "a\\x1bb\\n:7:5: unknown key 'stpes'\n  |\n7 |     \\x1b[2Jstpes\\x9b\n  |     ^^^^^^^^^^^^\nhint: \\x07"


@pytest.mark.parametrize(
    ("source", "column", "width", "carets"),
    [
        ("\tab", 2, 1, "    ^"),
        ("日本ab", 3, 2, "    ^^"),
        ("日本", 1, 2, "^^^^"),
        ("e\u0301x", 3, 1, " ^"),
        ("ab", 3, 1, "  ^"),
        ("ab", 90, 1, "  ^"),
    ],
)
def test_the_caret_is_under_the_mistake(source: str, column: int, width: int, carets: str) -> None:
    assert render(error(source=source, column=column, width=width)).split("\n")[3] == f"  | {carets}"


@pytest.mark.parametrize(("column", "width"), [(1, 5), (500, 3), (996, 5), (1000, 1), (1001, 1), (400, 600)])
def test_a_long_line_is_cut_around_the_mistake(column: int, width: int) -> None:
    source = "".join(chr(97 + index % 26) for index in range(1000))
    _, _, line, carets, _ = render(error(source=source, column=column, width=width)).split("\n")
    assert len(line) <= 4 + 112
    start = carets.index("^")
    marked = line[start : start + carets.count("^")]
    assert marked == source[column - 1 : column - 1 + len(marked)]
    assert marked or column > len(source)


@pytest.mark.parametrize(
    ("a", "b", "steps"),
    [("", "abc", 3), ("steps", "steps", 0), ("stpes", "steps", 1), ("step", "steps", 1), ("rum", "run", 1), ("ca", "abc", 3)],
)
def test_distance_counts_letters_changed_added_left_out_and_swapped(a: str, b: str, steps: int) -> None:
    assert distance(a, b) == distance(b, a) == steps


def test_the_nearest_word_is_found_only_when_it_is_near() -> None:
    known = ("run", "copy", "write", "stop_signal")
    assert nearest("Run", known) == "run"
    assert nearest("stop-signal", known) == "stop_signal"
    assert nearest("wirte", known) == "write"
    assert nearest("frobnicate", known) is None
    assert nearest("", known) is None
    assert nearest("x" * 1000, known) is None


def test_a_quoted_text_is_short_and_printable() -> None:
    assert quoted("a\n\t\x1b\u202e\U000e0001") == "'a\\n\\t\\x1b\\u202e\\U000e0001'"
    assert len(quoted("x" * 10_000)) <= 62


def test_an_error_of_the_parser_points_at_a_line_of_the_text() -> None:
    with pytest.raises(BoxfileError) as caught:
        parse("box: 1\nbase: scratch\nstpes: []\n", path="p")
    assert (caught.value.path, caught.value.line, caught.value.column, caught.value.width) == ("p", 3, 1, 5)
    assert caught.value.source == "stpes: []"
    assert caught.value.exit_status == 2


MANY = """\
box: 1
base: scratch
steps:
  - env: {D: null}
  - run
  - mkdirr: /x
  - mkdir: /fine
  - mkdir: relative
nmae: app
config: {volumes: [a]}
"""


def test_every_mistake_is_found_at_once_in_the_order_of_the_text() -> None:
    with pytest.raises(BoxfileError) as caught:
        parse(MANY)
    found = [caught.value, *caught.value.others]
    assert [(one.line, one.column, one.hint) for one in found] == [
        (4, 14, 'write "" for an empty text'),
        (5, 5, "such as 'run: make'"),
        (6, 5, "did you mean 'mkdir'?"),
        (8, 12, "did you mean '/relative'?"),
        (9, 1, "did you mean 'name'?"),
        (10, 20, "did you mean '/a'?"),
    ]
    assert found[0].message == "expected a text, found null"


def test_of_another_version_only_that_is_told() -> None:
    with pytest.raises(BoxfileError) as caught:
        parse("box: 2\nbase: scratch\nnew: key\n")
    assert (caught.value.line, caught.value.others) == (1, [])


@pytest.mark.parametrize("text", ["FROM debian:12\nRUN apt-get update\n", "# syntax=x\nARG A=1\nFROM debian\n"])
def test_a_dockerfile_is_recognised(text: str) -> None:
    with pytest.raises(BoxfileError) as caught:
        parse(text)
    assert caught.value.hint.startswith("this is a Dockerfile, which box does not read")


def test_steps_that_are_a_mapping_are_told_of_the_dash() -> None:
    with pytest.raises(BoxfileError) as caught:
        parse("box: 1\nbase: scratch\nsteps:\n  run: make\n")
    assert caught.value.hint == "a '- ' before each step: '- run: make'"
