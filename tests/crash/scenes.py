"""A store before an action, copied anew for each attempt, and what must hold after it."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import zstandard

from store import fsck
from store.archive import save
from store.collect import delete_image, forget_images, gc
from store.digest import OCI_LAYER_GZIP, OCI_LAYER_ZSTD, Digest
from store.images import stack
from store.layout import Store
from store.prepare import prepare
from tests.crash.actions import BEST, CONFIG, act, put
from tests.crash.mutants import mutated
from tests.store.samples import compressed, damage, layer_tar, names, put_image, reachable

NOISE = random.Random(1).randbytes(100_000)
DELETED = {"delete": b"old", "prune": b"old", "gc": b"left by a killed build"}  # what comes back is whole, too
ACTIONS = ("open", "new", "load", "tag", "tree", "delete", "gc", "prune", "build", "save", "run")
OF_THE_BEST_DRIVER = tuple(
    f"{BEST}{action}"
    for action in ("new", "load", "load-gzip", "load-zstd", "import", "tree", "delete", "gc", "repair", "rm", "cp", "mount")
)


def quick(tmp_path: Path) -> Path:
    """A directory of the test's own in memory, where an fsync costs nothing; in `tmp_path` where there is no such place."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        return tmp_path
    made = memory / f"box-crash-{os.getpid()}-{tmp_path.name}"
    made.mkdir(mode=0o700)
    return made


def write_archive(top: Path, compression: str) -> None:
    """The archive of an image at `app.tar`, its layers plain, or compressed, too large to be kept in memory."""
    source = Store.open(str(top / "source"), "overlay")
    contents = ({"file": b"loaded", "big": NOISE}, {"big": bytes(range(256)) * 1000})
    put_image(source, "app", *contents)
    if compression:
        pack = compressed if compression == "gzip" else zstandard.ZstdCompressor().compress
        media_type = OCI_LAYER_GZIP if compression == "gzip" else OCI_LAYER_ZSTD
        tars = [layer_tar(files) for files in contents]
        layers = [(source.blobs.put_bytes(pack(tar), media_type), Digest.of(tar)) for tar in tars]
        source.references.set("app", source.images.create(CONFIG, stack(layers)))
    with open(top / "app.tar", "wb", buffering=0) as target:
        save(source, ["app"], target)


class Scene:
    """`template` before the action, `root` for an attempt; `before` and `after` are the names without and with the action."""

    def __init__(self, top: Path, action: str) -> None:
        self.top = top
        self.best = BEST if action.startswith(BEST) else ""
        self.driver = "" if self.best else "overlay"
        action = action.removeprefix(BEST)
        self.action = self.best + action
        self.verb = action
        self.template = top / "template"
        self.root = str(top / "store")
        top.mkdir(parents=True, exist_ok=True)
        if action.startswith("load"):
            write_archive(top, action.removeprefix("load").lstrip("-"))
            self.action = f"{self.best}load={top}/app.tar"
        elif action == "import":
            (top / "root.tar").write_bytes(layer_tar({"file": b"imported", "big": NOISE}))
            self.action = f"{self.best}import={top}/root.tar"
        elif action == "cp":
            (top / "copied").write_bytes(NOISE)
            self.action = f"{self.best}cp={top}/copied"
        elif action == "save":
            self.action = f"save={top}/saved.tar"
        self.before: dict[str, str] = {}
        if action != "open":
            act(str(self.template), f"{self.best}old")
            if action in ("prune", "gc"):
                act(str(self.template), self.best + ("new" if action == "prune" else "garbage"))
            if action in ("run", "rm", "cp"):
                act(str(self.template), "probe")
            if action in ("rm", "cp"):
                act(str(self.template), "create" if action == "rm" else "ended")
            self.before = dict(names(Store(str(self.template))))
        if action == "tree":
            store = Store(str(self.template))
            for chain in store.snapshot_chains():
                for place in filter(os.path.isdir, store.snapshot_places(chain)):
                    shutil.rmtree(place)
        if action == "repair":
            for path in (self.template / "indexes").glob("*/1.erofs"):
                path.write_bytes(path.read_bytes()[:-1] + b"x")
            (self.template / "oci-layout").write_bytes(b"{}")
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
            elif self.verb != "open":
                found.append("the store is gone")
            if self.verb != "delete" or dict(names(Store(self.root))) == self.before:
                self.act()
            store = Store.open(self.root, self.driver)
            if self.verb == "rm" and os.listdir(f"{self.root}/containers"):
                found.append("the container is there still")
            if self.verb == "cp":
                (copied,) = Path(self.root).glob("containers/*/upper/etc/copied")
                if copied.read_bytes() != NOISE:
                    found.append("the copy is not whole")
            if self.verb == "mount":
                found += [f"{path} is left" for path in Path(self.root).glob("mount*/*")]
            if dict(names(store)) != self.after:
                found.append(f"names after the next command: {names(store)}")
            if self.verb in DELETED:
                put(store, "back", DELETED[self.verb])
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
            tars = {digest for digest, _ in store.tars.all()}
            layers = [layer for entry in store.references.all() for layer in store.images.load(entry.descriptor).layers]
            if tars != {layer.diff_id for layer in layers if layer.compressed}:
                found.append(f"tars: {tars}")
            for name in names(store):
                os.close(store.snapshots.view(store.images.load(store.references.get(name)).layers))
            found += damage(self.root)
        except Exception as err:
            found.append(f"the next command failed: {err!r}")
        return found
