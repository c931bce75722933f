"""A container's users are nobody on the machine, and its files are as if they were somebody."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runtime import id_maps, roots, user_namespace
from runtime.container import run
from runtime.differences import own
from runtime.id_maps import FIRST, IdMaps, allocate, checked, make_namespace
from runtime.join import run as join
from runtime.lifecycle import remove, stop
from runtime.spec import Bind, Tmpfs
from store.errors import RunError
from store.layout import Store
from tests.containers import Site

pytestmark = pytest.mark.needs("root", "overlay", "userns")

EVERYBODY = [(0, 0, 0xFFFFFFFF)]


def _status(pid: int, key: str) -> list[str]:
    text = Path(f"/proc/{pid}/status").read_text()
    return next(line for line in text.splitlines() if line.startswith(key + ":")).split()[1:]


# --- who is who --------------------------------------------------------------------------------------------------------------


def test_a_containers_root_is_nobody_on_the_machine(site: Site) -> None:
    one = site.start("sleep", "1000")
    outside = int(_status(one.pid, "Uid")[0])
    assert outside >= FIRST
    assert _status(one.pid, "Uid") == [str(outside)] * 4 == _status(one.pid, "Gid")
    assert IdMaps.of(one.pid).users == [(0, outside, 65536)]
    remove(one, force=True)

    control = site.start("sleep", "1000", userns="host")
    assert _status(control.pid, "Uid") == ["0"] * 4, "without a user namespace it is root: so the above shows something"
    remove(control, force=True)


def test_a_user_of_the_image_is_nobody_either(site: Site) -> None:
    one = site.start("sleep", "1000", user="app")
    first = IdMaps.of(one.pid).users[0][1]
    assert _status(one.pid, "Uid")[0] == str(first + 1000)
    assert _status(one.pid, "Groups") == [str(first + gid) for gid in (1001, 1500, 1600)]
    remove(one, force=True)


def test_two_containers_have_no_id_in_common(site: Site) -> None:
    running = [site.start("sleep", "1000") for _ in range(5)]
    firsts = {IdMaps.of(one.pid).users[0][1] for one in running}
    assert len(firsts) == 5
    assert all(first % 65536 == 0 for first in firsts)
    for one in running:
        remove(one, force=True)


def test_all_that_root_may_is_of_the_container(site: Site) -> None:
    def tried() -> list[str]:
        import os
        import time

        def name(call: Any) -> str:
            try:
                call()
            except OSError as err:
                return type(err).__name__
            return "done"

        return [
            name(lambda: time.clock_settime(time.CLOCK_REALTIME, time.time())),
            name(lambda: os.mknod("/tmp/disk", 0o60600, os.makedev(8, 0))),
            name(lambda: os.chown("/tmp", 5, 5)),
            name(lambda: os.chown("/tmp", 70_000, 5)),
        ]

    every = (1 << 41) - 1
    assert site.probe(tried, capabilities=every, seccomp=False) == ["PermissionError", "PermissionError", "done", "OSError"]
    control = site.probe(tried, capabilities=every, seccomp=False, userns="host")
    assert control[0] == control[2] == control[3] == "done"


def test_the_hosts_user_namespace_is_there_for_who_asks(site: Site) -> None:
    assert site.run("cat", "/proc/self/uid_map", userns="host").out.split() == ["0", "0", "4294967295"]


def test_chosen_ids(site: Site) -> None:
    maps = ([(0, 700_000, 1000), (1000, 800_000, 10)], [(0, 700_000, 2000)])
    one = site.start("sleep", "1000", user="1001:1500", id_maps=maps)
    assert IdMaps.of(one.pid).users == maps[0]
    assert _status(one.pid, "Uid")[0] == "800001"
    assert _status(one.pid, "Gid")[0] == "701500"
    remove(one, force=True)


def test_ids_without_a_root_are_refused(site: Site) -> None:
    with pytest.raises(RunError, match="user 0 has no place"):
        run(site.spec("true", id_maps=([(5, 700_000, 1000)], [(0, 700_000, 1000)])))


def test_a_user_without_a_place_is_refused(site: Site) -> None:
    with pytest.raises(RunError, match="user 70000 has no place"):
        run(site.spec("true", user="70000"))


def test_an_unknown_kind_is_refused(site: Site) -> None:
    with pytest.raises(RunError, match="unknown kind of user namespace 'hosst'"):
        run(site.spec("true", userns="hosst"))


# --- files -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("driver", ["erofs", "overlay", "copy"])
def test_files_belong_to_the_containers_users_and_stay_the_images_on_disk(site: Site, driver: str) -> None:
    from store.prepare import prepare

    store = Store.open(site.root, driver)
    trees = list(prepare(store, "probe").trees)
    script = "stat() { python3 -c 'import os,sys; s=os.lstat(sys.argv[1]); print(s.st_uid, s.st_gid)' $1; }; "
    script += "stat /etc/passwd; stat /home/app; stat /dev/null; stat /etc/hosts; : > /new; stat /new; echo x >> /etc/passwd; "
    script += "chroot --userspec=1000:1001 / touch /home/app/own; stat /home/app/own; rm /etc/group"
    one = site.start("sh", "-c", f"{script}; sleep 1000", lowers=trees, removed=False, capabilities=(1 << 41) - 1)
    log = Path(one.path) / "log"
    for _ in range(500):
        if "1000 1001\n" in log.read_text() and len(log.read_text().splitlines()) >= 6:
            break
        subprocess.run(["sleep", "0.01"], check=True)
    said = [line.rpartition(" F ")[2] for line in log.read_text().splitlines()]
    assert said == ["0 0", "1000 1001", "0 0", "0 0", "0 0", "1000 1001"]
    upper = Path(one.path) / "upper"
    for name, owner in (("new", (0, 0)), ("etc/passwd", (0, 0)), ("home/app/own", (1000, 1001))):
        status = (upper / name).stat()
        assert (status.st_uid, status.st_gid) == owner, name
    remove(one, force=True)


def test_a_file_of_another_user_cannot_be_read_by_a_user_of_the_container(site: Site, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o400)
    os.chown(secret, 33, 33)
    bind = [Bind(str(secret), "/secret", read_only=True)]
    assert site.run("cat", "/secret", mounts=bind, user="app").status == 1
    assert site.run("cat", "/secret", mounts=bind, user="33").status == 0
    assert site.run("cat", "/secret", mounts=bind, user="33", userns="host").status == 0


def test_what_is_bound_is_written_to_as_on_the_machine(site: Site, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("")
    os.chown(tmp_path / "there", 1000, 1001)
    shown = site.shell("ls -ln /m/there; : > /m/new", mounts=[Bind(str(tmp_path), "/m", read_only=False)]).out.split()
    assert shown[2:4] == ["1000", "1001"]
    status = (tmp_path / "new").stat()
    assert (status.st_uid, status.st_gid) == (os.geteuid(), os.getegid())


def test_what_cannot_be_mapped_is_bound_as_it_is(site: Site) -> None:
    shown = site.run("cat", "/there/loadavg", mounts=[Bind("/proc", "/there", read_only=True)])
    assert shown.status == 0, shown.err


def test_a_tmpfs_and_a_new_working_directory_are_roots(site: Site) -> None:
    said = site.shell("ls -lnd /t /new/dir | cut -d' ' -f3,4", mounts=[Tmpfs("/t")], cwd="/new/dir")
    owners = [
        line.split()[2:4] for line in site.shell("ls -lnd /t /new/dir", mounts=[Tmpfs("/t")], cwd="/new/dir").out.splitlines()
    ]
    assert owners == [["0", "0"], ["0", "0"]], said.err


def test_a_second_start_has_the_same_files(site: Site) -> None:
    from runtime.lifecycle import start

    one = site.start("sh", "-c", "touch /f; chroot --userspec=7:8 / sleep 0; sleep 1000", removed=False)
    for _ in range(500):
        if (Path(one.path) / "upper/f").exists():
            break
        subprocess.run(["sleep", "0.01"], check=True)
    stop(one)
    stopped = site.containers.read(one.id)
    assert stopped is not None
    start(stopped)
    again = site.containers.read(one.id)
    assert again is not None
    with open(os.open(tmp := f"{site.root}/said", os.O_RDWR | os.O_CREAT), "r+") as out:
        join(again, ["ls", "-ln", "/f"], env=[], stdout=out.fileno())
        out.seek(0)
        assert out.read().split()[2:4] == ["0", "0"]
    os.unlink(tmp)
    remove(again, force=True)


def test_what_the_caller_redirected_to_can_be_opened_again(site: Site, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w+") as out:
        os.fchmod(out.fileno(), 0o600)
        assert (
            run(
                site.spec("sh", "-c", "echo a > /dev/stdout; echo b > /dev/stderr"), stdout=out.fileno(), stderr=out.fileno()
            ).status
            == 0
        )
        out.seek(0)
        assert sorted(out.read().split()) == ["a", "b"]
    assert os.stat(tmp_path / "out").st_uid == os.geteuid()


def test_a_pipe_can_be_opened_again(site: Site) -> None:
    for user in ("", "app"):
        reader, writer = os.pipe()
        assert run(site.spec("sh", "-c", "echo a > /dev/stdout", user=user), stdout=writer, stderr=writer).status == 0
        os.close(writer)
        assert os.read(reader, 100) == b"a\n"
        os.close(reader)


# --- into a container that runs -----------------------------------------------------------------------------------------------


def test_exec_is_in_the_same_user_namespace(site: Site, tmp_path: Path) -> None:
    one = site.start("sleep", "1000", user="app")
    for user, expected in (("", "1000"), ("0", "0")):
        with (tmp_path / "out").open("w+") as out:
            ended = join(
                one,
                ["sh", "-c", "id -u; ls -l /proc/self/ns/user; echo x > /dev/stdout"],
                env=[],
                user=user,
                stdout=out.fileno(),
            )
            assert ended.status == 0
            out.seek(0)
            uid, *listed, said = out.read().split()
            assert (uid, listed[-1], said) == (expected, os.readlink(f"/proc/{one.pid}/ns/user"), "x")
    remove(one, force=True)


def test_the_files_of_a_running_container_show_its_own_users(site: Site, tmp_path: Path) -> None:
    one = site.start(
        "sh",
        "-c",
        "touch /home/app/f; chroot --userspec=1000:1001 / touch /tmp/own; echo ready; sleep 1000",
        capabilities=(1 << 41) - 1,
    )
    for _ in range(500):
        if os.path.exists(f"/proc/{one.pid}/root/tmp/own"):
            break
        subprocess.run(["sleep", "0.01"], check=True)
    maps = roots.maps_of(one)
    assert maps is not None
    status = os.stat(f"/proc/{one.pid}/root/tmp/own")
    assert maps.inside(status.st_uid, status.st_gid) == (1000, 1001)
    assert maps.outside(1000, 1001) == (status.st_uid, status.st_gid)
    with own(one) as pair:
        changes = {change.path: change for change in pair.changes(times=False)}
    assert sorted(changes) == [b"home/app/f", b"tmp/own"]
    new = changes[b"tmp/own"].new
    assert new is not None
    assert (new.uid, new.gid) == (1000, 1001)
    remove(one, force=True)


# --- ranges -------------------------------------------------------------------------------------------------------------------


def test_ranges_are_given_once_and_come_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(id_maps, "_LOCKS", str(tmp_path / "box/ids"))
    monkeypatch.setattr(id_maps, "LAST", FIRST + 2 * id_maps.SIZE)
    first, one = allocate()
    second, other = allocate()
    assert {first, second} == {FIRST, FIRST + id_maps.SIZE}
    with pytest.raises(RunError, match="all 2 ranges of ids are taken"):
        allocate()
    os.close(one)
    again, one = allocate()
    assert again == first
    os.close(one)
    os.close(other)


def test_whoever_ends_gives_his_range_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = f"""
import os, sys
from runtime import id_maps
id_maps._LOCKS = {str(tmp_path / "ids")!r}
id_maps.LAST = id_maps.FIRST + id_maps.SIZE
print(id_maps.allocate()[0], flush=True)
sys.stdin.read()
"""
    monkeypatch.setattr(id_maps, "_LOCKS", str(tmp_path / "ids"))
    monkeypatch.setattr(id_maps, "LAST", FIRST + id_maps.SIZE)
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == f"{FIRST}\n"
        with pytest.raises(RunError):
            allocate()
        other.kill()
    first, lock = allocate()
    assert first == FIRST
    os.close(lock)


def test_a_range_is_not_kept_by_a_container_that_failed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    real = user_namespace.UserNamespace.close
    monkeypatch.setattr(user_namespace.UserNamespace, "close", lambda self: (closed.append(1), real(self)))
    with pytest.raises(RunError):
        run(site.spec("no-such-command"))
    assert closed


def test_where_no_namespace_can_be_made_the_error_says_what_to_do(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(maps: IdMaps) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(user_namespace, "make_namespace", refuse)
    with pytest.raises(RunError, match="cannot make a user namespace") as caught:
        run(site.spec("true", userns="auto"))
    assert "--userns host" in str(caught.value.hint)

    warned: list[str] = []
    ran = site.run("cat", "/proc/self/uid_map", warn=warned.append)
    assert ran.out.split() == ["0", "0", "4294967295"]
    assert warned == ["the container's users are this machine's: " + caught.value.message]


def test_within_a_namespace_of_few_ids_a_container_has_those(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    few = IdMaps([(0, 300_000, 5)], [(0, 300_000, 5)])
    monkeypatch.setattr(user_namespace, "in_user_namespace", lambda: True)
    monkeypatch.setattr(IdMaps, "of", lambda pid: few)
    namespace = user_namespace.open_namespace(site.spec("true"))
    assert namespace is not None
    assert namespace.maps.users == [(0, 0, 5)]
    assert namespace.mapping == -1
    namespace.close()


@pytest.mark.parametrize(
    ("ranges", "said"),
    [
        ([], "is empty"),
        ([(0, 1, 1)] * 341, "has 341 ranges"),
        ([(0, 1, 0)], "cannot be"),
        ([(-1, 1, 5)], "cannot be"),
        ([(0, 0xFFFFFFF0, 100)], "cannot be"),
        ([(0, 10, 5), (4, 20, 5)], "overlap at 4"),
        ([(0, 10, 5), (5, 14, 5)], "overlap at 14"),
    ],
)
def test_maps_that_cannot_be_are_refused(ranges: Any, said: str) -> None:
    with pytest.raises(RunError, match=said):
        checked(ranges, "--uidmap")


def test_maps_that_can_be() -> None:
    assert checked([(5, 10, 5), (0, 15, 5)], "x") == [(5, 10, 5), (0, 15, 5)]


def test_a_namespace_that_nobody_is_in() -> None:
    maps = IdMaps.shifted(FIRST)
    namespace = make_namespace(maps)
    try:
        found = os.readlink(f"/proc/self/fd/{namespace}")
        assert found.startswith("user:[")
        assert found != os.readlink("/proc/self/ns/user")
    finally:
        os.close(namespace)


def test_a_map_the_kernel_refuses_is_named() -> None:
    with pytest.raises(Exception, match=r"map ids 0 5 10, 3 50 10"):
        make_namespace(IdMaps([(0, 5, 10), (3, 50, 10)], EVERYBODY))


def test_the_ids_of_a_container_in_the_background_are_kept_as_long_as_it_runs(site: Site) -> None:
    one = site.start("sleep", "1000")
    number = (IdMaps.of(one.pid).users[0][1] - FIRST) // id_maps.SIZE
    with open(id_maps._LOCKS, "r+b") as file:
        with pytest.raises(BlockingIOError):
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        remove(one, force=True)
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)


def test_before_linux_6_15_it_is_the_same(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.overlay.attached", True)
    ran = site.shell(": > /new; rm /etc/group; ls -ln /new; cat /proc/self/uid_map", userns="auto")
    assert ran.out.split()[2:4] == ["0", "0"], ran.err
    assert ran.out.split()[-3] == "0" != ran.out.split()[-2]
