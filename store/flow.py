"""One pass over a stream on both cores: threads of its own read it, digest it and keep it as a file, while its consumer follows.

Threads suffice: each call is a megabyte long and gives the interpreter's lock away. The buffers are a ring used again and again,
because the kernel takes 2 us to hand out a fresh page.
"""

import hashlib
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from store import syscalls

CHUNK = 1 << 20
RING = 8
_WRITEBACK_STEP = 16 << 20
_SYNC_FILE_RANGE_WRITE = 2
_PATIENCE = 0.5  # seconds


class Flow:
    """Hands out what `readinto` gives, chunk by chunk; writes the same to the file `keep`, if given, and has it synced.

    Use it in a `with`: leaving it early ends the threads. An error of reading or keeping is raised by `feed` or `finish`.
    """

    __slots__ = (
        "_chunks", "_digest", "_ended", "_error", "_fed", "_holding", "_keep", "_readinto", "_sink", "_stopped", "_sunk",
        "_threads", "size",
    )  # fmt: skip

    def __init__(self, readinto: Callable[[memoryview], int], *, keep: int | None = None) -> None:
        self.size = 0
        self._readinto = readinto
        self._keep = keep
        self._digest = hashlib.sha256()
        self._error: BaseException | None = None
        self._holding = False  # the consumer holds a chunk
        self._ended = False
        self._stopped = False
        # Sink and consumer take the chunks in the order of the ring, so two queues of tokens say when one is free again.
        self._fed: SimpleQueue[None] = SimpleQueue()
        self._sunk: SimpleQueue[None] = SimpleQueue()
        self._chunks: SimpleQueue[memoryview | None] = SimpleQueue()
        self._sink: SimpleQueue[memoryview | None] = SimpleQueue()
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._read, self._absorb)]

    def feed(self) -> memoryview | None:
        """The next chunk, valid until the next call; None at the end."""
        if self._holding:
            self._fed.put(None)
        if self._ended:
            return None
        chunk = self._chunks.get()
        self._holding = chunk is not None
        self._ended = chunk is None
        if self._error is not None:
            raise self._error
        return chunk

    def finish(self) -> str:
        """The sha256 of the whole stream in hexadecimal; what the consumer left is read. The kept file is written and synced."""
        while self.feed() is not None:
            pass
        for thread in self._threads:
            thread.join()
        if self._error is not None:
            raise self._error
        return self._digest.hexdigest()

    def close(self) -> None:
        """End the threads. What was kept so far is not whole, unless `finish` has returned."""
        self._stopped = True
        self._fed.put(None)  # wakes the reader, if it waits for the consumer
        self._sink.put(None)
        reader, sink = self._threads
        sink.join()
        # A source that never answers, such as a pipe nobody writes to, keeps its reader; that then reads into nowhere, once.
        reader.join(_PATIENCE)

    def _read(self) -> None:
        buffers = [memoryview(bytearray(CHUNK)) for _ in range(RING)]
        for _ in buffers:
            self._fed.put(None)
            self._sunk.put(None)
        try:
            turn = 0
            while self._error is None:
                self._fed.get()
                self._sunk.get()
                if self._stopped:
                    break
                buffer = buffers[turn]
                turn = (turn + 1) % RING
                got = self._readinto(buffer)
                if got:
                    self.size += got
                    chunk = buffer[:got]
                    self._sink.put(chunk)
                    self._chunks.put(chunk)
                if got < CHUNK:
                    break
        except BaseException as err:  # it is the consumer who must know
            self._error = err
        self._sink.put(None)
        self._chunks.put(None)

    def _absorb(self) -> None:
        started = written = 0
        while (chunk := self._sink.get()) is not None:
            if self._error is None:
                try:
                    self._digest.update(chunk)
                    if self._keep is not None:
                        written += _write_all(self._keep, chunk)
                        if written - started >= _WRITEBACK_STEP:
                            # The disk begins now, so that little is left when the file is synced.
                            syscalls.libc("sync_file_range", self._keep, started, written - started, _SYNC_FILE_RANGE_WRITE)
                            started = written
                except BaseException as err:
                    self._error = err
            self._sunk.put(None)
        if self._keep is not None and self._error is None and not self._stopped:
            try:
                os.fsync(self._keep)
            except OSError as err:
                self._error = err

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class Behind:
    """Calls `write` on a thread of its own, so that it digests and keeps one piece while its caller makes the next.

    Each call first waits for the one before. Only pieces of `size` bytes are worth the thread. Use it in a `with`: leaving it
    waits for the last piece; an error of `write` is raised by the next call or then.
    """

    __slots__ = ("_done", "_error", "_pending", "_size", "_thread", "_todo", "_write")

    def __init__(self, write: Callable[[memoryview], object], size: int) -> None:
        self._write = write
        self._size = size
        self._error: BaseException | None = None
        self._pending = False
        self._thread: threading.Thread | None = None
        self._todo: SimpleQueue[memoryview | None] = SimpleQueue()
        self._done: SimpleQueue[None] = SimpleQueue()

    def __call__(self, piece: memoryview) -> None:
        self._wait()
        if len(piece) < self._size:
            self._write(piece)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        self._pending = True
        self._todo.put(piece)

    def _wait(self) -> None:
        if self._pending:
            self._pending = False
            self._done.get()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _run(self) -> None:
        while (piece := self._todo.get()) is not None:
            try:
                self._write(piece)
            except BaseException as err:  # it is the caller who must know
                self._error = err
            self._done.put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if error is None:
                self._wait()
        finally:
            if self._thread is not None:
                self._todo.put(None)
                self._thread.join()


def _write_all(descriptor: int, chunk: memoryview) -> int:
    written = 0
    while written < len(chunk):
        written += os.write(descriptor, chunk[written:])
    return written
