"""The attacks on an unpacker, as a table: what the archive is, how one sees that it worked, and what box is to answer."""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.store import seen
from tests.store.archives import archive, directory, file, hardlink, pax, symlink
from tests.store.archives import header as raw


class Scene:
    """A place to be attacked: `tree` to unpack into, `lower` the layer below, and outside both the canaries."""

    def __init__(self, top: Path) -> None:
        self.jail = top / "jail"
        self.tree = self.jail / "tree"
        self.lower = self.jail / "lower"
        self.outside = self.jail / "outside"
        for path in (self.tree, self.lower, self.outside):
            path.mkdir(parents=True)
        for path in (self.outside / "canary", self.lower / "shared"):
            path.write_bytes(b"sing\n")
            path.chmod(0o640)
            os.chown(path, 1234, 1235)
            os.setxattr(path, "user.canary", b"yellow")
            os.utime(path, ns=(1_111_111_111_222_222_222, 1_111_111_111_222_222_222))
        os.link(self.outside / "canary", self.outside / "second-name")
        (self.outside / "directory").mkdir(mode=0o750)
        self._before = self._seen()

    def _seen(self) -> tuple[object, ...]:
        if not self.outside.is_dir() or not self.lower.is_dir():
            return ()
        links = [os.lstat(path).st_nlink for path in (self.outside / "canary", self.lower / "shared") if os.path.lexists(path)]
        return seen.tree(self.outside), seen.tree(self.lower), links

    def canary_is_hurt(self) -> bool:
        """Whether anything outside the tree differs: bytes, modes, owners, attributes, link counts, times, names."""
        return self._seen() != self._before

    def path(self, name: str) -> bytes:
        return os.fsencode(self.outside / name)

    def at(self, name: str) -> os.stat_result | None:
        try:
            return os.lstat(self.tree / name)
        except (FileNotFoundError, NotADirectoryError):
            return None


@dataclass(frozen=True)
class Attack:
    """`worked` says whether the scene shows the damage; `refused` is part of box's answer, empty where it unpacks harmlessly."""

    name: str
    make: Callable[[Scene], bytes]
    refused: str = ""
    worked: Callable[[Scene], bool] = Scene.canary_is_hurt


EVIL = b"evil\n"


def _owned_by_attributes(*names: str) -> Callable[[Scene], bool]:
    def worked(scene: Scene) -> bool:
        return any(name in os.listxattr(scene.tree / "d") for name in names)

    return worked


def _is_whiteout(scene: Scene) -> bool:
    status = scene.at("shared")
    return status is not None and stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _is_no_file(scene: Scene) -> bool:
    status = scene.at("null")
    return status is None or not stat.S_ISREG(status.st_mode) or status.st_size != len(EVIL)


def _root_is_no_directory(scene: Scene) -> bool:
    return not stat.S_ISDIR(os.lstat(scene.tree).st_mode) or scene.canary_is_hurt()


def _retyped_root(name: bytes) -> Callable[[Scene], bytes]:
    return lambda scene: archive(symlink(name, scene.path(".")), file(b"canary", EVIL))


