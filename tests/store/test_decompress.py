"""Decompression: all formats, all their ways to be continued, and no way to be cut short, damaged or blown up unnoticed."""

import builtins
import bz2
import gzip
import io
import lzma
import os
import random
from collections.abc import Callable
from typing import Any

import pytest
import zstandard

from store.decompress import Bounds, Stream, open_stream
from store.errors import ArchiveError

DATA = random.Random(1).randbytes(100_000) + b"text " * 50_000 + bytes(300_000)

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstandard.ZstdCompressor(level=3, write_checksum=True).compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
}


class Trickle:
    """A source that gives a few bytes at a time, as a pipe may."""

    def __init__(self, data: bytes, step: int) -> None:
        self._file = io.BytesIO(data)
        self._step = step

    def readinto(self, buffer: memoryview) -> int:
        return self._file.readinto(buffer[: self._step])


def drained(stream: Stream, size: int = 1 << 16) -> bytes:
    buffer = memoryview(bytearray(size))
    whole = bytearray()
    while got := stream.readinto(buffer):
        whole += buffer[:got]
    return bytes(whole)


def read(data: bytes, **how: Any) -> bytes:
    return drained(open_stream(io.BytesIO(data), **how))


@pytest.mark.parametrize("name", COMPRESS)
@pytest.mark.parametrize("step", [1 << 20, 4099])
def test_a_stream_is_told_by_its_first_bytes_and_read_whole(name: str, step: int) -> None:
    packed = COMPRESS[name](DATA)
    stream = open_stream(Trickle(packed, step))
    assert stream.compression == name
    assert drained(stream) == DATA
    assert (stream.size, stream.consumed) == (len(DATA), len(packed))


def test_a_stream_in_single_bytes_is_read_whole() -> None:
    for name, compress in COMPRESS.items():
        data = DATA[99_000:103_000]
        assert drained(open_stream(Trickle(compress(data), 1))) == data, name


@pytest.mark.parametrize("data", [DATA, b"", b"x", b"short"])
def test_a_plain_stream_stays_as_it_is(data: bytes) -> None:
    stream = open_stream(Trickle(data, 4))
    assert stream.compression == ""
    assert drained(stream) == data


@pytest.mark.parametrize("name", COMPRESS)
def test_members_one_after_the_other_are_one_stream(name: str) -> None:
    compress = COMPRESS[name]
    packed = compress(DATA) + compress(b"") + compress(b"second") + compress(DATA)
    assert drained(open_stream(Trickle(packed, 70_001))) == DATA + b"second" + DATA


@pytest.mark.parametrize("name", ["gzip", "xz", "bzip2"])
def test_zeros_behind_a_stream_are_padding(name: str) -> None:
    assert read(COMPRESS[name](DATA) + bytes(400_000)) == DATA


def test_a_skippable_frame_of_zstd_is_skipped() -> None:
    skippable = b"\x5a\x2a\x4d\x18" + (200_000).to_bytes(4, "little") + bytes(200_000)
    frame = COMPRESS["zstd"](DATA)
    for packed in (skippable + frame, frame + skippable, frame + skippable + frame):
        for step in (3, 50_000):
            assert drained(open_stream(Trickle(packed, step))) == DATA * packed.count(frame)


def test_zstd_frames_of_all_shapes_are_followed_to_their_end() -> None:
    chunked = zstandard.ZstdCompressor(write_checksum=False, write_content_size=False).compressobj()
    flushed = b"".join(chunked.compress(DATA[at : at + 50_000]) + chunked.flush(1) for at in range(0, len(DATA), 50_000))
    flushed += chunked.flush()
    frames = [
        flushed,
        zstandard.ZstdCompressor(write_checksum=True, write_content_size=False).compress(DATA),
        zstandard.ZstdCompressor(write_checksum=False).compress(bytes(70_000)),
        zstandard.ZstdCompressor(level=-5).compress(os.urandom(300_000)),
        zstandard.ZstdCompressor().compress(b""),
        zstandard.ZstdCompressor().compress(b"x" * 300),
    ]
    for step in (1, 7, 1 << 17):
        stream = open_stream(Trickle(b"".join(frames[2:]), step))
        assert len(drained(stream)) == 70_000 + 300_000 + 300
    assert drained(open_stream(Trickle(b"".join(frames[:2]), 333))) == DATA + DATA


