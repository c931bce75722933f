"""Who `user[:group]` is, in the words of a hostile image."""

import contextlib
import errno
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from runtime import users
from runtime.users import LARGEST_FILE, LARGEST_ID, User, find, resolve
from store import syscalls
from store.errors import RunError

PASSWD = b"""\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
app:x:1000:1001:,,,:/home/app:/bin/sh
app:x:2000:2001::/second:/bin/sh
twin:x:1000:3000::/home/twin:/bin/sh
"""
GROUP = b"""\
root:x:0:
daemon:x:1:
app:x:1001:
video:x:44:app,twin
audio:x:29:twin,app
empty:x:50:
video:x:4444:app
primary:x:1001:app
"""


def parts(user: User) -> tuple[int, int, tuple[int, ...], str, str]:
    return user.uid, user.gid, user.groups, user.home, user.name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (0, 0, (0,), "/root", "root")),
        ("root", (0, 0, (0,), "/root", "root")),
        ("0", (0, 0, (0,), "/root", "root")),
        ("app", (1000, 1001, (1001, 44, 29, 4444), "/home/app", "app")),
        ("app:", (1000, 1001, (1001, 44, 29, 4444), "/home/app", "app")),
        ("1000", (1000, 1001, (1001, 44, 29, 4444), "/home/app", "app")),
        ("2000", (2000, 2001, (2001, 44, 29, 4444, 1001), "/second", "app")),
        ("app:video", (1000, 44, (44,), "/home/app", "app")),
        ("app:7", (1000, 7, (7,), "/home/app", "app")),
        ("app:0", (1000, 0, (0,), "/home/app", "app")),
        (":video", (0, 44, (44,), "/root", "root")),
        ("4242", (4242, 0, (0,), "/", "")),
        ("4242:audio", (4242, 29, (29,), "/", "")),
        ("4242:4243", (4242, 4243, (4243,), "/", "")),
        ("0001", (1, 1, (1,), "/usr/sbin", "daemon")),
        (str(LARGEST_ID), (LARGEST_ID, 0, (0,), "/", "")),
    ],
)
def test_users_and_groups_are_found_as_docker_finds_them(text: str, expected: tuple[object, ...]) -> None:
    assert parts(find(PASSWD, GROUP, text)) == expected


def test_an_image_without_the_files_has_numbers_only() -> None:
    assert parts(find(b"", b"", "")) == (0, 0, (0,), "/", "")
    assert parts(find(b"", b"", "5:6")) == (5, 6, (6,), "/", "")
    with pytest.raises(RunError, match="no user 'root' in the image's /etc/passwd") as caught:
        find(b"", b"", "root")
    assert caught.value.hint == "it has none; a number needs no entry"


@pytest.mark.parametrize("passwd", [b"1000:x:0:0::/root:/bin/sh\n", b"x:1000:0:0::/:\n1000:x:0:0::/:\n"])
def test_an_image_cannot_make_a_number_root_by_naming_a_user_so(passwd: bytes) -> None:
    assert find(passwd, b"", "1000").uid == 1000
    assert find(b"", b"1000:x:0:\n", "5:1000").gid == 1000


@pytest.mark.parametrize(
    "line",
    [
        b"app",
        b"app:x",
        b"app:x:7",
        b"app:x::",
        b"app:x:seven:7::/:",
        b"app:x:7:seven::/:",
        b"app:x:-1:7::/:",
        b"app:x:+7:7::/:",
        b"app:x: 7:7::/:",
        b"app:x:7 :7::/:",
        b"app:x:0x7:7::/:",
        b"app:x:7.0:7::/:",
        b"app:x:7_0:7::/:",
        b"app:x:\xd9\xa7:7::/:",  # ARABIC-INDIC DIGIT SEVEN
        b"app:x:4294967295:7::/:",
        b"app:x:7:4294967295::/:",
        b"app:x:18446744073709551617:7::/:",
        b"app:x:" + b"9" * 5000 + b":7::/:",
        b"app:x:7:7::/\0home:",
        b"#app:x:7:7::/:",
        b"+app:x:7:7::/:",
        b":x:7:7::/:",
        b"App:x:7:7::/:",
        b"app x:7:7::/:",
    ],
)
def test_a_malformed_line_is_no_entry_and_never_root(line: bytes) -> None:
    with pytest.raises(RunError, match="no user 'app'"):
        find(line + b"\n", b"", "app")
    assert find(line + b"\napp:x:1000:1000::/home/app:\n", b"", "app").uid == 1000


