"""The control: an extractor as one writes it on a quiet afternoon. Every attack must be able to hurt it."""

import io
import os
import shutil
import tarfile

_XATTR = "SCHILY.xattr."


def extract(data: bytes, root: str, lower: str = "") -> None:
    """Unpack the layer `data` into `root`, with names and links taken at their word; hard links may lead into `lower`."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            path = os.path.normpath(os.path.join(root, member.name))
            parent, name = os.path.split(path)
            os.makedirs(parent, exist_ok=True)
            if name.startswith(".wh."):
                _delete(os.path.normpath(os.path.join(parent, name[4:])))
                continue
            if not member.isdir() and os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            _make(archive, member, path, root, lower)
            os.chown(path, member.uid, member.gid)
            os.chmod(path, member.mode)
            for key, value in member.pax_headers.items():
                if key.startswith(_XATTR):
                    os.setxattr(path, key[len(_XATTR) :], value.encode())
            os.utime(path, (member.mtime, member.mtime))


def _make(archive: tarfile.TarFile, member: tarfile.TarInfo, path: str, root: str, lower: str) -> None:
    if member.isdir():
        os.makedirs(path, exist_ok=True)
    elif member.issym():
        _delete(path)
        os.symlink(member.linkname, path)
    elif member.islnk():
        _delete(path)
        target = os.path.join(root, member.linkname)
        os.link(os.path.realpath(target if os.path.lexists(target) else os.path.join(lower, member.linkname)), path)
    elif member.ischr():
        _delete(path)
        os.mknod(path, member.mode | 0o020000, os.makedev(member.devmajor, member.devminor))
    elif member.isfifo():
        _delete(path)
        os.mkfifo(path)
    else:
        content = archive.extractfile(member)
        assert content is not None
        with open(path, "wb") as file:
            file.write(content.read())


def _delete(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)
