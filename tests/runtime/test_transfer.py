"""`cp`: docker's rules for names, and nothing read or written outside of the container, whoever plays tricks inside."""

import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime import lifecycle, transfer
from runtime.ends import End, parse
from runtime.roots import maps_of
from runtime.spec import Bind, Tmpfs
from runtime.state import Container
from runtime.transfer import Options
from store.errors import BoxError, UsageError
from store.layout import Store
from store.place import Content, Placer
from store.syscalls import syscall
from store.tar_read import Entry
from store.trees import delete_tree
from tests.containers import Site, probing, until
from tests.store import seen
from tests.store.exchanger import Canary

pytestmark = pytest.mark.needs("root", "overlay", "cgroup")

SCRIPT = """
mkdir -p /src/sub /dst/existing; echo one > /src/file; echo two > /src/sub/file; echo old > /dst/file
python3 -c "import os; os.symlink('/src/file', '/to-file'); os.symlink('/src', '/to-dir'); os.symlink('/nowhere', '/dangling')"
touch /ready; exec sleep 1000
"""


class Copier:
    """A container, and copies to and from it by what one would type; `%` stands for it."""

    def __init__(self, site: Site, container: Container, here: Path) -> None:
        self.site, self.container, self.here = site, container, here
        self.store = Store.open(site.root)
        self.left_out: list[tuple[str, str]] = []

    def __call__(self, source: str, target: str, *, stdin: bytes = b"", archive: bool = False, follow: bool = False) -> bytes:
        written = io.BytesIO()
        with self.store.leased():
            ends = [parse(self.store, text.replace("%", self.container.name)) for text in (source, target)]
            transfer.copy(
                self.store,
                *ends,
                Options(archive=archive, follow=follow),
                lambda path, why: self.left_out.append((path, why)),
                read=io.BytesIO(stdin),
                write=written.write,
            )
        return written.getvalue()

    def path(self, path: str) -> Path:
        """The container's path, as long as it runs."""
        return Path(f"/proc/{self.container.pid}/root{path}")

    def stop(self) -> None:
        lifecycle.stop(self.container, 0)
        now = self.site.containers.read(self.container.id)
        assert now is not None
        self.container = now


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    for name in ("rw", "ro"):
        (tmp_path / "volumes" / name).mkdir(parents=True)
        (tmp_path / "volumes" / name / "file").write_text(name)
    return tmp_path / "volumes"


@pytest.fixture
def cp(site: Site, tmp_path: Path, volumes: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Copier]:
    here = tmp_path / "here"
    (here / "src" / "sub").mkdir(parents=True)
    (here / "src" / "file").write_text("one\n")
    (here / "src" / "sub" / "file").write_text("two\n")
    (here / "dst" / "existing").mkdir(parents=True)
    (here / "dst" / "file").write_text("old\n")
    (here / "to-file").symlink_to("src/file")
    (here / "to-dir").symlink_to("src")
    (here / "dangling").symlink_to("nowhere")
    monkeypatch.chdir(here)
    mounts = [Bind(str(volumes / "rw"), "/rw"), Bind(str(volumes / "ro"), "/ro", True), Tmpfs("/memory")]
    started = site.start("sh", "-c", SCRIPT, removed=False, mounts=mounts)
    try:
        until(lambda: os.path.exists(f"{started.path}/upper/ready"))
        yield Copier(site, started, here)
    finally:
        now = site.containers.read(started.id)
        if now is not None:
            lifecycle.remove(now, force=True)


MADE = ["existing", "file", "new", "new/file", "new/sub", "new/sub/file"]
WITHIN = ["existing", "existing/src", "existing/src/file", "existing/src/sub", "existing/src/sub/file", "file"]