@pytest.mark.parametrize(
    "line", [b"app", b"app:x:", b"app:x:seven:", b"app:x:-1:", b"app:x:4294967295:", b"#app:x:1:", b":x:1:app"]
)
def test_a_malformed_group_is_no_entry(line: bytes) -> None:
    with pytest.raises(RunError, match="no group 'app'"):
        find(PASSWD, line + b"\n", "root:app")
    assert find(PASSWD, line + b"\n", "app").groups == (1001,)


def test_a_comment_is_no_entry_whatever_it_is_asked_for() -> None:
    with pytest.raises(RunError, match="no user '#app'"):
        find(b"#app:x:7:7::/:\n", b"", "#app")
    assert find(b"#root:x:0:9::/commented:\n", b"", "0").gid == 0


def test_lines_may_end_in_carriage_returns_or_in_nothing() -> None:
    assert find(b"a:x:1:2::/a:/sh\r\n  b:x:3:4", b"g:x:9:b\r\n", "b").groups == (4, 9)


@pytest.mark.parametrize("home", [b"", b"home", b"-e", b"../x"])
def test_a_home_that_is_no_absolute_path_is_the_root(home: bytes) -> None:
    assert find(b"app:x:7:7::" + home + b":/bin/sh\n", b"", "app").home == "/"


@pytest.mark.parametrize(
    "text", ["4294967295", "4294967296", "-1", "+1", "99999999999999999999", "9" * 6000, "0:4294967295", "0:-1"]
)
def test_a_number_that_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(RunError, match="is not an id") as caught:
        find(PASSWD, GROUP, text)
    assert str(LARGEST_ID) in caught.value.hint


@pytest.mark.parametrize(
    "text", ["nobody", "root ", "roo", "x", "app\nroot", "app\0", "\u0661", "app:nogroup", "app:app:app", "root:/", "²"]
)
def test_what_is_not_there_is_an_error_and_not_root(text: str) -> None:
    with pytest.raises(RunError, match=r"no (user|group) "):
        find(PASSWD, GROUP, text)


def test_the_hint_shows_the_names_there_are_and_no_terminal_escapes() -> None:
    names = b"".join(b"u%d:x:%d:0::/:\n" % (number, number) for number in range(20))
    with pytest.raises(RunError) as caught:
        find(b"evil\x1b[2J:x:5:5::/:\n\xff:x:6:6::/:\n" + names, b"", "nobody")
    assert caught.value.hint == "it has u0, u1, u2, u3, u4, u5, u6, u7, ...; a number needs no entry"
    assert (caught.value.message + caught.value.hint).isprintable()


class Image:
    """An image's root with an /etc, and the fd to it."""

    def __init__(self, top: Path) -> None:
        self.etc = top / "root" / "etc"
        self.etc.mkdir(parents=True)
        self.fd = os.open(top / "root", os.O_PATH | os.O_DIRECTORY)


@pytest.fixture
def image(tmp_path: Path) -> Image:
    (tmp_path / "outside").write_bytes(b"app:x:0:0::/outside:\n")
    return Image(tmp_path)


def test_the_files_of_the_image_are_read(image: Image) -> None:
    (image.etc / "passwd").write_bytes(PASSWD)
    (image.etc / "group").write_bytes(GROUP)
    assert parts(resolve(image.fd, "app")) == (1000, 1001, (1001, 44, 29, 4444), "/home/app", "app")


