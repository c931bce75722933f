"""One build while it goes on: what all its parts share."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from builder import layers
from builder.cache import Cache, Hit, LastBuild, Miss, Result
from builder.changeset import Changeset
from builder.epoch import written
from builder.inputs import Context
from builder.keys import Parts
from builder.logs import Log
from builder.progress import Progress
from store.layout import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from boxfile import Plan


class Session:
    """The store, the plan, its context and cache, and who watches."""

    __slots__ = (
        "above",
        "cache",
        "context",
        "epoch",
        "last",
        "log",
        "no_cache",
        "plan",
        "progress",
        "seconds",
        "store",
        "userns",
    )

    def __init__(
        self,
        store: Store,
        plan: "Plan",
        context: Context,
        progress: Progress,
        *,
        epoch: int,
        no_cache: bool,
        last: LastBuild,
        userns: str = "",
    ) -> None:
        self.store = store
        self.plan = plan
        self.context = context
        self.progress = progress
        self.epoch = epoch
        self.no_cache = no_cache
        self.last = last
        self.userns = userns
        self.cache: Cache = last.cache
        self.log = Log(f"{store.root}/logs")
        self.above = "the steps above it changed"
        self.seconds = 0.0

    @property
    def is_first(self) -> bool:
        """Whether this Boxfile was never built here."""
        return not self.last.keys

    def lookup(self, number: int, parts: Parts) -> Hit | Miss:
        """The cache's word on step `number` (0 is the base), told to who watches."""
        if self.no_cache:
            found: Hit | Miss = Miss(("the cache is not used",))
        else:
            found = self.cache.lookup(parts, before=lambda: self.last.counterpart(number, parts), above=self.above)
        if isinstance(found, Hit):
            self.progress.step_cached(number)
        else:
            self.progress.step_missed(number, found.reason)
            self.above = f"step {number} above it changed" if number else "the base changed"
        return found

    def compare_base(self, parts: Parts | None) -> None:
        """Note whether the base is another one than in the last build."""
        before = self.last.keys[:1]
        if before and before != [parts.key() if parts is not None else ""]:
            self.above = "the base changed"

    @contextmanager
    def timed(self, number: int) -> Iterator[None]:
        """Step `number` is done in this block, and took `seconds` then."""
        start = time.monotonic()
        yield
        self.seconds = time.monotonic() - start
        self.progress.step_done(number, self.seconds)

    def keep_changes(self, changes: Changeset, draft: str, chain: layers.Chain) -> Result:
        """Write the changes below the directory `draft`, and make a layer of them."""
        from builder.writing import write_changes

        if not changes.nodes:
            return Result()
        upper = f"{draft}/upper"
        os.mkdir(upper, 0o700)
        return layers.keep(self.store, upper, chain, lambda descriptor, tar: write_changes(changes, descriptor, tar, self.epoch))

    def history_entry(self, text: str, *, empty: bool) -> dict[str, object]:
        """One line of the image's history."""
        entry: dict[str, object] = {"created": written(self.epoch), "created_by": text}
        if empty:
            entry["empty_layer"] = True
        return entry
