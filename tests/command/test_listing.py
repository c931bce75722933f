"""Tables, ids, json and templates; times and sizes."""

import io
import json
import time
from typing import Any

import pytest

from boxcli import amounts, escapes, listing, templates
from boxcli.table import Values
from store.errors import UsageError

RECORD: dict[str, Any] = {
    "ID": "abc",
    "State": {"Pid": 7, "Running": True},
    "Labels": {"a.b": "c"},
    "Names": ["x"],
    "Empty": None,
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{.ID}}", "abc"),
        ("{{ .ID }}\\t{{.State.Pid}}", "abc\t7"),
        ("{{json .}}", json.dumps(RECORD, separators=(",", ":"))),
        ("{{json .Names}} {{.Names}}", '["x"] ["x"]'),
        ('{{index .Labels "a.b"}}-{{index .Labels "none"}}', "c-"),
        ("{{.State.Running}}{{.Empty}}", "true"),
        ("json", json.dumps(RECORD, separators=(",", ":"))),
        ("plain", "plain"),
    ],
)
def test_a_template_shows_a_record(template: str, text: str) -> None:
    assert templates.compile_format(template)(RECORD) == text


@pytest.mark.parametrize("template", ["{{.ID", "{{range .Names}}", "{{.ID | upper}}", "{{index .Labels}}", '{{.ID "x"}}', "{{}}"])
def test_a_template_that_is_not_understood_is_wrong_usage(template: str) -> None:
    with pytest.raises(UsageError, match="template"):
        templates.compile_format(template)


def test_a_field_that_is_not_there_is_answered_with_those_that_are() -> None:
    with pytest.raises(UsageError, match="no field 'Nam'") as caught:
        templates.compile_format("{{.Nam}}")(RECORD)
    assert "ID, State, Labels" in caught.value.hint


def test_text_of_an_image_cannot_speak_to_the_terminal() -> None:
    hostile = "a\033]0;title\007\r\n\x9b31m\u202e"
    shown = templates.compile_format("{{.X}}")({"X": hostile})
    assert shown == r"a\x1b]0;title\x07\x0d\x0a\x9b31m\u202e"
    assert escapes.lines("a\tb\nc\033") == "a\tb\nc\\x1b"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("\033[1;31mred\n", "\033[1;31mred\033[0m\n"),
        ("\033[31mred\033[m", "\033[31mred\033[m\033[0m"),
        ("\033[2Jgone", "\\x1b[2Jgone"),
        ("\033[31", "\\x1b[31"),
        ("\033[?25lm", "\\x1b[?25lm"),
        ("\033[" + "1;" * 50 + "m", "\\x1b[" + "1;" * 50 + "m"),
        ("\033]0;title\007", "\\x1b]0;title\\x07"),
        ("\033[31m\033[6n\n", "\033[31m\\x1b[6n\033[0m\n"),
        ("\r\b\x9b", "\\x0d\\x08\\x9b"),
    ],
)
def test_of_what_a_program_sends_a_terminal_only_text_and_colours_are_shown(text: str, shown: str) -> None:
    assert escapes.coloured(text) == shown


def test_a_table_is_as_wide_as_its_cells(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"ID": "1", "Name": "long name"}, {"ID": "1234567", "Name": "x"}]
    listing.show(Values("/r", {}), rows, [("ID", "ID"), ("NAME", "Name")])
    assert capsys.readouterr().out == "ID        NAME\n1         long name\n1234567   x\n"
    listing.show(Values("/r", {"quiet": True}), rows, [])
    assert capsys.readouterr().out == "1\n1234567\n"
    listing.show(Values("/r", {"format": "json"}), rows, [])
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == rows
    listing.show(Values("/r", {"format": "table {{.Name}}\\t{{.ID}}"}), rows, [])
    assert capsys.readouterr().out == "NAME        ID\nlong name   1\nx           1234567\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "Less than a second"), (1, "1 second"), (59, "59 seconds"), (60, "About a minute"), (150, "2 minutes"),
        (3600, "About an hour"), (7200, "2 hours"), (86400 * 1.9, "46 hours"), (86400 * 3, "3 days"), (86400 * 20, "2 weeks"),
        (86400 * 100, "3 months"), (86400 * 365 * 46, "46 years"),
    ],
)  # fmt: skip
def test_an_age_is_said_in_docker_s_words(seconds: float, text: str) -> None:
    assert amounts.age(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0B"), (999, "999B"), (1000, "1kB"), (999_499, "999kB"), (999_600, "1MB"), (12_345_678, "12.3MB"), (5 * 10**12, "5TB")],
)
def test_a_size_has_three_digits(count: int, text: str) -> None:
    assert amounts.size(count) == text


def test_a_stamp_is_rfc_3339_and_zero_is_go_s_zero_time() -> None:
    assert amounts.stamp(1.5) == "1970-01-01T00:00:01.500000Z"
    assert amounts.stamp(0) == "0001-01-01T00:00:00Z"
    assert amounts.ago(time.time() + 5) == "Less than a second ago"
    assert io.StringIO(amounts.local(0)).read().startswith("19")
