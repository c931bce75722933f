"""An image of what a container has become: its image's layers, one of its upper directory, and the config that it ran with."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from builder import instructions, layers
from builder.cache import Result
from builder.epoch import epoch_of, written
from builder.settings import Settings, history_of
from runtime import pausing
from runtime.journal import Journal
from runtime.state import Container
from store.copies import copy_upper
from store.digest import Descriptor
from store.errors import RunError, UsageError
from store.faults import Attempt
from store.layout import Store
from store.references import Reference


def commit(
    store: Store,
    container: Container,
    name: str = "",
    *,
    changes: Sequence[str] = (),
    message: str = "",
    author: str = "",
    pause: bool = True,
) -> Descriptor:
    """Make an image of the container, named `name` if that is not empty; its manifest's descriptor.

    What is mounted in the container is not in it. A container that runs stands still meanwhile, with `pause`; without, the image
    may have files in the middle of a change. `changes` are builder.instructions. The image survives a crash. Raises BoxError, and
    no name changed then.
    """
    reference = Reference.parse(name) if name else None
    if reference is not None and reference.digest is not None:
        raise UsageError(f"an image cannot be named by a digest: {name}", hint="name it NAME:TAG")
    if not container.image_digest:
        raise RunError(
            f"container {container.name} is of no image",
            hint=f"'box export {container.name} | box import - NAME' makes one of all its files",
        )
    epoch = epoch_of(os.environ) if os.environ.get("SOURCE_DATE_EPOCH") else int(time.time())
    with store.leased():
        base = store.use_image(container.image_digest)[1]
        settings = _settings(container, base.config)
        for line in changes:
            instructions.change(settings, line)
        chain = base.layers
        with store.drafts.directory("commit") as draft:
            upper = f"{draft.path}/upper"
            os.mkdir(upper, 0o700)
            with _still(container, pause=pause), Attempt("copy what the container changed"):
                copy_upper(f"{container.path}/upper", upper)
            result = layers.keep_upper(store, upper, chain, epoch)
        if result.digest:
            chain = (*chain, layers.layer_of(result, chain))
            store.use_layers(chain[-1:])
        config = {
            **{key: value for key, value in base.config.items() if key not in ("rootfs", "history", "created", "author")},
            "created": written(epoch),
            **({"author": author} if author else {}),
            "config": settings.to_json(),
            "history": [*history_of(base.config, "the container's image"), _history(container, result, epoch, message, author)],
        }
        descriptor = store.images.create(config, chain)
        store.references.add([(reference.full_name if reference is not None else None, descriptor)])
    return descriptor


@contextmanager
def _still(container: Container, *, pause: bool) -> Iterator[None]:
    """In this block the container changes no file: it is paused, or rests and cannot be started."""
    if container.status == "running":
        paused = pause and not container.paused
        if paused:
            pausing.pause(container)
        try:
            yield
        finally:
            if paused:
                pausing.thaw(container)
        return
    journal = Journal.hold(container.path)
    if journal is None:
        raise RunError(f"container {container.name} is in use", hint="try again")
    try:
        yield
    finally:
        journal.close()


def _settings(container: Container, config: Mapping[str, object]) -> Settings:
    """The config that the container ran with."""
    settings = Settings.of(config, "the config of the container's image")
    record = container.record
    # The image's entrypoint, if the command began with it: the rest is its arguments, which the next run may replace.
    count = len(settings.entrypoint)
    if container.argv[:count] == settings.entrypoint:
        settings.cmd = container.argv[count:]
    else:
        settings.entrypoint, settings.cmd = [], container.argv
    settings.env = dict(_pair(entry) for entry in record["env"])
    settings.labels = dict(container.labels)
    settings.user = record["user"]
    if settings.workdir or record["cwd"] != "/":
        settings.workdir = record["cwd"]
    return settings


def _pair(entry: str) -> tuple[str, str]:
    name, _, value = entry.partition("=")
    return name, value


def _history(container: Container, result: Result, epoch: int, message: str, author: str) -> dict[str, object]:
    entry: dict[str, object] = {"created": written(epoch), "created_by": " ".join(container.argv)}
    if author:
        entry["author"] = author
    if message:
        entry["comment"] = message
    if not result.digest:
        entry["empty_layer"] = True
    return entry
