"""What of the build cache is worth its space: what the last build of each Boxfile came to, for a month after that build.

Layers of images stay with their images, cached or not. What is kept here lets a build that failed, or one whose image was
deleted by another name, go on where it was.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from builder.cache import Cache
from builder.origins import recall
from store.digest import Descriptor, Digest, chain_id, digest_of_name
from store.images import Layer
from store.layout import Store

KEPT_FOR = 30 * 86400  # seconds


def cache_of(store: Store) -> Cache:
    """The store's cache, for whoever looks after it."""
    return Cache(f"{store.root}/cache", store.blobs.directory, store.drafts)


def recent_keys(cache: Cache, *, now: float) -> set[str]:
    """The keys of the steps of every Boxfile's last build that is young enough."""
    return {
        key for name, when in _entries(f"{cache.directory}/last") if now - when <= KEPT_FOR for key in cache.last(name) if key
    }


def kept(store: Store, *, now: float | None = None) -> set[str]:
    """The digests of the layers that the cache wants to keep: their blobs, tars and stacks."""
    cache = cache_of(store)
    digests: set[str] = set()
    for key in recent_keys(cache, now=time.time() if now is None else now):
        result = cache.result(key)
        if result is None or not result.digest:
            continue
        digests |= {result.digest, result.diff_id}
        parts = cache.parts(key)
        if parts is not None:
            digests.add(str(chain_id(Digest.parse(parts.parent) if parts.parent else None, Digest.parse(result.diff_id))))
    return digests


def steps(store: Store) -> Iterator[tuple[str, Layer]]:
    """The layer of each step that is remembered, with the chain id of what it lies on (empty for nothing)."""
    cache = cache_of(store)
    for key, _ in list(_entries(f"{cache.directory}/steps")):
        result, parts = cache.result(key), cache.parts(key)
        if result is not None and result.digest and parts is not None:
            blob = Descriptor(result.media_type, Digest.parse(result.digest), result.size)
            diff_id = Digest.parse(result.diff_id)
            yield parts.parent, Layer(blob, diff_id, chain_id(Digest.parse(parts.parent) if parts.parent else None, diff_id))


def sweep(store: Store, *, now: float | None = None) -> int:
    """Drop the records that help no build any more, and say how many: of layers that are gone, of steps and builds long ago."""
    cache = cache_of(store)
    today = time.time() if now is None else now
    dropped = 0
    for name, when in list(_entries(f"{cache.directory}/last")):
        if today - when > KEPT_FOR:
            dropped += _drop(f"{cache.directory}/last/{name}")
    recent = recent_keys(cache, now=today)
    steps: set[str] = set()
    for key, when in list(_entries(f"{cache.directory}/steps")):
        result = cache.result(key)
        gone = result is None or (result.digest and not store.blobs.has(Digest.parse(result.digest)))
        if gone or (key not in recent and today - when > KEPT_FOR):
            dropped += _drop(f"{cache.directory}/steps/{key}")
        else:
            steps.add(key)
    for key, when in list(_entries(f"{cache.directory}/parts")):
        # A build writes them before its step: what is young may have a step in a moment.
        if key not in steps and key not in recent and today - when > 60:
            dropped += _drop(f"{cache.directory}/parts/{key}")
    for name, _ in list(_entries(f"{cache.directory}/origins")):
        manifest = digest_of_name(name)
        if manifest is None or not store.blobs.has(manifest):
            dropped += _drop(f"{cache.directory}/origins/{name}")
    return dropped


def check(store: Store, *, repair: bool = False) -> Iterator[tuple[str, str]]:
    """The records that say nothing that can be understood: their places below the store's root, and what is wrong. With `repair`
    they are dropped, which is what a build takes them for."""
    cache = cache_of(store)
    wrong: list[tuple[str, str]] = []
    for key, _ in _entries(f"{cache.directory}/steps"):
        if not _is_key(key) or cache.result(key) is None:
            wrong.append((f"steps/{key}", "it is no result of a step"))
    for key, _ in _entries(f"{cache.directory}/parts"):
        parts = cache.parts(key)
        if parts is None or parts.key() != key:
            wrong.append((f"parts/{key}", "it is not what its name says"))
    for name, _ in _entries(f"{cache.directory}/last"):
        if not all(not key or _is_key(key) for key in cache.last(name)):
            wrong.append((f"last/{name}", "it does not list steps"))
    for name, _ in _entries(f"{cache.directory}/origins"):
        manifest = digest_of_name(name)
        if manifest is None or recall(store, manifest) is None:
            wrong.append((f"origins/{name}", "it does not say where a history was written"))
    for place, reason in wrong:
        if repair:
            _drop(f"{cache.directory}/{place}")
        yield f"cache/{place}", reason


def _is_key(text: str) -> bool:
    return len(text) == 64 and not text.strip("0123456789abcdef")


def _entries(directory: str) -> Iterator[tuple[str, float]]:
    """The files there, with their times; none where there is no such directory."""
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                try:
                    yield entry.name, entry.stat(follow_symlinks=False).st_mtime
                except FileNotFoundError:
                    continue
    except FileNotFoundError:
        return


def _drop(path: str) -> int:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return 0
    return 1
