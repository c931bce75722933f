"""The pass over a stream: whoever is slow, everyone gets the same bytes, and nobody waits for ever."""

import hashlib
import io
import os
import random
import threading
import time
from pathlib import Path

import pytest

from store.flow import CHUNK, RING, Flow

DATA = random.Random(1).randbytes((2 * RING + 3) * CHUNK + 12_345)


class Slow(io.BytesIO):
    """A source that takes its time."""

    def __init__(self, data: bytes, pause: float) -> None:
        super().__init__(data)
        self.pause = pause

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        time.sleep(self.pause)
        return super().readinto(buffer)


@pytest.mark.parametrize(("reading", "taking"), [(0, 0), (0, 0.005), (0.005, 0)])
def test_consumer_digest_and_file_get_the_same_bytes_whoever_is_slow(reading: float, taking: float, tmp_path: Path) -> None:
    with open(tmp_path / "kept", "wb") as kept:
        seen = bytearray()
        with Flow(Slow(DATA, reading).readinto, keep=kept.fileno()) as flow:
            while (chunk := flow.feed()) is not None:
                time.sleep(taking)
                seen += chunk
            digest = flow.finish()
        assert seen == DATA
        assert (tmp_path / "kept").read_bytes() == DATA
    assert digest == hashlib.sha256(DATA).hexdigest()
    assert flow.size == len(DATA)


@pytest.mark.parametrize("taken", [0, 1, RING, 2 * RING])
def test_what_the_consumer_leaves_is_digested_all_the_same(taken: int) -> None:
    with Flow(io.BytesIO(DATA).readinto) as flow:
        for _ in range(taken):
            flow.feed()
        assert flow.finish() == hashlib.sha256(DATA).hexdigest()
        assert flow.feed() is None


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, RING * CHUNK])
def test_a_stream_of_any_size_ends(size: int) -> None:
    with Flow(io.BytesIO(DATA[:size]).readinto) as flow:
        assert flow.finish() == hashlib.sha256(DATA[:size]).hexdigest()


@pytest.mark.parametrize("taken", [0, 1, 3, RING + 1])
def test_a_consumer_that_leaves_early_leaves_no_thread(taken: int) -> None:
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt), Flow(io.BytesIO(DATA).readinto) as flow:
        for _ in range(taken):
            flow.feed()
        raise KeyboardInterrupt
    assert threading.active_count() == before


def test_a_source_that_never_answers_does_not_keep_a_consumer_that_leaves(tmp_path: Path) -> None:
    silent, held = os.pipe()
    started = time.monotonic()
    with (
        open(silent, "rb", buffering=0) as source,
        open(tmp_path / "kept", "wb") as kept,
        pytest.raises(KeyboardInterrupt),
        Flow(lambda buffer: source.readinto(buffer) or 0, keep=kept.fileno()),
    ):
        raise KeyboardInterrupt
    assert time.monotonic() - started < 5
    os.close(held)


@pytest.mark.parametrize("after", [0, 1, RING, 2 * RING])
def test_an_error_of_the_source_reaches_the_consumer(after: int) -> None:
    source = io.BytesIO(DATA)
    reads = 0

    def readinto(buffer: memoryview) -> int:
        nonlocal reads
        reads += 1
        if reads > after:
            raise ValueError("broken")
        return source.readinto(buffer)

    with pytest.raises(ValueError, match="broken"), Flow(readinto) as flow:
        while flow.feed() is not None:
            pass


@pytest.mark.parametrize("wait", [True, False])
def test_an_error_of_keeping_reaches_the_consumer(wait: bool, tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    unwritable = os.open(tmp_path / "f", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="Bad file descriptor"), Flow(io.BytesIO(DATA).readinto, keep=unwritable) as flow:
            if wait:
                time.sleep(0.05)
            flow.finish()
    finally:
        os.close(unwritable)


def test_a_sync_that_fails_is_tried_once_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def fsync(descriptor: int) -> None:
        tried.append(descriptor)
        raise OSError(5, "input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    with open(tmp_path / "kept", "wb") as kept:
        with pytest.raises(OSError, match="input/output"), Flow(io.BytesIO(DATA).readinto, keep=kept.fileno()) as flow:
            flow.finish()
        assert tried == [kept.fileno()]