ATTACKS = [
    Attack("a name that goes up", lambda _: archive(file(b"../outside/canary", EVIL)), "leads upwards"),
    Attack(
        "a name that goes down and further up",
        lambda _: archive(directory(b"a/"), file(b"a/b/../../../outside/canary", EVIL)),
        "leads upwards",
    ),
    Attack("a directory that goes up", lambda _: archive(directory(b"../outside/", 0o777)), "leads upwards"),
    Attack("an absolute name", lambda scene: archive(pax({b"path": scene.path("canary")}), file(b"x", EVIL))),
    Attack("a file through a relative symlink", lambda _: archive(symlink(b"d", b"../outside"), file(b"d/canary", EVIL))),
    Attack(
        "a file through an absolute symlink",
        lambda scene: archive(pax({b"linkpath": scene.path(".")}), symlink(b"d", b"x"), file(b"d/canary", EVIL)),
    ),
    Attack(
        "a file two levels below a relative symlink",
        lambda _: archive(symlink(b"d", b"../outside"), file(b"d/directory/evil", EVIL)),
    ),
    Attack(
        "a file two levels below an absolute symlink",
        lambda scene: archive(pax({b"linkpath": scene.path(".")}), symlink(b"d", b"x"), file(b"d/directory/evil", EVIL)),
    ),
    Attack(
        "a directory dressed two levels below a symlink that replaced its parent",
        lambda _: archive(
            directory(b"d/"),
            directory(b"d/directory/", 0o777, uid=7, mtime=7),
            file(b"d", EVIL),
            symlink(b"d", b"../outside"),
            directory(b"d/directory/", 0o777, uid=7, mtime=7),
        ),
    ),
    Attack(
        "a file through a chain of symlinks",
        lambda _: archive(
            directory(b"a/"),
            symlink(b"a/up", b".."),
            symlink(b"b", b"a/up/../outside"),
            symlink(b"c", b"b"),
            file(b"c/canary", EVIL),
        ),
    ),
    Attack(
        "a directory through a symlink",
        lambda _: archive(symlink(b"d", b"../outside"), directory(b"d/directory/", 0o777, uid=7, mtime=7)),
    ),
    Attack(
        "a symlink through a symlink",
        lambda _: archive(symlink(b"d", b"../outside"), symlink(b"d/canary", b"/dev/null")),
    ),
    Attack("a whiteout through a symlink", lambda _: archive(symlink(b"d", b"../outside"), file(b"d/.wh.canary"))),
    Attack(
        "a hard link through a symlink",
        lambda _: archive(symlink(b"d", b"../outside"), hardlink(b"h", b"d/canary"), file(b"h", EVIL)),
        "hard link to what is not there",
    ),
    Attack(
        "a hard link that goes up", lambda _: archive(hardlink(b"h", b"../outside/canary"), file(b"h", EVIL)), "leads upwards"
    ),
    Attack(
        "a hard link to an absolute name",
        lambda scene: archive(pax({b"linkpath": scene.path("canary")}), hardlink(b"h", b"x"), file(b"h", EVIL)),
        "hard link to what is not there",
    ),
    Attack(
        "a hard link to a symlink, then written",
        lambda _: archive(symlink(b"s", b"../outside/canary"), hardlink(b"h", b"s"), file(b"h", EVIL)),
    ),
    Attack(
        "a hard link to a symlink, then dressed",
        lambda _: archive(symlink(b"s", b"../outside/canary"), hardlink(b"h", b"s", mode=0o4777, uid=7)),
    ),
    Attack(
        "a hard link into the layer below, then written",
        lambda _: archive(hardlink(b"h", b"shared"), file(b"h", EVIL)),
    ),
    Attack("mode, owner and time set through a symlink", lambda _: archive(symlink(b"s", b"../outside/canary", uid=7, mtime=7))),
    Attack(
        "an extended attribute set through a symlink",
        lambda _: archive(pax({b"SCHILY.xattr.trusted.mark": b"evil"}), symlink(b"s", b"../outside/canary")),
        worked=lambda scene: "trusted.mark" in os.listxattr(scene.outside / "canary"),
    ),
    Attack("a file where a symlink is", lambda _: archive(symlink(b"s", b"../outside/canary"), file(b"s", EVIL))),
    Attack(
        "a file where a device is",
        lambda _: archive(raw(b"null", b"3", device=(1, 3)), file(b"null", EVIL)),
        worked=_is_no_file,
    ),
    Attack("the root as a symlink: .", _retyped_root(b"."), "root of the archive is not a directory", _root_is_no_directory),
    Attack("the root as a symlink: /.", _retyped_root(b"./."), "root of the archive is not a directory", _root_is_no_directory),
    Attack("the root as a symlink: ./", _retyped_root(b"./"), "root of the archive is not a directory", _root_is_no_directory),
    Attack(
        "the root as a file", lambda _: archive(file(b".", EVIL)), "root of the archive is not a directory", _root_is_no_directory
    ),
    Attack(
        "the root as a hard link",
        lambda _: archive(file(b"f", EVIL), hardlink(b"./", b"f")),
        "root of the archive is not a directory",
        lambda scene: not scene.tree.is_dir() or os.listdir(scene.tree) == [],
    ),
    Attack("a whiteout of the parent", lambda _: archive(file(b".wh...")), "whiteout that names nothing"),
    Attack(
        "a whiteout of the directory itself",
        lambda _: archive(file(b"kept"), file(b".wh..")),
        "whiteout that names nothing",
        lambda scene: scene.at("kept") is None,
    ),
    Attack(
        "a whiteout of nothing",
        lambda _: archive(directory(b"d/"), file(b"d/kept"), file(b"d/.wh.")),
        "whiteout that names nothing",
        lambda scene: scene.at("d/kept") is None,
    ),
    Attack(
        "a directory whose name is a whiteout's",
        lambda _: archive(file(b"d/.wh.x/file", EVIL)),
        "name means a deleted file",
        lambda scene: scene.at("d/.wh.x/file") is not None,
    ),
    Attack(
        "a forged whiteout",
        lambda _: archive(raw(b"shared", b"3", device=(0, 0))),
        "character device 0:0",
        _is_whiteout,
    ),
    Attack(
        "forged overlayfs attributes",
        lambda _: archive(
            pax({b"SCHILY.xattr.trusted.overlay.redirect": b"/etc", b"SCHILY.xattr.user.overlay.opaque": b"y"}), directory(b"d/")
        ),
        worked=_owned_by_attributes("trusted.overlay.redirect", "user.overlay.opaque"),
    ),
    Attack(
        "attributes of a security module",
        lambda _: archive(pax({b"SCHILY.xattr.security.evil": b"x"}), directory(b"d/")),
        worked=_owned_by_attributes("security.evil"),
    ),
]
