"""What a build starts from: a tarball, programs of this machine, an image of the store, or nothing."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Mapping, Sequence

from builder import layers
from builder.cache import NEVER_BUILT, Miss, Result
from builder.changeset import Changeset
from builder.inputs import StatCache, changed_meanwhile, signature
from builder.keys import Parts
from builder.places import located
from builder.session import Session
from builder.settings import Settings, history_of
from builder.view import View
from store.digest import Digest
from store.errors import ArchiveError, BuildError, ReferenceMissing
from store.images import Layer
from store.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from boxfile import Base, HostBase, ImageBase, TarballBase


_NO_PLATFORM: Mapping[str, object] = {}  # this machine's


class Start(Record):
    """A base, ready to build upon: its layers, what containers of it get, what its config says else; an image's digest."""

    layers: tuple[Layer, ...]
    settings: Settings
    history: Sequence[dict[str, object]] = ()
    platform: Mapping[str, object] = _NO_PLATFORM
    parts: Parts | None = None
    image: Digest | None = None


def shown(base: Base) -> str:
    """The base in one line, as the Boxfile has it."""
    from boxfile import HostBase, ImageBase, ScratchBase, TarballBase

    match base:
        case TarballBase():
            return f"base: {base.path}"
        case HostBase():
            return f"base: host: [{', '.join(base.programs)}]"
        case ImageBase():
            return f"base: {base.reference}"
        case ScratchBase():
            return "base: scratch"


def start(base: Base, session: Session) -> Start:
    """Find or make the base's layers. BoxfileError, with the place of `base:`, when it is not there or not what it should be."""
    from boxfile import HostBase, ImageBase, TarballBase

    try:
        match base:
            case TarballBase():
                return _tarball(base, session)
            case HostBase():
                return _host(base, session)
            case ImageBase():
                return _image(base, session)
        return Start((), Settings())
    except (BuildError, ArchiveError) as err:
        raise located(err, session.plan.path, base.at) from err


def _tarball(base: TarballBase, session: Session) -> Start:
    path = os.path.abspath(posixpath.join(session.context.path, base.path))
    with StatCache(f"{session.cache.directory}/inputs/files", session.store.drafts) as known:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as err:
            raise BuildError(
                f"cannot open {base.path}: {os.strerror(err.errno or 0).lower()}", hint=f"looked for {path}"
            ) from err
        try:
            parts, result = _tarball_layer(base.path, os.fsencode(path), descriptor, known, session)
        except OSError as err:
            raise BuildError(f"cannot read {base.path}: {os.strerror(err.errno or 0).lower()}") from err
        finally:
            os.close(descriptor)
    entry = session.history_entry(shown(base), empty=False)
    return Start((layers.layer_of(result, ()),), Settings(), [entry], parts=parts)


def _tarball_layer(name: str, path: bytes, descriptor: int, known: StatCache, session: Session) -> tuple[Parts, Result]:
    def parts_of(digest: bytes) -> Parts:
        return Parts("", "tarball", 0, inputs={name.encode(): b"file " + digest})

    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise BuildError(f"{name} is no file", hint=f"looked for {os.fsdecode(path)}")
    if session.is_first and known.known(path, signature(status)) is None and _is_plain(descriptor):
        # Nothing can be cached, and a plain tar's digest is its layer's diff_id: it need not be read twice.
        session.progress.step_missed(0, NEVER_BUILT)
        with session.timed(0):
            result = _import(descriptor, signature(status), session)
            digest = result.diff_id.removeprefix("sha256:").encode()
            known.learn(path, status, digest)
            session.cache.keep(parts_of(digest), result)
        return parts_of(digest), result
    digest = known.digest(path, descriptor, status)
    found = session.lookup(0, parts_of(digest))
    if not isinstance(found, Miss):
        return parts_of(digest), found.result
    from store.sources import TAR, remember

    with session.timed(0):
        result = _import(descriptor, signature(status), session)
        remember(session.store, TAR, os.fsdecode(path), [Digest.parse(result.digest)])
        session.cache.keep(parts_of(digest), result)
    return parts_of(digest), result


def _is_plain(descriptor: int) -> bool:
    return os.pread(descriptor, 5, 257) == b"ustar"


def _import(descriptor: int, current: bytes, session: Session) -> Result:
    from store.layers import import_layer

    os.lseek(descriptor, 0, os.SEEK_SET)
    with open(os.dup(descriptor), "rb", buffering=0) as file:
        layer = import_layer(session.store, file, parents=())
    if signature(os.fstat(descriptor)) != current:
        raise changed_meanwhile(b"the tarball")
    return layers.result_of(layer)


def _host(base: HostBase, session: Session) -> Start:
    from builder import host

    with StatCache(f"{session.cache.directory}/inputs/host", session.store.drafts) as known:
        closure = host.closure(base.programs, known)
    parts = Parts("", "host", session.epoch, inputs=closure.facts())
    found = session.lookup(0, parts)
    if isinstance(found, Miss):
        with session.timed(0), session.store.drafts.directory("build") as draft:
            os.mkdir(f"{draft.path}/view", 0o755)
            os.chmod(f"{draft.path}/view", 0o755)
            changes = Changeset(View(os.open(f"{draft.path}/view", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)))
            try:
                closure.apply(changes)
                result = session.keep_changes(changes, draft.path, ())
            finally:
                os.close(changes.view.root)
            session.cache.keep(parts, result)
    else:
        result = found.result
    settings = Settings()
    if "sh" in base.programs:
        settings.cmd = ["/bin/sh"]
    entry = session.history_entry(shown(base), empty=False)
    return Start((layers.layer_of(result, ()),), settings, [entry], parts=parts)


def _image(base: ImageBase, session: Session) -> Start:
    try:
        _, image = session.store.use_image(base.reference)
    except ReferenceMissing as err:
        raise located(err, session.plan.path, base.at) from err
    what = f"the config of {base.reference}"
    for layer in image.layers:
        if not session.store.blobs.has(layer.descriptor.digest):
            raise BuildError(f"{base.reference} lacks its layer {layer.descriptor.digest}", hint="load or build it again")
    platform = {name: image.config[name] for name in ("architecture", "os", "variant", "os.version") if name in image.config}
    session.progress.step_cached(0)
    parts = Parts("", "image", 0, inputs={base.reference.encode(): str(image.descriptor.digest).encode()})
    return Start(
        image.layers, Settings.of(image.config, what), history_of(image.config, what), platform, parts, image.descriptor.digest
    )