def test_missing_files_are_empty_ones(image: Image) -> None:
    assert parts(resolve(image.fd, "")) == (0, 0, (0,), "/", "")
    image.etc.rmdir()
    assert resolve(image.fd, "5").uid == 5
    image.etc.touch()
    assert resolve(image.fd, "5").uid == 5


@pytest.mark.parametrize("target", ["/usr/lib/passwd", "../usr/lib/passwd", "../../../usr/lib/passwd"])
def test_a_symlink_leads_to_the_images_own_file(image: Image, target: str) -> None:
    library = image.etc.parent / "usr" / "lib"
    library.mkdir(parents=True)
    (library / "passwd").write_bytes(PASSWD)
    (image.etc / "passwd").symlink_to(target)
    assert resolve(image.fd, "app").uid == 1000


def test_a_symlink_does_not_lead_out(image: Image, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    for target in (str(outside), "../../outside"):
        (image.etc / "passwd").symlink_to(target)
        assert (image.etc / "passwd").read_bytes().startswith(b"app:x:0:0")  # the naive reader falls
        with pytest.raises(RunError, match="no user 'app'"):
            resolve(image.fd, "app")
        (image.etc / "passwd").unlink()


def test_a_symlink_of_proc_leads_nowhere(image: Image, tmp_path: Path) -> None:
    held = os.open(tmp_path / "outside", os.O_RDONLY)
    (image.etc.parent / "proc").symlink_to("/proc")
    (image.etc / "passwd").symlink_to(f"/proc/self/fd/{held}")
    assert (image.etc / "passwd").read_bytes().startswith(b"app:x:0:0")  # the naive reader falls
    with pytest.raises(RunError, match=r"/etc/passwd"):
        resolve(image.fd, "app")


def test_a_loop_of_symlinks_is_an_error(image: Image) -> None:
    (image.etc / "passwd").symlink_to("passwd")
    with pytest.raises(RunError, match="the image's /etc/passwd cannot be opened: Too many levels"):
        resolve(image.fd, "app")


def _make(kind: str, path: Path) -> None:
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(os.path.relpath(path))
    else:
        path.symlink_to("device")


@pytest.mark.parametrize("kind", ["fifo", "directory", "socket"])
@pytest.mark.parametrize("name", ["passwd", "group"])
def test_what_is_no_regular_file_is_refused_without_waiting(
    image: Image, kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(image.etc)
    _make(kind, Path(name).absolute())
    with pytest.raises(RunError, match=f"the image's /etc/{name} is not a regular file"):
        resolve(image.fd, "0")


@pytest.mark.needs("root")
def test_a_device_is_looked_at_and_never_opened(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening one is an act: a watchdog starts to run, a tape rewinds."""
    os.mknod(image.etc / "passwd", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    flags: list[int] = []

    def openat2(directory: int, path: str, how: int, mode: int = 0, resolve: int = 0) -> int:
        flags.append(how)
        return syscalls.openat2(directory, path, how, mode, resolve)

    monkeypatch.setattr(users, "openat2", openat2)
    with pytest.raises(RunError, match="not a regular file"):
        resolve(image.fd, "0")
    assert flags == [os.O_PATH]


@pytest.mark.parametrize("kind", ["fifo", "file"])
def test_a_file_that_is_replaced_between_look_and_open_is_not_read(
    image: Image, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = image.etc / "passwd"
    path.write_bytes(PASSWD)

    def openat2(directory: int, name: str, how: int, mode: int = 0, resolve: int = 0) -> int:
        if not how & os.O_PATH:
            path.rename(image.etc / "looked-at")
            _make("fifo", path) if kind == "fifo" else path.write_bytes(b"app:x:0:0::/:\n")
        return syscalls.openat2(directory, name, how, mode, resolve)

    monkeypatch.setattr(users, "openat2", openat2)
    with pytest.raises(RunError, match="/etc/passwd was replaced while it was read"):
        resolve(image.fd, "app")


def test_a_look_that_a_rename_disturbed_is_taken_again_and_not_for_ever(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    (image.etc / "passwd").write_bytes(PASSWD)
    disturbed = 0

    def openat2(directory: int, name: str, how: int, mode: int = 0, resolve: int = 0) -> int:
        nonlocal disturbed
        disturbed += 1
        if disturbed % patience:
            raise OSError(errno.EAGAIN, "openat2: Resource temporarily unavailable")
        return syscalls.openat2(directory, name, how, mode, resolve)

    monkeypatch.setattr(users, "openat2", openat2)
    patience = 5
    assert resolve(image.fd, "app").uid == 1000
    patience = 1_000_000
    with pytest.raises(RunError, match="cannot be opened: Resource temporarily unavailable"):
        resolve(image.fd, "app")


def test_a_file_over_one_mebibyte_is_refused_and_one_just_below_read(image: Image) -> None:
    entry = b"app:x:7:7::/app:\n"
    path = image.etc / "passwd"
    path.write_bytes(b"\n" * (LARGEST_FILE - len(entry)) + entry)
    assert resolve(image.fd, "app").uid == 7
    path.write_bytes(b"\n" * (LARGEST_FILE + 1 - len(entry)) + entry)
    with pytest.raises(RunError, match="larger than 1 MiB"):
        resolve(image.fd, "app")
    os.truncate(path, 1 << 30)
    with pytest.raises(RunError, match="larger than 1 MiB"):
        resolve(image.fd, "app")


def test_a_file_swapped_while_it_is_read_never_yields_what_lies_outside(image: Image, tmp_path: Path) -> None:
    """Somebody in the running container exchanges /etc for a link to a directory outside, for as long as we look."""
    (image.etc / "passwd").write_bytes(b"app:x:1000:1000::/home/app:\n")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "passwd").write_bytes(b"app:x:0:0::/outside:\n")
    link = image.etc.parent / "link"
    link.symlink_to("../out")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            os.rename(image.etc, image.etc.parent / "held")
            os.rename(link, image.etc)
            os.rename(image.etc, link)
            os.rename(image.etc.parent / "held", image.etc)

    thread = threading.Thread(target=swap)
    thread.start()
    seen: set[int] = set()
    naive: set[bytes] = set()
    try:
        deadline = time.monotonic() + 60
        looks = 0
        # Long enough that the naive reader has fallen, however busy the machine is.
        while (looks < 1000 or len(naive) < 2 or not seen) and time.monotonic() < deadline:
            looks += 1
            with contextlib.suppress(OSError):
                naive.add((image.etc / "passwd").read_bytes())
            with contextlib.suppress(RunError):
                seen.add(resolve(image.fd, "app").uid)
    finally:
        stop.set()
        thread.join()
    assert b"app:x:0:0::/outside:\n" in naive  # the naive reader falls
    assert seen == {1000}


def test_no_lookup_imports_anything_later(image: Image) -> None:
    """In the container's root an import would run the container's code: so also the errors must do without."""
    (image.etc / "passwd").write_bytes(PASSWD)
    (image.etc / "group").mkdir()
    code = f"""
import sys
sys.path.insert(0, {os.getcwd()!r})
from runtime import users
from store.errors import RunError
before = set(sys.modules)
for text in ("app", "1000", "nobody", "root:nogroup", "-1"):
    for call in (lambda: users.find({PASSWD!r}, {GROUP!r}, text), lambda: users.resolve({image.fd}, text)):
        try:
            call()
        except RunError:
            pass
assert set(sys.modules) == before, set(sys.modules) - before
assert not {{"pwd", "grp", "re", "difflib"}} & before
"""
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True, pass_fds=(image.fd,))
