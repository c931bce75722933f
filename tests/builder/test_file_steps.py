"""Steps that change files, against trees on disk: where things come to lie, with which mode and owner, and what is refused."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from boxfile import CopyStep, MkdirStep, Place, RemoveStep, SymlinkStep, WorkdirStep, WriteStep
from builder import copying, files
from builder.changeset import Changeset
from builder.inputs import Context, StatCache
from builder.view import View
from builder.writing import write_changes
from store.errors import BuildError
from store.pack import pack_changeset
from tests.builder.building import drafts

pytestmark = pytest.mark.needs("root")

AT = Place(1, 1)
EPOCH = 315532800
PASSWD = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n"


class Tables:
    """An image's tree, a context, and what a step makes of them."""

    def __init__(self, top: Path) -> None:
        self.image = top / "image"
        self.context = top / "context"
        self.top = top
        self.count = 0
        for directory in (self.image, self.context):
            directory.mkdir()
            directory.chmod(0o755)
        (self.image / "etc").mkdir()
        (self.image / "etc/passwd").write_text(PASSWD)
        (self.image / "etc/group").write_text("www:x:33:\n")

    def fill(self, *paths: str) -> None:
        """Files of the context; a final slash makes a directory."""
        for path in paths:
            place = self.context / path
            if path.endswith("/"):
                place.mkdir(parents=True, exist_ok=True)
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(path)

    def copy(
        self, *sources: str, to: str, owner: str | None = None, mode: int | None = None, exclude: tuple[str, ...] = ()
    ) -> Path:
        step = CopyStep(AT, "copy", sources, to, owner, mode, exclude)
        with Context(str(self.context), StatCache(str(self.top / "digests"), drafts(self.top))) as context:
            return self.apply(lambda view: files.copy(step, copying.select(step, context), context, view))

    def apply(self, make: object) -> Path:
        self.count += 1
        upper = self.top / f"upper{self.count}"
        upper.mkdir(mode=0o700)
        root = os.open(self.image, os.O_RDONLY | os.O_DIRECTORY)
        descriptor = os.open(upper, os.O_RDONLY | os.O_DIRECTORY)
        try:
            changes = make(View(root))  # type: ignore[operator]  # a function of a view
            assert isinstance(changes, Changeset)
            written: list[bytes] = []
            write_changes(changes, descriptor, lambda data: written.append(bytes(data)), EPOCH)
            packed: list[bytes] = []
            pack_changeset(descriptor, lambda data: packed.append(bytes(data)), epoch=EPOCH)
            assert b"".join(written) == b"".join(packed)  # the one pass gives the very layer that the tree has
        finally:
            os.close(descriptor)
            os.close(root)
        return upper


@pytest.fixture
def on(tmp_path: Path) -> Iterator[Tables]:
    before = os.umask(0o077)  # whatever it is, it must not matter
    os.umask(before)
    yield Tables(tmp_path)


def tree(top: Path) -> dict[str, str]:
    """Everything below `top`: its mode, owner, and content or target."""
    found = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        text = f"{stat.S_IMODE(status.st_mode):o} {status.st_uid}:{status.st_gid}"
        if path.is_symlink():
            text += f" -> {os.readlink(path)}"
        elif path.is_file():
            text += f" {path.read_text()}"
        elif stat.S_ISCHR(status.st_mode):
            text = f"whiteout {os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
        found[str(path.relative_to(top)) + ("/" if path.is_dir() and not path.is_symlink() else "")] = text
    return found


def names(top: Path) -> list[str]:
    return [name for name in tree(top) if not name.endswith("/")]


@pytest.mark.parametrize("source", ["src", "src/", "./src", "src/**"])
def test_a_directory_gives_its_contents_however_it_is_written(on: Tables, source: str) -> None:
    on.fill("src/a.py", "src/deep/b.py", "src/empty/")
    assert tree(on.copy(source, to="/app")) == {
        "app/": "755 0:0",
        "app/a.py": "644 0:0 src/a.py",
        "app/deep/": "755 0:0",
        "app/deep/b.py": "644 0:0 src/deep/b.py",
        "app/empty/": "755 0:0",
    }


