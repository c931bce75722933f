"""A store before an action, copied anew for each attempt, and what must hold after it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from store import fsck
from store.archive import save
from store.collect import delete_image, forget_images, gc
from store.layout import Store
from store.prepare import prepare
from tests.crash.actions import act, put
from tests.crash.mutants import mutated
from tests.store.samples import damage, names, put_image, reachable

DELETED = {"delete": b"old", "prune": b"old", "gc": b"left by a killed build"}  # what comes back is whole, too
ACTIONS = ("open", "new", "load", "tag", "tree", "delete", "gc", "prune", "build", "save", "run")


def quick(tmp_path: Path) -> Path:
    """A directory of the test's own in memory, where an fsync costs nothing; in `tmp_path` where there is no such place."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        return tmp_path
    made = memory / f"box-crash-{os.getpid()}-{tmp_path.name}"
    made.mkdir(mode=0o700)
    return made


class Scene:
    """`template` before the action, `root` for an attempt; `before` and `after` are the names without and with the action."""

    def __init__(self, top: Path, action: str) -> None:
        self.top = top
        self.action = action
        self.template = top / "template"
        self.root = str(top / "store")
        top.mkdir(parents=True, exist_ok=True)
        if action == "load":
            source = Store.open(str(top / "source"), "overlay")
            put_image(source, "app", {"file": b"loaded"}, {"big": bytes(range(256)) * 1000})
            with open(top / "app.tar", "wb", buffering=0) as target:
                save(source, ["app"], target)
            self.action = f"load={top}/app.tar"
        elif action == "save":
            self.action = f"save={top}/saved.tar"
        self.before: dict[str, str] = {}
        if action != "open":
            act(str(self.template), "old")
            if action in ("prune", "gc"):
                act(str(self.template), "new" if action == "prune" else "garbage")
            if action == "run":
                act(str(self.template), "probe")
            self.before = dict(names(Store(str(self.template))))
        if action == "tree":
            for chain in Store(str(self.template), "overlay").snapshots.all():
                shutil.rmtree(self.template / "snapshots" / chain.removeprefix("sha256:"))
        self.renew()
        act(self.root, self.action)
        self.after: dict[str, str] = dict(names(Store(self.root)))

    def renew(self) -> None:
        """The store as it was before the action."""
        shutil.rmtree(self.root, ignore_errors=True)
        if self.template.exists():
            shutil.copytree(self.template, self.root, symlinks=True)

    def act(self, mutant: str = "") -> int:
        """The action, on a store without a safeguard where a mutant is named."""
        with mutated(mutant):
            return act(self.root, self.action)

    def wrong(self) -> list[str]:
        """What must not be after an attempt, whatever became of it; the next command is tried as well."""
        found: list[str] = []
        try:
            if os.path.exists(f"{self.root}/format"):
                found += damage(self.root)
                if dict(names(Store(self.root))) not in (self.before, self.after):
                    found.append(f"names: {names(Store(self.root))}")
            elif self.action != "open":
                found.append("the store is gone")
            if self.action != "delete" or dict(names(Store(self.root))) == self.before:
                self.act()
            store = Store.open(self.root, "overlay")
            if dict(names(store)) != self.after:
                found.append(f"names after the next command: {names(store)}")
            if self.action in DELETED:
                put(store, "back", DELETED[self.action])
                prepare(store, "back")
                found += [f"{finding.place}: {finding.what}" for finding in fsck.check(store).findings]
                delete_image(store, "back")
            left = [name for name in os.listdir(store.drafts.path) if not name.startswith("lease-")]
            if left:
                found.append(f"drafts are left: {left}")
            found += [f"{finding.place}: {finding.what}" for finding in fsck.check(store).findings]
            forget_images(store)
            gc(store)
            wanted = reachable(store, [entry.descriptor for entry in store.references.all()])
            there = {str(digest) for digest, _ in store.blobs.all()}
            if there != wanted:
                found.append(f"blobs that nobody needs: {there - wanted}, missing: {wanted - there}")
            found += damage(self.root)
        except Exception as err:
            found.append(f"the next command failed: {err!r}")
        return found
