"""Bytes become text, or an error at the first byte that is wrong."""

import pytest

from boxfile import decode, parse, render
from boxfile.source import SIZE_LIMIT
from store.errors import BoxfileError


@pytest.mark.parametrize("text", ["", "box: 1\n", "# ä 日本 🎉\r\nbox: 1\r\n", "\ufeffbox: 1\n"])
def test_utf_8_is_decoded(text: str) -> None:
    assert decode(text.encode()) == text


@pytest.mark.parametrize(
    ("data", "place", "message"),
    [
        (b"box: 1\nbase: \xffx\n", (2, 7), "the byte 0xff is not UTF-8"),
        ("box: 1\nname: äö".encode() + b"\xc3\n", (2, 9), "the byte 0xc3 is not UTF-8"),
        (b"a\r\nb\r\n\x80", (3, 1), "the byte 0x80 is not UTF-8"),
        (b"\xef\xbb\xbfa\xfe", (1, 2), "the byte 0xfe is not UTF-8"),
        (b"\xed\xa0\x80", (1, 1), "the byte 0xed is not UTF-8"),
        (b"\xc0\xaf", (1, 1), "the byte 0xc0 is not UTF-8"),
        ("box: 1\n".encode("utf-16"), (1, 1), "the file is UTF-16, not UTF-8"),
        (b"\xfe\xff\x00b", (1, 1), "the file is UTF-16, not UTF-8"),
        ("box: 1\n".encode("utf-32"), (1, 1), "the file is UTF-32, not UTF-8"),
        (b"#" * (SIZE_LIMIT + 1), (1, 1), "the file is larger than 1 MiB"),
    ],
)
def test_other_bytes_are_refused_at_their_place(data: bytes, place: tuple[int, int], message: str) -> None:
    with pytest.raises(BoxfileError) as caught:
        decode(data, "dir/Boxfile")
    assert (caught.value.line, caught.value.column) == place
    assert caught.value.message == message
    assert render(caught.value).startswith(f"dir/Boxfile:{place[0]}:{place[1]}: {message}")


def test_the_line_with_a_wrong_byte_is_shown() -> None:
    with pytest.raises(BoxfileError) as caught:
        decode(b"box: 1\nname: \xe4 b\nx")
    assert caught.value.source == "name: \ufffd b"


def test_a_file_at_the_size_limit_is_read() -> None:
    text = "box: 1\nbase: scratch\n"
    text += "#" * (SIZE_LIMIT - len(text))
    assert parse(decode(text.encode())).version == 1


@pytest.mark.parametrize("text", ["# a\tb\n", "# \xa0\xad\u200b\u3000\ue000\ufffd\U0001f389\U0010ffff\n", "# עברית العربية\n"])
def test_unusual_characters_that_mislead_nobody_are_allowed(text: str) -> None:
    assert parse(text + "box: 1\nbase: scratch\n").version == 1
