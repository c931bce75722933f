"""Leases: what a living command makes or uses, so that deletion can go on beside it.

A lease is a draft of its own kind, ROOT/drafts/lease-PID-X, flocked by its holder: a digest a line, of blobs, of uncompressed
layers (diff_id) and of stacks (chain_id). When its holder dies, however that comes, the kernel drops the lock: from then on the
lease counts for nothing, and the next command sweeps it like any draft. Nobody ever has to unlock a store.

Beside the leases there is the gate, a flock on ROOT/blobs. Holders of leases pass it: take it shared and let go at once. `box
run` holds it shared until its container is written down. Deletion shuts it (exclusive), for some milliseconds at a time.

    whoever makes or uses an object           1. adds its digest to the lease   2. passes the gate
                                              3. looks whether the object is there, or publishes it
    and hands over                            4. writes the reference or the container's journal   5. closes the lease
    whoever deletes                           a. shuts the gate
                                              b. reads the leases, after them the containers, after them index.json
                                              c. moves away what none of them names   d. opens the gate

Why nothing goes that a living process uses or will reference. Let D delete while H makes or uses the object X.
If 1 came before b, then D finds X in the lease; unless 5 came before b as well, and then so did 4, and D finds X where H handed
it over to, since that is read after the leases. If 1 came after b, then 2 ends after d, so that at 3 H sees the store as D left
it: X is gone, as it would be had D run an hour ago, and H makes it again; or H publishes an X that D never saw. A name
(index.json) becomes digests, and those are added, while the gate is held: `Store.use_image`.

On a full disk nothing can be written down: then the holder keeps the gate itself, shared, and whoever deletes is told so.
"""

import os
from errno import EDQUOT, ENOSPC
from types import TracebackType
from typing import Self

from store.digest import Digest
from store.drafts import Drafts, FileDraft, write_all
from store.errors import StoreError
from store.faults import Attempt
from store.locks import Lock

PURPOSE = "lease"


class Lease:
    """A lease of this process. Close it by `close`, or by ending."""

    __slots__ = ("_draft", "_gate", "_held", "_named")

    def __init__(self, drafts: Drafts, gate: str) -> None:
        self._gate = gate
        self._named: set[str] = set()
        self._held: Lock | None = None
        self._draft: FileDraft | None = None
        try:
            self._draft = drafts.named_file(PURPOSE)
        except StoreError as err:
            self._hold(err)

    @property
    def path(self) -> str:
        """The lease's file; empty where there was no space for one."""
        return self._draft.path if self._draft is not None else ""

    def _hold(self, err: StoreError) -> None:
        """Keep the gate, when `err` says that the disk is full."""
        if not isinstance(err.__cause__, OSError) or err.__cause__.errno not in (ENOSPC, EDQUOT):
            raise err
        with Attempt("lock the store"):
            self._held = Lock(self._gate, shared=True)

    def add(self, *digests: str) -> None:
        """After this, and until the lease is closed, nobody deletes these: look now whether they are there, or publish them.

        StoreError when it cannot be written down; nothing may be used or published then.
        """
        new = [digest for digest in digests if digest not in self._named]
        if not new:
            return
        if self._held is None and self._draft is not None:
            try:
                with Attempt("write the lease"):
                    # The newline in front ends what a write that failed may have left.
                    write_all(self._draft.descriptor, ("\n" + "\n".join(new) + "\n").encode())
                with Attempt("lock the store"), Lock(self._gate, shared=True):
                    pass
            except StoreError as err:
                self._hold(err)
        self._named.update(new)

    def close(self) -> None:
        """Let go of all of it."""
        if self._held is not None:
            self._held.close()
        if self._draft is not None:
            self._draft.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def leased(drafts: str, *, but: str = "") -> set[str]:
    """All that the leases of living processes name, except for the lease at the path `but`. The caller holds the gate shut."""
    named: set[str] = set()
    for name in os.listdir(drafts):
        path = f"{drafts}/{name}"
        if not name.startswith(f"{PURPOSE}-") or path == but:
            continue
        try:
            lock = Lock.attempt(path)
            if lock is not None:
                lock.close()  # its holder is dead, or has not named anything yet
                continue
            with open(path, "rb") as file:
                lines = file.read().decode("ascii", "replace").split("\n")
        except FileNotFoundError:
            continue  # closed, hence handed over, just now
        for line in lines:
            if line:
                try:
                    named.add(Digest.parse(line))
                except StoreError:
                    continue  # what a full disk left of a write that failed
    return named
