"""One pass over a stream on both cores: threads of its own read it, digest it and keep it as a file, while its consumer follows.

Threads suffice: each call is a megabyte long and gives the interpreter's lock away. The buffers are a ring used again and again,
because the kernel takes 2 us to hand out a fresh page.
"""

import errno
import fcntl
import hashlib
import mmap
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
_DIRECT_FROM = 8 << 20
_ALIGNED = 4096


class Flow:
    """Hands out what `readinto` gives, chunk by chunk; writes the same to the file `keep`, if given, and has it synced.

    Use it in a `with`: leaving it early ends the threads. An error of reading or keeping is raised by `feed` or `finish`.
    """

    __slots__ = (
        "_chunks", "_consumed", "_digest", "_ended", "_error", "_holding", "_queues", "_readinto", "_stopped", "_threads", "size",
    )  # fmt: skip

    def __init__(self, readinto: Callable[[memoryview], int], *, keep: int | None = None) -> None:
        self.size = 0
        self._readinto = readinto
        self._digest = hashlib.sha256()
        self._error: BaseException | None = None
        self._holding = False  # the consumer holds a chunk
        self._ended = False
        self._stopped = False
        # All take the chunks in the order of the ring, so a queue of tokens each says when a buffer is free again: first the
        # consumer's, then those of the threads.
        self._chunks: SimpleQueue[memoryview | None] = SimpleQueue()
        self._queues: list[SimpleQueue[memoryview | None]] = [self._chunks]
        self._consumed: list[SimpleQueue[None]] = [SimpleQueue()]
        self._threads = [threading.Thread(target=self._read, daemon=True)]
        self._absorb(self._digest.update, lambda: None)
        if keep is not None:
            keeper = Keeper(keep)
            self._absorb(keeper.write, keeper.finish)

    def _absorb(self, take: Callable[[memoryview], object], finish: Callable[[], None]) -> None:
        """Have a thread of its own give every chunk to `take`, then call `finish`."""
        queue: SimpleQueue[memoryview | None] = SimpleQueue()
        consumed: SimpleQueue[None] = SimpleQueue()
        self._queues.append(queue)
        self._consumed.append(consumed)

        def run() -> None:
            while (chunk := queue.get()) is not None:
                if self._error is None:
                    try:
                        take(chunk)
                    except BaseException as err:  # it is the consumer who must know
                        self._error = err
                consumed.put(None)
            if self._error is None and not self._stopped:
                try:
                    finish()
                except BaseException as err:
                    self._error = err

        self._threads.append(threading.Thread(target=run, daemon=True))

    def feed(self) -> memoryview | None:
        """The next chunk, valid until the next call; None at the end."""
        if self._holding:
            self._consumed[0].put(None)
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
        self._consumed[0].put(None)  # wakes the reader, if it waits for the consumer
        for queue in self._queues[1:]:
            queue.put(None)
        reader, *others = self._threads
        for thread in others:
            thread.join()
        # A source that never answers, such as a pipe nobody writes to, keeps its reader; that then reads into nowhere, once.
        reader.join(_PATIENCE)

    def _read(self) -> None:
        # Anonymous memory begins on a page, as direct writes want it.
        buffers = [memoryview(mmap.mmap(-1, CHUNK)) for _ in range(RING)]
        for consumed in self._consumed:
            for _ in buffers:
                consumed.put(None)
        try:
            turn = 0
            while self._error is None:
                for consumed in self._consumed:
                    consumed.get()
                if self._stopped:
                    break
                buffer = buffers[turn]
                turn = (turn + 1) % RING
                got = self._readinto(buffer)
                if got:
                    self.size += got
                    for queue in self._queues:
                        queue.put(buffer[:got])
                if got < CHUNK:
                    break
        except BaseException as err:  # it is the consumer who must know
            self._error = err
        for queue in self._queues:
            queue.put(None)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class Keeper:
    """Writes a stream to the empty file open as `descriptor`, so that little is left to do when it is synced.

    What is large goes past the page cache, where the file system lets it: the disk has to have it before the end anyway, and
    copying it into fresh pages first takes as long as writing it.
    """

    __slots__ = ("_descriptor", "_direct", "_refused", "_started", "_written")

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._started = self._written = 0
        self._direct = self._refused = False

    def write(self, chunk: memoryview) -> None:
        """Append `chunk`."""
        aligned = not len(chunk) % _ALIGNED and not self._written % _ALIGNED
        self._turn(aligned and self._written >= _DIRECT_FROM and not self._refused)
        at = 0
        while at < len(chunk):
            try:
                at += os.write(self._descriptor, chunk[at:])
            except OSError as err:
                if not self._direct or err.errno != errno.EINVAL:
                    raise
                self._refused = True  # the file system takes no direct writes, or only larger ones
                self._turn(False)
        self._written += at
        if not self._direct and self._written - self._started >= _WRITEBACK_STEP:
            # The disk begins now, so that little is left when the file is synced.
            syscalls.libc(
                "sync_file_range", self._descriptor, self._started, self._written - self._started, _SYNC_FILE_RANGE_WRITE
            )  # fmt: skip
            self._started = self._written

    def _turn(self, direct: bool) -> None:
        if direct != self._direct:
            flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
            try:
                fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags | os.O_DIRECT if direct else flags & ~os.O_DIRECT)
            except OSError as err:
                if err.errno != errno.EINVAL:
                    raise
                self._refused = True
                return
            self._direct = direct

    def finish(self) -> None:
        """On return what was written survives a crash. Raises OSError, once: a second fsync would say that all is well."""
        self._turn(False)
        os.fsync(self._descriptor)


class Spool:
    """Keeps and digests a stream that comes in pieces of any size, a thread of its own doing both behind its caller's back.

    Use it in a `with`, or end it by `finish`.
    """

    __slots__ = ("_behind", "_buffers", "_digest", "_filled", "_keeper", "size")

    def __init__(self, descriptor: int) -> None:
        self.size = 0
        self._keeper = Keeper(descriptor)
        self._digest = hashlib.sha256()
        self._buffers = [memoryview(mmap.mmap(-1, CHUNK)) for _ in range(2)]
        self._filled = 0
        self._behind = Behind(self._absorb, CHUNK)

    def write(self, data: memoryview | bytes) -> None:
        """Append `data`, which may become something else as soon as this returns."""
        rest = memoryview(data)
        while rest:
            taken = min(CHUNK - self._filled, len(rest))
            self._buffers[0][self._filled : self._filled + taken] = rest[:taken]
            self._filled += taken
            self.size += taken
            rest = rest[taken:]
            if self._filled == CHUNK:
                self._flush()

    def _flush(self) -> None:
        if self._filled:
            self._behind(self._buffers[0][: self._filled])
            self._buffers.reverse()
            self._filled = 0

    def _absorb(self, piece: memoryview) -> None:
        self._digest.update(piece)
        self._keeper.write(piece)

    def finish(self) -> str:
        """The sha256 in hexadecimal; on return the file survives a crash."""
        self._flush()
        self._behind.close()
        self._keeper.finish()
        return self._digest.hexdigest()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._behind.abandon()


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
        if error is None:
            self.close()
        else:
            self.abandon()

    def close(self) -> None:
        """Wait for the last piece, and raise its error if it has one."""
        try:
            self._wait()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._todo.put(None)
            self._thread.join()
            self._thread = None