@pytest.mark.parametrize(
    ("to", "path"),
    [("/x", "x"), ("/x/", "x/f"), ("/etc", "etc/f"), ("/new/deep/x", "new/deep/x"), ("/link", "etc/f"), ("/", "f")],
)
def test_a_file_goes_to_its_destination_or_into_it(on: Tables, to: str, path: str) -> None:
    on.fill("f")
    (on.image / "link").symlink_to("/etc")
    assert names(on.copy("f", to=to)) == [path]


def test_several_sources_need_a_directory(on: Tables) -> None:
    on.fill("a", "b", "src/c")
    with pytest.raises(BuildError, match="several sources cannot all become the file /x") as caught:
        on.copy("a", "b", to="/x")
    assert "write /x/" in caught.value.hint
    assert names(on.copy("a", "b", to="/x/")) == ["x/a", "x/b"]
    assert names(on.copy("a", "src/", to="/x")) == ["x/a", "x/c"]


def test_a_pattern_needs_a_directory_also_when_it_matches_one_file(on: Tables) -> None:
    on.fill("a.py", "b.txt")
    with pytest.raises(BuildError, match="several sources"):
        on.copy("*.py", to="/x")
    assert names(on.copy("*.py", to="/x/")) == ["x/a.py"]


def test_a_pattern_that_matches_nothing_is_an_error(on: Tables) -> None:
    on.fill("a.py")
    with pytest.raises(BuildError, match=r"nothing in the build's directory matches '\*\.js'"):
        on.copy("*.js", to="/x/")


@pytest.mark.parametrize("source", ["../secret", "src/../../secret", ".."])
def test_a_source_above_the_context_is_refused(on: Tables, source: str) -> None:
    (on.top / "secret").write_text("s")
    on.fill("src/")
    with pytest.raises(BuildError, match="leaves the build's directory"):
        on.copy(source, to="/x")


def test_a_source_that_is_a_link_is_followed_within_the_context_only(on: Tables) -> None:
    on.fill("real/f")
    (on.context / "in").symlink_to("real")
    (on.context / "out").symlink_to(on.top)
    (on.context / "gone").symlink_to("nothing")
    assert names(on.copy("in", to="/x")) == ["x/f"]
    with pytest.raises(BuildError, match="out leads out of the build's directory"):
        on.copy("out", to="/x")
    with pytest.raises(BuildError, match="gone is a symbolic link to nothing"):
        on.copy("gone", to="/x")


def test_links_below_a_source_are_copied_as_links_wherever_they_lead(on: Tables) -> None:
    on.fill("src/f")
    (on.context / "src/out").symlink_to("/etc/shadow")
    (on.context / "src/up").symlink_to("../../secret")
    assert tree(on.copy("src", to="/x"))["x/out"] == "777 0:0 -> /etc/shadow"


def test_excluded_names_stay_out_with_all_that_is_below_them(on: Tables) -> None:
    on.fill("src/a.py", "src/a.pyc", "src/node_modules/x", "src/deep/b.pyc", "src/deep/b.py", "top.pyc")
    upper = on.copy("src", to="/x/", exclude=("*.pyc", "node_modules"))
    assert names(upper) == ["x/a.py", "x/deep/b.py"]


def test_modes_follow_the_executable_bit_and_nothing_else(on: Tables) -> None:
    on.fill("src/plain", "src/tool", "src/odd", "src/d/")
    for name, mode in (("plain", 0o600), ("tool", 0o700), ("odd", 0o4667), ("d", 0o2700)):
        (on.context / "src" / name).chmod(mode)
    upper = tree(on.copy("src", to="/x"))
    assert {name: text.split()[0] for name, text in upper.items()} == {
        "x/": "755", "x/d/": "755", "x/odd": "644", "x/plain": "644", "x/tool": "755",
    }  # fmt: skip


@pytest.mark.parametrize(("mode", "directory"), [(0o600, "700"), (0o644, "755"), (0o4750, "4750"), (0o440, "550")])
def test_a_declared_mode_is_that_of_the_files_and_directories_can_be_entered(on: Tables, mode: int, directory: str) -> None:
    on.fill("src/f", "src/d/g")
    upper = tree(on.copy("src", to="/x", mode=mode))
    assert upper["x/f"].split()[0] == f"{mode:o}"
    assert upper["x/d/"].split()[0] == directory