def _cuts(packed: bytes) -> list[int]:
    return sorted({1, 2, 3, 5, 7, 9, 18, len(packed) // 3, len(packed) // 2, *range(len(packed) - 12, len(packed))})


@pytest.mark.parametrize("name", COMPRESS)
def test_a_stream_that_is_cut_short_is_refused(name: str) -> None:
    packed = COMPRESS[name](DATA)
    for at in _cuts(packed):
        if at < {"gzip": 2, "zstd": 4, "xz": 6, "bzip2": 3}[name]:
            continue  # nobody can tell what it was
        with pytest.raises(ArchiveError):
            read(packed[:at])
    second = packed + packed
    for at in (len(packed) + 8, len(packed) + 100, len(second) - 1):
        with pytest.raises(ArchiveError):
            read(second[:at])


def test_the_decoder_of_zstd_itself_does_not_notice_a_cut() -> None:
    packed = COMPRESS["zstd"](DATA)
    reader = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(packed[: len(packed) - 1]), read_across_frames=True)
    assert len(reader.readall()) == len(DATA), "the control notices, so following the frames is needless"
    with pytest.raises(ArchiveError, match="cut short"):
        read(packed[:-1])


@pytest.mark.parametrize("name", COMPRESS)
def test_a_damaged_stream_is_refused(name: str) -> None:
    packed = bytearray(COMPRESS[name](DATA))
    packed[len(packed) // 2] ^= 0xFF
    with pytest.raises(ArchiveError, match="damaged"):
        read(bytes(packed))


@pytest.mark.parametrize("name", COMPRESS)
def test_something_else_behind_a_stream_is_refused(name: str) -> None:
    with pytest.raises(ArchiveError):
        read(COMPRESS[name](DATA) + b"something else entirely, and long enough for a header")


@pytest.mark.parametrize("name", COMPRESS)
def test_a_bomb_is_stopped_by_its_ratio_and_before_it_is_whole(name: str) -> None:
    bomb = COMPRESS[name](bytes(64 << 20))
    stream = open_stream(io.BytesIO(bomb), Bounds(ratio=100, floor=1 << 20))
    with pytest.raises(ArchiveError, match="more than 100 times") as caught:
        drained(stream)
    assert stream.size < 32 << 20
    assert "plain tar" in caught.value.hint


def test_what_compresses_well_but_is_small_is_no_bomb() -> None:
    assert len(read(COMPRESS["zstd"](bytes(8 << 20)), bounds=Bounds(ratio=100, floor=8 << 20))) == 8 << 20


@pytest.mark.parametrize("name", [*COMPRESS, "plain"])
def test_a_stream_of_more_than_the_total_is_refused(name: str) -> None:
    packed = COMPRESS.get(name, bytes)(DATA)
    assert read(packed, bounds=Bounds(total=len(DATA))) == DATA
    with pytest.raises(ArchiveError, match="grows past"):
        read(packed, bounds=Bounds(total=len(DATA) - 1))


def test_a_bomb_in_a_bomb_is_unpacked_once() -> None:
    inner = COMPRESS["gzip"](bytes(1 << 20))
    assert read(COMPRESS["zstd"](inner)) == inner


def test_a_window_of_more_than_128_mib_is_refused() -> None:
    def frame(log: int) -> bytes:
        parameters = zstandard.ZstdCompressionParameters(window_log=log)
        packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        return packer.compress(b"x" * 1000) + packer.flush()

    assert read(frame(27)) == b"x" * 1000
    with pytest.raises(ArchiveError, match=r"damaged: .*memory"):
        read(frame(28))
    unbounded = zstandard.ZstdDecompressor(max_window_size=1 << 31).stream_reader(io.BytesIO(frame(28)))
    assert unbounded.read() == b"x" * 1000, "the control refuses it as well"


def test_a_dictionary_of_xz_that_needs_too_much_memory_is_refused() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 29}]
    packed = lzma.compress(b"x" * 1000, filters=filters)
    assert lzma.decompress(packed) == b"x" * 1000
    with pytest.raises(ArchiveError, match="damaged"):
        read(packed)


def test_without_isal_gzip_is_read_by_zlib(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def lacking(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("isal"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", lacking)
    packed = COMPRESS["gzip"](DATA)
    assert read(packed + packed + bytes(100)) == DATA + DATA
    with pytest.raises(ArchiveError, match="cut short"):
        read(packed[:-1])
    with pytest.raises(ArchiveError, match="damaged"):
        read(packed[:-5] + b"\0" + packed[-4:])


def test_an_error_of_the_disk_stays_one() -> None:
    class Broken:
        def readinto(self, buffer: memoryview) -> int:
            raise OSError(5, "input/output error")

    class BreaksLater(Trickle):
        def readinto(self, buffer: memoryview) -> int:
            got = super().readinto(buffer)
            return got or Broken().readinto(buffer)

    with pytest.raises(OSError, match="input/output"):
        open_stream(Broken())
    for compress in COMPRESS.values():
        with pytest.raises(OSError, match="input/output"):
            drained(open_stream(BreaksLater(compress(DATA)[:1000], 1000)))
