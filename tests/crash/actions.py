"""What is done to a store while it is killed, starved or collected: `act(root, "VERB=ARGUMENT")`, by the `overlay` driver; after
`best:` by the one that is best here.

Imported by the actor too, in an interpreter without the packages of the test run: what only some actions need is imported there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from store.archive import load, save
from store.collect import delete_image, forget_images, gc
from store.digest import OCI_LAYER
from store.images import stack
from store.layers import import_layer
from store.layout import Store
from store.marks import InUse
from store.mend import check_and_mend
from store.prepare import prepare
from store.sources import TAR, remember

BEST = "best:"
CONFIG = {"architecture": "amd64", "os": "linux", "created": "1980-01-01T00:00:00Z"}


def tar_of(text: bytes) -> bytes:
    """A layer with a directory and two files, made by the code that is not under test here."""
    from store.tar_read import FILE, Entry
    from store.tar_write import TarWriter

    made = bytearray()
    writer = TarWriter(made.extend)
    for name, content in ((b"d/file", text), (b"d/other", b"the same")):
        entry = Entry(FILE, name, 0o644, 0, 0, 0)
        entry.size = len(content)
        writer.add(entry, content)
    writer.finish()
    return bytes(made)


def put(store: Store, name: str, text: bytes) -> str:
    """An image with one layer, and its name."""
    with store.leased():
        with store.blobs.draft() as draft:
            draft.write(tar_of(text))
            layer = draft.commit(OCI_LAYER)
        image = store.images.create(CONFIG, stack([(layer, layer.digest)]))
        store.references.set(name, image)
    return image.digest


def in_use(store: Store) -> Callable[[], InUse]:
    """What the store's containers stand on, asked when it is needed."""
    from boxcli import in_use as asked

    return lambda: asked.in_use(store.root)


def build(store: Store, name: str, steps: str, base: str = "scratch", cmd: str = "") -> str:
    """An image of a Boxfile; its digest."""
    import boxfile
    from builder.build import build as make

    text = f"box: 1\nbase: {base}\nsteps:\n{steps}" + (f"config: {{cmd: [{cmd}]}}\n" if cmd else "")
    context = f"{os.path.dirname(store.root)}/context"
    with suppress(FileExistsError):
        os.mkdir(context)
    return make(store, boxfile.parse(text, path=f"{context}/Boxfile"), context=context, tag=name).descriptor.digest


def command(root: str, *arguments: str) -> int:
    """A command as typed, in this process."""
    from boxcli.main import main

    return main(["--root", root, *arguments])


def act(root: str, action: str) -> int:
    """Do it; the exit status."""
    verb, _, argument = action.partition("=")
    best, verb = verb.startswith(BEST), verb.removeprefix(BEST)
    if verb == "create":
        return command(root, "create", "--name", "c1", "probe")
    if verb == "ended":
        return command(root, "run", "--name", "c1", "probe")
    if verb == "rm":
        return command(root, "rm", "c1")
    if verb == "cp":
        return command(root, "cp", argument, "c1:/etc/copied")
    if verb == "mount":
        return command(root, "mount", "app") or command(root, "umount", "--all")
    if verb == "run":
        return command(root, "run", "--rm", "probe")
    if verb == "tag":
        return command(root, "tag", "app", "again")
    store = Store.open(root, "" if best else "overlay")
    if verb == "old":
        put(store, "app", b"old")
        put(store, "kept", b"kept")
        prepare(store, "app")
    elif verb == "probe":
        build(store, "probe", "  - mkdir: /x\n", base="{host: [true]}", cmd="'true'")
    elif verb == "garbage":
        put(store, "garbage", b"left by a killed build")
        prepare(store, "garbage")
        store.references.forget([store.references.get("garbage").digest])
    elif verb == "new":
        put(store, "app", b"new")
    elif verb == "put":
        put(store, argument, b"the same")
    elif verb == "build":
        build(store, "built", "  - write: {to: /a, text: a}\n  - mkdir: /b\n")
    elif verb == "load":
        with open(argument, "rb", buffering=0) as source:
            load(store, source)
    elif verb == "import":
        with store.leased(), open(argument, "rb", buffering=0) as source:
            layer = import_layer(store, source)
            remember(store, TAR, argument, [layer.descriptor.digest])
            store.references.set("imported", store.images.create(CONFIG, [layer]))
    elif verb == "repair":
        check_and_mend(store, used=in_use(store))
    elif verb == "save":
        with open(argument, "wb", buffering=0) as target:
            save(store, ["app"], target)
    elif verb == "tree":
        prepare(store, "app")
    elif verb == "delete":
        delete_image(store, "app", used=in_use(store))
    elif verb == "gc":
        gc(store, used=in_use(store))
    elif verb == "prune":
        forget_images(store, used=in_use(store))
        gc(store, used=in_use(store))
    elif verb != "open":
        raise SystemExit(f"no action {verb}")
    return 0
