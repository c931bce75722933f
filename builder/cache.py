"""Results of steps, found again by their keys; and why one was not found.

On disk, below ROOT/cache/: `steps/KEY` the result of a step, `parts/KEY` what the key was made of, `last/BOXFILE` the keys of a
Boxfile's last build. All of it is derived: whatever is missing, cut short or unreadable is a miss, never an error.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from builder.derived import write_derived
from builder.keys import Parts, differences
from store.drafts import Drafts
from store.record import Record


class Result(Record):
    """What a step came to: a layer by the digest, size and diff_id it has in the store, or no change at all (all empty)."""

    digest: str = ""
    size: int = 0
    diff_id: str = ""
    media_type: str = ""


class Hit(Record):
    """The step's result is known, and its layer is in the store."""

    result: Result


class Miss(Record):
    """The step has to be done; `reasons` name what changed, the most telling first."""

    reasons: tuple[str, ...]

    @property
    def reason(self) -> str:
        """All of it in one line."""
        first, others = self.reasons[0], len(self.reasons) - 1
        return f"{first}, and {others} more change{'s' if others > 1 else ''}" if others else first


NEVER_BUILT = "never built here"


class Cache:
    """The results of steps in one store. `blobs` is the directory of the store's blobs, by hex; `use` is told of a layer before
    it is looked for (`Store.use`)."""

    __slots__ = ("_blobs", "_drafts", "_use", "directory")

    def __init__(self, directory: str, blobs: str, drafts: Drafts, use: Callable[[str, str], None] | None = None) -> None:
        self.directory = directory
        self._blobs = blobs
        self._drafts = drafts
        self._use = use

    def lookup(self, parts: Parts, *, before: Callable[[], Parts | None] | None = None, above: str = "") -> Hit | Miss:
        """The result of the step with these parts, if its layer is there: that is looked at, its bytes are not.

        For a miss, `before` gives what this step was in the last build, and `above` names a change further up.
        """
        result = self.result(parts.key())
        if result is None:
            old = before() if before is not None else None
            reasons = differences(old, parts) if old is not None else []
            if old is not None and old.parent != parts.parent:
                reasons.append(above or "what lies below it changed")
            return Miss(tuple(reasons) or (NEVER_BUILT,))
        if result.digest:
            if self._use is not None:
                self._use(result.digest, result.diff_id)
            if not self._has_blob(result):
                return Miss(("its layer is gone",))
        return Hit(result)

    def _has_blob(self, result: Result) -> bool:
        try:
            status = os.stat(f"{self._blobs}/{result.digest.removeprefix('sha256:')}")
        except OSError:
            return False
        return status.st_size == result.size

    def result(self, key: str) -> Result | None:
        """What is remembered under `key`, whether its layer is there or not."""
        fields = self._read(f"steps/{key}").decode("ascii", "replace").split("\n")
        if fields == ["unchanged", ""]:
            return Result()
        if len(fields) != 6 or fields[0] != "layer" or fields[5] or not fields[2].isdigit():
            return None
        if not (_is_digest(fields[1]) and _is_digest(fields[3])):
            return None
        return Result(fields[1], int(fields[2]), fields[3], fields[4])

    def keep(self, parts: Parts, result: Result) -> None:
        """From now on `lookup` finds `result` for these parts."""
        key = parts.key()
        self._write(f"parts/{key}", parts.encoded())
        text = "unchanged\n"
        if result.digest:
            text = f"layer\n{result.digest}\n{result.size}\n{result.diff_id}\n{result.media_type}\n"
        self._write(f"steps/{key}", text.encode())

    def last(self, boxfile: str) -> list[str]:
        """Keys of the steps of the last build under the name `boxfile`, in their order; "" for one that has none."""
        lines = self._read(f"last/{boxfile}").decode("ascii", "replace").split("\n")
        return lines[:-1] if lines[-1] == "" else []

    def keep_last(self, boxfile: str, keys: Sequence[str]) -> None:
        """Remember these keys as the last build's; the file's time is that of the build."""
        text = "".join(f"{key}\n" for key in keys).encode()
        if self._read(f"last/{boxfile}") != text:
            self._write(f"last/{boxfile}", text)
            return
        try:
            os.utime(f"{self.directory}/last/{boxfile}")
        except OSError:
            pass

    def parts(self, key: str) -> Parts | None:
        """What `key` was made of, if that is still known."""
        return Parts.decode(self._read(f"parts/{key}")) if key else None

    def _read(self, name: str) -> bytes:
        try:
            with open(f"{self.directory}/{name}", "rb") as file:
                return file.read()
        except OSError:
            return b""

    def _write(self, name: str, data: bytes) -> None:
        write_derived(self._drafts, f"{self.directory}/{name}", data)


class LastBuild:
    """The steps of a Boxfile's last build, read only when a miss has to be explained."""

    __slots__ = ("_boxfile", "_parts", "cache", "keys")

    def __init__(self, cache: Cache, boxfile: str) -> None:
        self.cache = cache
        self._boxfile = boxfile
        self.keys = cache.last(boxfile)
        self._parts: list[Parts | None] | None = None

    def keep(self, keys: Sequence[str]) -> None:
        """Replace it by the build that ends now."""
        self.cache.keep_last(self._boxfile, keys)

    def counterpart(self, number: int, parts: Parts) -> Parts | None:
        """What the step with these parts was in the last build: the one of the same text nearest to `number` (counted from 0),
        else the one in its place.
        """
        if self._parts is None:
            self._parts = [self.cache.parts(key) for key in self.keys]
        same = [index for index, old in enumerate(self._parts) if old is not None and old.text == parts.text]
        if same:
            return self._parts[min(same, key=lambda index: abs(index - number))]
        return self._parts[number] if number < len(self._parts) else None


def _is_digest(text: str) -> bool:
    return len(text) == 71 and text.startswith("sha256:") and all(char in "0123456789abcdef" for char in text[7:])