# What is copied, where to below dst, and what is there then; an error's words where it cannot be.
RULES: dict[str, tuple[str, str, list[str] | str]] = {
    "a file to a new name": ("src/file", "dst/new", ["existing", "file", "new"]),
    "a file over a file": ("src/file", "dst/file", ["existing", "file"]),
    "a file into a directory": ("src/file", "dst/existing", ["existing", "existing/file", "file"]),
    "a file into a directory with a slash": ("src/file", "dst/existing/", ["existing", "existing/file", "file"]),
    "a file into a directory with a slash that is not there": ("src/file", "dst/none/", "there is no directory"),
    "a file below a directory that is not there": ("src/file", "dst/none/new", "there is no directory"),
    "a file to a file with a slash": ("src/file", "dst/file/", "is not a directory"),
    "a file below a file": ("src/file", "dst/file/new", "there is no directory"),
    "a directory to a new name": ("src", "dst/new", MADE),
    "a directory to a new name with a slash": ("src", "dst/new/", MADE),
    "a directory into a directory": (
        "src", "dst/existing", WITHIN,
    ),
    "what is in a directory into a directory": (
        "src/.", "dst/existing", ["existing", "existing/file", "existing/sub", "existing/sub/file", "file"],
    ),
    "what is in a directory to a new name": ("src/.", "dst/new", MADE),
    "a directory over a file": ("src", "dst/file", "cannot copy a directory to"),
    "a file as a directory": ("src/file/", "dst/new", "is not a directory"),
    "a file as what is in a directory": ("src/file/.", "dst/new", "there is no directory"),
    "what is not there": ("src/none", "dst/new", "there is no"),
    "what a link to a directory means with a slash": ("to-dir/", "dst/new", MADE),
    "the parent by its own name": ("src/sub/..", "dst/existing", WITHIN),
}  # fmt: skip


def below(top: Path) -> list[str]:
    return sorted(str(path.relative_to(top)) for path in top.rglob("*"))


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("way", ["in", "out"])
@pytest.mark.parametrize("name", RULES)
def test_the_destination_is_docker_s(cp: Copier, name: str, way: str, ended: bool) -> None:
    source, target, expected = RULES[name]
    top = cp.here / "dst"
    if ended:
        cp.stop()
    ends = (source, f"%:/{target}") if way == "in" else (f"%:/{source}", target)
    if isinstance(expected, str):
        with pytest.raises(BoxError, match=expected):
            cp(*ends)
        expected = ["existing", "file"]
    else:
        cp(*ends)
    if way == "in":
        cp("%:/dst", "back")
        top = cp.here / "back"
    assert below(top) == expected
    for path in top.rglob("file"):
        if path.parent.name == "sub":
            assert path.read_text() == "two\n"
    assert not [path for path in below(top) if ".box" in path]


def test_a_link_is_copied_as_a_link_unless_it_is_to_be_followed(cp: Copier) -> None:
    cp("%:/to-file", "plain")
    cp("%:/to-file", "followed", follow=True)
    assert os.readlink("plain") == "/src/file"
    assert Path("followed").read_text() == "one\n"
    cp("%:/to-dir", "tree", follow=True)
    assert below(cp.here / "tree") == ["file", "sub", "sub/file"]
    cp("dangling", "%:/dangling-too")
    assert os.readlink(cp.path("/dangling-too")) == "nowhere"


def test_a_link_as_the_destination_is_followed_inside(cp: Copier) -> None:
    cp("src/sub/file", "%:/to-file")
    assert os.readlink(cp.path("/to-file")) == "/src/file"
    assert cp.path("/src/file").read_text() == "two\n"
    cp("src/file", "%:/dangling")
    assert cp.path("/nowhere").read_text() == "one\n"