@pytest.mark.parametrize(
    ("owner", "ids"),
    [
        (None, "0:0"),
        ("app", "1000:1001"),
        ("app:www", "1000:33"),
        ("1000", "1000:1001"),
        ("7", "7:7"),
        ("7:8", "7:8"),
        ("0:33", "0:33"),
    ],
)
def test_owners_come_from_the_images_own_passwd(on: Tables, owner: str | None, ids: str) -> None:
    on.fill("src/f")
    upper = tree(on.copy("src", to="/parent/x", owner=owner))
    assert upper["parent/x/f"].split()[1] == ids
    assert upper["parent/x/"].split()[1] == ids
    assert upper["parent/"].split()[1] == "0:0"


def test_an_owner_that_the_image_does_not_have_is_an_error(on: Tables) -> None:
    on.fill("f")
    with pytest.raises(BuildError, match="no user 'nginx' in the image's /etc/passwd"):
        on.copy("f", to="/x", owner="nginx")


def test_a_directory_that_exists_keeps_its_mode_owner_and_attributes(on: Tables) -> None:
    on.fill("src/opt/f")
    (on.image / "opt").mkdir()
    (on.image / "opt").chmod(0o1770)
    os.chown(on.image / "opt", 5, 6)
    os.setxattr(on.image / "opt", "user.note", b"kept")
    upper = on.copy("src", to="/", owner="app")
    assert tree(upper)["opt/"] == "1770 5:6"
    assert os.getxattr(upper / "opt", "user.note") == b"kept"


def test_a_directory_over_a_link_to_a_directory_goes_where_the_link_leads(on: Tables) -> None:
    on.fill("root/lib/f")
    (on.image / "usr/lib").mkdir(parents=True)
    (on.image / "lib").symlink_to("usr/lib")
    assert names(on.copy("root", to="/")) == ["usr/lib/f"]


def test_a_link_in_the_image_never_leads_out_of_it(on: Tables) -> None:
    on.fill("f")
    canary = on.top / "canary"
    canary.mkdir()
    (on.image / "abs").symlink_to(canary)
    (on.image / "up").symlink_to("../../../../.." + str(canary))
    before = canary.stat()
    inside = str(canary).lstrip("/")
    # A naive join is led out: this is the attack at work.
    assert os.path.realpath(on.image / "abs") == str(canary)
    assert names(on.copy("f", to="/abs/f")) == [f"{inside}/f"]
    assert names(on.copy("f", to="/up/f")) == [f"{inside}/f"]
    assert list(canary.iterdir()) == []
    assert canary.stat().st_mtime_ns == before.st_mtime_ns


def test_a_loop_of_links_is_an_error(on: Tables) -> None:
    on.fill("f")
    (on.image / "a").symlink_to("b")
    (on.image / "b").symlink_to("a")
    with pytest.raises(BuildError, match="more than 40 symbolic links"):
        on.copy("f", to="/a/f")


def test_a_file_where_a_directory_is_needed_is_an_error(on: Tables) -> None:
    on.fill("f", "src/etc/passwd/x")
    with pytest.raises(BuildError, match="/etc/passwd is no directory in the image"):
        on.copy("f", to="/etc/passwd/f")
    with pytest.raises(BuildError, match="/etc/passwd is a file in the image, where a directory is needed"):
        on.copy("src", to="/")


def test_a_file_does_not_replace_a_directory(on: Tables) -> None:
    on.fill("src/etc")
    with pytest.raises(BuildError, match="/etc is a directory in the image and would be replaced by a file"):
        on.copy("src", to="/")


def test_a_later_source_wins_over_an_earlier_one(on: Tables) -> None:
    on.fill("one/f", "two/f")
    assert tree(on.copy("one", "two", to="/x"))["x/f"].endswith("two/f")


def test_a_large_file_arrives_whole(on: Tables) -> None:
    data = os.urandom(3 << 20)
    (on.context / "big").write_bytes(data)
    assert (on.copy("big", to="/big") / "big").read_bytes() == data


@pytest.mark.parametrize("size", [100, 3 << 20])
@pytest.mark.parametrize("change", [b"", b"shorter", b"x" * (4 << 20)])
def test_a_file_that_changes_between_listing_and_copying_ends_the_step(on: Tables, size: int, change: bytes) -> None:
    (on.context / "f").write_bytes(bytes(size))
    step = CopyStep(AT, "copy", ("f",), "/f")
    with Context(str(on.context), StatCache(str(on.top / "digests"), drafts(on.top))) as context:
        selection = copying.select(step, context)
        (on.context / "f").write_bytes(change)
        with pytest.raises(BuildError, match="f changed while the build was reading it"):
            on.apply(lambda view: files.copy(step, selection, context, view))


