"""Makes what prepared.py reads: the slow way to an image, gone once, which explains itself when it fails."""

from store.documents import mapping_at, object_at, text_at, texts_at
from store.errors import StoreError
from store.images import Image
from store.layout import Store
from store.prepared import Prepared, boot_id, spell
from store.references import Named


def prepare(store: Store, text: str) -> Prepared:
    """The image that `text` names (see `References.resolve`), its trees all there, in a form that `lookup` finds next time.

    ReferenceMissing, BlobMissing, BlobCorrupt, or StoreError when its config cannot be run.
    """
    with store.leased():
        named, image = store.use_image(text)
        prepared = describe(image, named, store.snapshots.trees(image.layers))
        if store.forced:  # what the next command finds prepared is to be of the best driver
            return prepared
        inside = [tree.removeprefix(store.root + "/") for tree in prepared.trees]
        data = spell(prepared, boot_id(), inside)
        store.drafts.replace(f"{store.root}/prepared/{named.descriptor.digest.hex}", data, durable=False)
        store.references.refresh()
    return prepared


def describe(image: Image, named: Named, trees: list[str]) -> Prepared:
    """The image's config in the words of `run`."""
    what = f"config {image.id}"
    config = object_at(image.config, "config", what)
    prepared = Prepared(
        reference=named.name or str(named.descriptor.digest),
        manifest_digest=str(named.descriptor.digest),
        config_digest=str(image.id),
        architecture=text_at(image.config, "architecture", what),
        os=text_at(image.config, "os", what),
        workdir=text_at(config, "WorkingDir", what, ""),
        user=text_at(config, "User", what, ""),
        stop_signal=text_at(config, "StopSignal", what, ""),
        env=texts_at(config, "Env", what),
        entrypoint=texts_at(config, "Entrypoint", what),
        cmd=texts_at(config, "Cmd", what),
        volumes=sorted(object_at(config, "Volumes", what)),
        labels=mapping_at(config, "Labels", what),
        trees=trees,
        healthcheck=_healthcheck(object_at(config, "Healthcheck", what), f"Healthcheck of {what}"),
    )
    _check_nul(prepared, what)
    return prepared


def _healthcheck(fields: dict[str, object], what: str) -> list[str]:
    test = texts_at(fields, "Test", what)
    if not test:
        return []
    numbers = [fields.get(name) or 0 for name in ("Interval", "Timeout", "StartPeriod", "Retries")]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise StoreError(f"{what} is not as OCI images have it")
    return [*map(str, numbers), *test]


def _check_nul(prepared: Prepared, what: str) -> None:
    # A NUL ends a field of the prepared file; execve, chdir and mount would each cut such a text short in silence.
    texts = [prepared.architecture, prepared.os, prepared.workdir, prepared.user, prepared.stop_signal, *prepared.env]
    texts += [*prepared.entrypoint, *prepared.cmd, *prepared.volumes, *prepared.labels, *prepared.labels.values()]
    texts += prepared.healthcheck
    if any("\0" in text for text in texts):
        raise StoreError(f"{what} has a NUL character in it")