def test_a_copy_belongs_to_root_in_the_container_and_to_the_caller_out_of_it(cp: Copier) -> None:
    os.chown("src/file", 1234, 1235)
    os.chmod("src/file", 0o4755)
    cp("src/file", "%:/plain")
    cp("src/file", "%:/archived", archive=True)
    plain, archived = os.stat(cp.path("/plain")), os.stat(cp.path("/archived"))
    maps = maps_of(cp.container)
    assert maps is not None
    assert (*maps.inside(plain.st_uid, plain.st_gid), stat.S_IMODE(plain.st_mode)) == (0, 0, 0o755)
    assert (*maps.inside(archived.st_uid, archived.st_gid), stat.S_IMODE(archived.st_mode)) == (1234, 1235, 0o4755)
    assert plain.st_mtime_ns == os.stat("src/file").st_mtime_ns
    cp("%:/archived", "out")
    assert (os.stat("out").st_uid, stat.S_IMODE(os.stat("out").st_mode)) == (0, 0o755)


@pytest.mark.parametrize("ended", [False, True])
def test_everything_comes_back_from_a_container_as_it_went_in(cp: Copier, ended: bool) -> None:
    if ended:
        cp.stop()
    top = cp.here / "src"
    os.link(top / "file", top / "hard")
    os.mkfifo(top / "fifo", 0o640)
    os.mknod(top / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.setxattr(top / "file", "user.a", b"b")
    os.chown(top / "sub", 5, 6)
    (top / "sub").chmod(0o2711)
    os.utime(top, ns=(0, 1_234_567_890))
    cp("src", "%:/copy", archive=True)
    cp("%:/copy", "back", archive=True)
    assert seen.tree(cp.here / "back") == seen.tree(top)


def test_what_cannot_be_copied_as_it_is_is_left_out_and_told(cp: Copier) -> None:
    os.mknod("src/null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    cp("src", "%:/copy")
    assert cp.left_out == [("copy/null", "a device, which only -a copies")]
    assert sorted(os.listdir(cp.path("/copy"))) == ["file", "sub"]


def test_a_stream_goes_in_and_comes_out(cp: Copier) -> None:
    data = cp("%:/src", "-")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getnames() == ["src", "src/file", "src/sub", "src/sub/file"]
    assert cp("%:/src/.", "-") != data
    cp("-", "%:/dst/existing", stdin=data)
    assert cp.path("/dst/existing/src/sub/file").read_text() == "two\n"
    with pytest.raises(BoxError, match="is not a directory"):
        cp("-", "%:/dst/file", stdin=data)
    with pytest.raises(BoxError, match="is not a directory"):
        cp("-", "%:/none", stdin=data)


def test_a_stream_cannot_lead_out(cp: Copier, tmp_path: Path) -> None:
    canary = Canary(tmp_path)
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        link = tarfile.TarInfo("out")
        link.type, link.linkname = tarfile.SYMTYPE, str(canary.path)
        tar.addfile(link)
        member = tarfile.TarInfo("out/file")
        member.size = 4
        tar.addfile(member, io.BytesIO(b"evil"))
    with pytest.raises(BoxError, match="is not a directory there"):
        cp("-", "%:/dst", stdin=target.getvalue())
    assert not canary.is_hurt
    for name in ("../up", "/../../up"):
        target = io.BytesIO()
        with tarfile.open(fileobj=target, mode="w") as tar:
            tar.addfile(tarfile.TarInfo(name))
        with pytest.raises(BoxError, match="leads upwards"):
            cp("-", "%:/dst", stdin=target.getvalue())


def test_images_are_copied_from_and_not_to(cp: Copier) -> None:
    cp("probe:/etc/passwd", "passwd")
    cp("probe:latest:/etc/passwd", "again")
    cp("probe:etc/group", "%:/from-image")
    assert Path("passwd").read_text() == Path("again").read_text() == cp.path("/etc/passwd").read_text()
    assert cp.path("/from-image").read_text() == cp.path("/etc/group").read_text()
    with pytest.raises(UsageError, match="images do not change"):
        cp("src/file", "probe:/x")


def test_one_end_is_a_container_or_an_image(cp: Copier) -> None:
    Path("with:colon").write_text("mine")
    cp("./with:colon", "%:/colon")
    assert cp.path("/colon").read_text() == "mine"
    with pytest.raises(UsageError, match="neither end"):
        cp("src", "elsewhere")
    with pytest.raises(UsageError, match="needs a container"):
        cp("-", "elsewhere")
    with pytest.raises(BoxError, match="no container or image named 'with'") as caught:
        cp("with:colon", "%:/x")
    assert "./with:colon" in caught.value.hint
    assert parse(cp.store, "/a:b") == End("/a:b")


@pytest.mark.parametrize("ended", [False, True])
def test_from_a_container_to_itself_and_not_into_itself(cp: Copier, ended: bool) -> None:
    if ended:
        cp.stop()
    cp("%:/src", "%:/copy")
    with pytest.raises(BoxError, match="into itself"):
        cp("%:/src", "%:/src/sub/deeper")
    cp("%:/copy", "back")
    assert below(cp.here / "back") == ["file", "sub", "sub/file"]


def test_volumes_are_read_and_written_and_read_only_ones_only_read(cp: Copier, volumes: Path) -> None:
    cp("%:/ro/file", "out")
    assert Path("out").read_text() == "ro"
    cp("src/file", "%:/rw/new")
    assert (volumes / "rw" / "new").read_text() == "one\n"
    cp("src/file", "%:/memory/new")
    assert cp.path("/memory/new").read_text() == "one\n"
    with pytest.raises(BoxError, match="read-only file system"):
        cp("src/file", "%:/ro/new")
    with pytest.raises(BoxError, match="read-only file system"):
        cp("src/file", "%:/ro/file")
    assert sorted(os.listdir(volumes / "ro")) == ["file"]
    cp.stop()
    with pytest.raises(BoxError, match="only mounted while") as caught:
        cp("%:/rw/../rw/file", "out")
    assert str(volumes / "rw") in caught.value.hint


def test_the_kernel_s_own_files_are_not_copied(cp: Copier) -> None:
    for path in ("/proc", "/proc/1/environ", "/sys/kernel"):
        with pytest.raises(BoxError, match="is the kernel's own"):
            cp(f"%:{path}", "out")
    for path in ("/proc/1/root/etc/passwd", "/proc/1/cwd/x", "/proc/self/root/etc/passwd"):
        with pytest.raises(BoxError):
            cp(f"%:{path}", "out")
    assert not os.path.lexists("out")
    cp("%:/", "all")
    assert os.listdir("all/proc") == os.listdir("all/sys") == []
    assert Path("all/src/file").read_text() == "one\n"


def test_a_fifo_is_neither_waited_for_nor_written_to(cp: Copier) -> None:
    os.mkfifo(cp.path("/dst/fifo"))
    cp("%:/dst/fifo", "copy")
    assert stat.S_ISFIFO(os.stat("copy").st_mode)
    with pytest.raises(BoxError, match="neither a file nor a directory"):
        cp("src/file", "%:/dst/fifo")
    cp("%:/dst", "tree")
    assert stat.S_ISFIFO(os.stat("tree/fifo").st_mode)


def test_links_in_the_container_lead_into_the_container(cp: Copier, tmp_path: Path) -> None:
    canary = Canary(tmp_path)
    cp.path("/evil").symlink_to(canary.path)
    cp.path("/up").symlink_to("../../../../.." + str(canary.path))
    for link in ("evil", "up"):
        with pytest.raises(BoxError, match="there is no"):
            cp(f"%:/{link}/file", "out")
        with pytest.raises(BoxError, match="there is no"):
            cp("src/file", f"%:/{link}/file")
        with pytest.raises(BoxError, match="there is no"):
            cp(f"%:/{link}", "out", follow=True)
    cp("%:/../../../src/file", "out")  # the root's parent is the root
    assert Path("out").read_text() == "one\n"
    assert not canary.is_hurt


def exchange_inside(cp: Copier, one: str, other: str) -> None:
    """Swap two names in the container, as its own process would."""
    root = os.open(cp.path("/"), os.O_PATH)
    try:
        syscall("renameat2", 316, root, one.encode(), root, other.encode(), 2)
    finally:
        os.close(root)


def at(name: bytes, act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do `act` at the moment at which the member `name` is about to be placed."""
    place = Placer.place

    def placing(self: Placer, entry: Entry, content: Content) -> None:
        if entry.name == name:
            act()
        place(self, entry, content)

    monkeypatch.setattr(Placer, "place", placing)


@pytest.mark.parametrize("way", ["box", "naive"])
def test_a_directory_exchanged_under_a_copy_into_it_leads_nowhere(
    cp: Copier, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = Canary(tmp_path)
    cp.path("/link").symlink_to(canary.path)

    def swap() -> None:
        exchange_inside(cp, "dst/src", "link")

    if way == "box":
        at(b"src/file", swap, monkeypatch)
        with pytest.raises(BoxError, match="is not a directory there"):
            cp("src", "%:/dst")
    else:
        cp.path("/dst/src").mkdir()
        assert os.path.realpath(cp.path("/dst/src")).endswith("/dst/src")  # looked at, found good, and then
        swap()
        cp.path("/dst/src/file").write_text("evil")
    assert canary.is_hurt is (way == "naive")


@pytest.mark.parametrize("way", ["box", "naive"])
def test_a_directory_exchanged_under_a_copy_out_of_it_gives_nothing_of_outside(
    cp: Copier, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = Canary(tmp_path)
    cp.path("/link").symlink_to(canary.path)

    def swap() -> None:
        exchange_inside(cp, "src/sub", "link")

    if way == "box":
        at(b"out/file", swap, monkeypatch)  # /src has been listed, and `sub` was a directory
        cp("%:/src", "out")
    else:
        names = [name for name in os.listdir(cp.path("/src")) if cp.path(f"/src/{name}").is_dir()]
        swap()
        Path("out").mkdir()
        for name in names:
            Path("out/file").write_bytes(cp.path(f"/src/{name}/file").read_bytes())
    assert (canary.SECRET in [path.read_bytes() for path in Path("out").rglob("*") if path.is_file()]) is (way == "naive")
    assert not canary.is_hurt


def test_a_swapper_in_the_container_wins_no_race(site: Site, cp: Copier, tmp_path: Path) -> None:
    canary = Canary(tmp_path)

    def swapper(outside: str) -> None:
        import ctypes
        import os

        os.makedirs("/swap/dir")
        with open("/swap/dir/file", "w") as file:
            file.write("inside")
        os.symlink(outside, "/swap/link")
        exchange = ctypes.CDLL(None).renameat2
        while True:
            exchange(-100, b"/swap/dir", -100, b"/swap/link", 2)

    swapping = site.start(*probing(swapper, str(canary.path)), removed=False)
    try:
        until(lambda: len(os.listdir(f"{swapping.path}/upper/swap")) == 2 if os.path.isdir(f"{swapping.path}/upper/swap") else 0)
        cp.container = swapping
        copied = read = 0
        for _ in range(150):
            for source, target in (("%:/swap/dir/file", "out"), ("%:/swap/dir", "tree"), ("src/.", "%:/swap/dir")):
                try:
                    cp(source, target)
                    copied += 1
                except BoxError:
                    continue
            for path in (Path("out"), *([] if Path("tree").is_symlink() else Path("tree").rglob("*"))):
                if path.is_file() and not path.is_symlink():
                    read += 1
                    assert path.read_bytes() != canary.SECRET
            delete_tree("out")
            delete_tree("tree")
        assert copied >= 5  # it did not just fail
        assert read >= 5
        assert not canary.is_hurt
    finally:
        now = site.containers.read(swapping.id)
        assert now is not None
        lifecycle.remove(now, force=True)