def test_write_makes_a_file_and_follows_a_link(on: Tables) -> None:
    (on.image / "etc/motd").symlink_to("../run/motd")
    upper = on.apply(lambda view: files.write(WriteStep(AT, "", "/etc/motd", "hello\n", "app", 0o600), view))
    assert tree(upper) == {"run/": "755 0:0", "run/motd": "600 1000:1001 hello\n"}


def test_mkdir_says_what_a_directory_is_whether_it_was_there_or_not(on: Tables) -> None:
    upper = on.apply(lambda view: files.mkdir(MkdirStep(AT, "", "/a/b/c", "app", 0o700), view))
    assert tree(upper) == {"a/": "755 0:0", "a/b/": "755 0:0", "a/b/c/": "700 1000:1001"}
    (on.image / "etc").chmod(0o711)
    os.chown(on.image / "etc", 9, 9)
    assert tree(on.apply(lambda view: files.mkdir(MkdirStep(AT, "", "/etc", None, 0o750), view))) == {"etc/": "750 9:9"}


def test_workdir_makes_a_directory_only_where_there_is_none(on: Tables) -> None:
    assert tree(on.apply(lambda view: files.workdir(WorkdirStep(AT, "", "/etc"), view))) == {}
    assert tree(on.apply(lambda view: files.workdir(WorkdirStep(AT, "", "/srv/app"), view))) == {
        "srv/": "755 0:0", "srv/app/": "755 0:0",
    }  # fmt: skip


def test_symlink_makes_a_link_in_place_of_a_file_or_link_but_not_of_a_directory(on: Tables) -> None:
    (on.image / "sh").symlink_to("bash")
    assert tree(on.apply(lambda view: files.symlink(SymlinkStep(AT, "", "/sh", "/bin/dash"), view))) == {
        "sh": "777 0:0 -> /bin/dash"
    }
    with pytest.raises(BuildError, match="/etc is a directory in the image and would be replaced by a symlink"):
        on.apply(lambda view: files.symlink(SymlinkStep(AT, "", "/etc", "/x"), view))


def remove(on: Tables, *patterns: str) -> dict[str, str]:
    return tree(on.apply(lambda view: files.remove(RemoveStep(AT, "", patterns), view)))


def test_remove_whites_out_what_matches(on: Tables) -> None:
    for name in ("usr/share/doc/a/b", "usr/share/doc/c", "usr/share/man"):
        (on.image / name).parent.mkdir(parents=True, exist_ok=True)
        (on.image / name).write_text("x")
    (on.image / "doc").symlink_to("usr/share/doc")
    gone = "whiteout 0:0"
    share = {"usr/": "755 0:0", "usr/share/": "755 0:0"}
    doc = {**share, "usr/share/doc/": "755 0:0"}
    assert remove(on, "/usr/share/doc/**") == {**doc, "usr/share/doc/a": gone, "usr/share/doc/c": gone}
    assert remove(on, "/usr/share/doc") == {**share, "usr/share/doc": gone}
    assert remove(on, "/doc/c") == {**doc, "usr/share/doc/c": gone}
    assert remove(on, "/doc") == {"doc": gone}
    assert remove(on, "/usr/share/doc/a/b", "/usr/share/doc", "/usr/share/doc/c") == {**share, "usr/share/doc": gone}
    assert remove(on, "/**/b") == {**doc, "usr/share/doc/a/": "755 0:0", "usr/share/doc/a/b": gone}
    assert remove(on, "/nothing*") == {}


def test_remove_of_a_name_that_is_not_there_is_an_error(on: Tables) -> None:
    with pytest.raises(BuildError, match=r"/etc/nothing is not in the image") as caught:
        remove(on, "/etc/nothing")
    assert "/etc/nothing*" in caught.value.hint


def test_the_root_directory_cannot_be_removed(on: Tables) -> None:
    with pytest.raises(BuildError, match="the root directory cannot be removed"):
        remove(on, "/")


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_the_umask_does_not_matter(on: Tables, umask: int) -> None:
    on.fill("src/f", "src/d/g")
    before = os.umask(umask)
    try:
        upper = on.copy("src", to="/new/x")
    finally:
        os.umask(before)
    assert {text.split()[0] for text in tree(upper).values()} == {"755", "644"}
