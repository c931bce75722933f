"""Eight builders beside two collectors and a checker: `python -m tests.crash.crowd ROLE ROOT NUMBER SECONDS` is one of them.

A builder builds, looks at every byte of what it built, mounts it, and deletes some of it again; a collector collects. What each
did is printed as JSON. Whatever goes wrong ends a member of the crowd with a traceback.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from builder import retention
from store import fsck
from store.collect import delete_image, forget_images, gc
from store.layout import Store
from store.marks import keep_nothing
from store.mend import check_and_mend
from store.record import Record
from tests.crash.actions import build, in_use
from tests.store.samples import damage

REPOSITORY = Path(__file__).parents[2]
BUILDERS, COLLECTORS, CHECKERS = 8, 2, 1
SAME = "  - write: {to: /same, text: the same}\n  - mkdir: /d\n"


class Report(Record):
    """What a crowd did: builds, collections, objects that those deleted, checks; what is damaged, and a build's digests."""

    builds: int
    collections: int
    checks: int
    deleted: int
    damaged: tuple[str, ...]
    digests: tuple[str, ...]


def crowd(root: str, seconds: float) -> Report:
    """Let them loose on the store at `root`. AssertionError with what the first of them said that failed."""
    serial = build(Store.open(f"{root}-alone"), "same", SAME)
    Store.open(root)
    roles = [("build", number) for number in range(BUILDERS)] + [("collect", number) for number in range(COLLECTORS)]
    roles += [("check", number) for number in range(CHECKERS)]
    members = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.crash.crowd", role, root, str(number), str(seconds)],
            cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for role, number in roles
    ]  # fmt: skip
    said = [member.communicate() for member in members]
    for member, (output, errors) in zip(members, said, strict=True):
        assert not member.returncode, f"{member.args[2:]} said:\n{output}{errors}"
    done = [json.loads(output) for output, _ in said]
    store = Store.open(root)
    damaged = [*damage(root), *(f"{finding.place}: {finding.what}" for finding in fsck.check(store).findings)]
    damaged += [f"draft {name}" for name in os.listdir(store.drafts.path)]
    digests = {serial, *(digest for one in done for digest in one.get("digests", []))}
    builds, collections, checks, deleted = (
        sum(one.get(what, 0) for one in done) for what in ("builds", "collections", "checks", "deleted")
    )
    return Report(builds, collections, checks, deleted, tuple(damaged), tuple(sorted(digests)))


def _build(root: str, number: int, until: float) -> dict[str, object]:
    builds = 0
    digests = set()
    while time.monotonic() < until:
        store = Store.open(root)
        name = f"own{number}"
        steps = f"  - write: {{to: /a, text: '{number} {builds}'}}\n  - write: {{to: /b, text: '{builds % 3}'}}\n"
        _look(store, build(store, name, steps), name)
        digests.add(build(store, f"same{number % 3}", SAME))
        builds += 2
        if builds % 6 == 0:
            delete_image(store, name, used=in_use(store))
        if builds % 10 == 0:
            build(store, f"run{number}", "  - run: ['true']\n", base="{host: ['true']}")
            builds += 1
    return {"builds": builds, "digests": sorted(digests)}


def _look(store: Store, digest: str, name: str) -> None:
    with store.leased():
        named, image = store.use_image(name)
        assert named.descriptor.digest == digest
        for layer in image.layers:
            with store.blobs.open(layer.descriptor) as reader:
                reader.read()
        os.close(store.snapshots.view(image.layers))


def _collect(root: str, number: int, until: float) -> dict[str, object]:
    collections = deleted = 0
    while time.monotonic() < until:
        store = Store.open(root)
        if collections % 4 == 0:
            forget_images(store, used=in_use(store))
        keep = functools.partial(retention.kept, store) if number else keep_nothing
        deleted += len(gc(store, keep=keep, used=in_use(store)).gone)
        if number:
            retention.sweep(store)
        collections += 1
    return {"collections": collections, "deleted": deleted}


def _check(root: str, number: int, until: float) -> dict[str, object]:
    checks = 0
    while time.monotonic() < until:
        store = Store.open(root)
        checked = check_and_mend(store, used=in_use(store)) if checks % 2 else fsck.check(store)
        # What a collector was about to delete, since nothing is known of it any more, is dropped: no damage, but garbage.
        damaged = [finding for finding in checked.findings if finding.what != fsck.UNKNOWN]
        assert not damaged, damaged
        checks += 1
    return {"checks": checks}


ROLES = {"build": _build, "collect": _collect, "check": _check}

if __name__ == "__main__":
    role, root, number, seconds = sys.argv[1:]
    sys.stdout.write(json.dumps(ROLES[role](root, int(number), time.monotonic() + float(seconds))))
