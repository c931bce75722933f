"""Writing on a thread of its own, so that both cores work: one makes a layer, the other digests and writes it."""

import threading
from collections.abc import Callable
from queue import SimpleQueue

AHEAD = 8  # pieces (of a megabyte) that may wait to be written


class Behind:
    """Hands what is written on to `target`, in order, a little later. Left without an error, all of it was.

    What `target` raises, the next `write` or the end of the block raises. The calls must give up the interpreter's lock to gain
    anything.
    """

    __slots__ = ("_error", "_queue", "_room", "_target", "_thread")

    def __init__(self, target: Callable[[bytes], object]) -> None:
        self._target = target
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._room = threading.Semaphore(AHEAD)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def write(self, data: bytes | memoryview) -> None:
        """Write `data`, which is copied."""
        self._room.acquire()
        if self._error is not None:
            raise self._error
        self._queue.put(bytes(data))

    def _run(self) -> None:
        while (data := self._queue.get()) is not None:
            try:
                if self._error is None:
                    self._target(data)
            except BaseException as err:
                self._error = err
            self._room.release()

    def __enter__(self) -> "Behind":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._queue.put(None)
        self._thread.join()
        if self._error is not None and kind is None:
            raise self._error
