"""Stacks of layers with everything that a layer can say, from short notes, and such notes as hypothesis makes them up."""

import io
import os
import tarfile
from collections.abc import Sequence

from hypothesis import strategies as st

from store.digest import OCI_LAYER
from store.images import Layer, stack
from store.layout import Store

Note = tuple[str, str, str]
"""What (file, dir, link, hard, gone, opaque, fifo), where, and what with: content, target, or the mode of a directory."""


def tar_of(notes: Sequence[Note]) -> bytes:
    """The layer that the notes describe, in their order."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for kind, path, extra in notes:
            above, _, name = path.rpartition("/")
            if kind == "gone":
                path = f"{above}/.wh.{name}" if above else f".wh.{name}"
            elif kind == "opaque":
                path = f"{path}/.wh..wh..opq" if path else ".wh..wh..opq"
            member = tarfile.TarInfo(path)
            member.mode = 0o644
            data = b""
            if kind == "dir":
                member.type, member.mode = tarfile.DIRTYPE, int(extra or "755", 8)
            elif kind in ("link", "hard"):
                member.type, member.linkname = (tarfile.SYMTYPE if kind == "link" else tarfile.LNKTYPE), extra
            elif kind == "fifo":
                member.type = tarfile.FIFOTYPE
            elif kind == "file":
                data, _, mode = extra.encode().partition(b" mode ")
                member.mode = int(mode or b"644", 8)
                member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return target.getvalue()


def put(store: Store, *layers: Sequence[Note]) -> tuple[Layer, ...]:
    """The stack of these layers, in the store, the lowest first."""
    blobs = [store.blobs.put_bytes(tar_of(notes), OCI_LAYER) for notes in layers]
    return stack([(blob, blob.digest) for blob in blobs])


def on_top(layers: Sequence[Layer], more: Sequence[Layer]) -> tuple[Layer, ...]:
    """`more` as they are on top of `layers`."""
    return stack([(layer.descriptor, layer.diff_id) for layer in (*layers, *more)])


# Names that are mostly directories' and names that are mostly files', so that most layers can be.
_PATHS = st.builds(
    lambda above, name: "/".join([*above, name]), st.lists(st.sampled_from("ab"), max_size=2), st.sampled_from("axyz")
)
_FILES = st.tuples(st.just("file"), _PATHS, st.sampled_from(["", "x", "y", "longer", "x mode 600"]))
_NOTES = st.one_of(
    _FILES,
    _FILES,
    st.tuples(st.just("dir"), _PATHS, st.sampled_from(["755", "700"])),
    st.tuples(st.just("link"), _PATHS, st.sampled_from(["a", "/b", "../c", "/a/b", "nowhere"])),
    st.tuples(st.just("hard"), _PATHS, _PATHS),
    st.tuples(st.just("gone"), _PATHS, st.just("")),
    st.tuples(st.just("opaque"), st.one_of(st.just(""), _PATHS), st.just("")),
)
LAYER = st.lists(_NOTES, max_size=6)
STACK = st.lists(LAYER, min_size=1, max_size=3)


def listed(top: int) -> dict[bytes, tuple[str, int, bytes]]:
    """Every path below `top` with its type, mode and content or target, by os.walk."""
    root = f"/proc/self/fd/{top}/."
    found = {}
    for directory, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = os.path.join(directory, name)
            try:
                status = os.lstat(path)
            except FileNotFoundError:
                continue  # a whiteout with nothing below it: overlayfs lists its name, and there is nothing
            kind = {0o040000: "dir", 0o100000: "file", 0o120000: "link", 0o010000: "fifo"}[status.st_mode & 0o170000]
            content = b""
            if kind == "file":
                with open(path, "rb") as file:
                    content = file.read()
            elif kind == "link":
                content = os.readlink(os.fsencode(path))
            found[os.fsencode(os.path.relpath(path, root))] = (kind, 0 if kind == "link" else status.st_mode & 0o7777, content)
    return found
