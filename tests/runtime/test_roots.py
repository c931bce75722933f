"""The files of a container, running or ended, as somebody outside sees them."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtime import differences, lifecycle, roots
from runtime.journal import Journal
from runtime.spec import Bind, Tmpfs
from runtime.state import Container
from store.errors import BoxError, RunError
from store.layout import Store
from store.mounts import all_mounts, mount, unmount
from tests.containers import Site, until

pytestmark = pytest.mark.needs("root", "overlay", "cgroup")


@contextmanager
def running(site: Site, script: str = "true", **fields: object) -> Iterator[Container]:
    """A container that has run `script`, and goes on."""
    started = site.start("sh", "-c", f"{script}; touch /ready; exec sleep 1000", removed=False, **fields)
    try:
        until(lambda: os.path.exists(f"{started.path}/upper/ready"))
        yield started
    finally:
        if (now := site.containers.read(started.id)) is not None:
            lifecycle.remove(now, force=True)


def again(site: Site, container: Container) -> Container:
    now = site.containers.read(container.id)
    assert now is not None
    return now


def stopped(site: Site, container: Container) -> Container:
    lifecycle.stop(container, 0)
    return again(site, container)


def running_and_ended(site: Site, container: Container) -> Iterator[Container]:
    yield container
    yield stopped(site, container)


def listing(tree: int, path: str = ".") -> list[str]:
    return sorted(os.listdir(f"/proc/self/fd/{tree}/{path}"))


def read(tree: int, path: str) -> str:
    return Path(f"/proc/self/fd/{tree}/{path}").read_text()


def test_the_merged_tree_has_the_image_and_the_changes_running_and_ended(site: Site) -> None:
    store = Store.open(site.root)
    with running(site, "echo new > /new; rm /etc/group") as one:
        for container in running_and_ended(site, one):
            with roots.merged(store, roots.Subject("it", container=container)) as tree:
                assert read(tree, "new") == "new\n"
                assert "passwd" in listing(tree, "etc")
                assert "group" not in listing(tree, "etc")
                with pytest.raises(OSError) as caught:
                    os.mkdir(f"/proc/self/fd/{tree}/dir")
                assert caught.value.errno == errno.EROFS


def test_what_is_mounted_in_a_container_is_not_part_of_its_files(site: Site, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("of the host")
    with running(site, mounts=[Bind(str(tmp_path), "/volume"), Tmpfs("/scratch")]) as one:
        descriptor = roots.open_merged(one)
        try:
            assert [listing(descriptor, name) for name in ("volume", "scratch", "proc", "sys", "dev")] == [[]] * 5
        finally:
            os.close(descriptor)


def test_no_mount_and_no_process_is_left_of_a_look(site: Site) -> None:
    with running(site) as one:
        before = Path("/proc/self/mountinfo").read_text(), sorted(os.listdir("/proc/self/fd"))
        for container in running_and_ended(site, one):
            os.close(roots.open_merged(container))
            with roots.inside(container):
                pass
        assert (Path("/proc/self/mountinfo").read_text(), sorted(os.listdir("/proc/self/fd"))) == before


def test_inside_is_what_the_container_sees_with_its_mounts(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("of the host")
    with running(site, mounts=[Bind(str(tmp_path), "/volume", read_only=True)]) as one, roots.inside(one) as tree:
        assert read(tree, "volume/file") == "of the host"
        with pytest.raises(OSError) as caught:
            os.mkdir(f"/proc/self/fd/{tree}/volume/dir")
        assert caught.value.errno == errno.EROFS
        os.mkdir(f"/proc/self/fd/{tree}/dir")
        assert os.path.isdir(f"{one.path}/upper/dir")


def test_what_is_written_into_one_that_has_ended_is_there_the_next_time(site: Site) -> None:
    with running(site) as one:
        ended = stopped(site, one)
        for name in ("a", "b"):
            with roots.inside(ended) as tree:
                os.mkdir(f"/proc/self/fd/{tree}/{name}")
        with roots.inside(ended) as tree:
            assert {"a", "b", "ready"} <= set(listing(tree))


def test_one_that_ended_just_now_is_entered_as_one_that_has_ended(site: Site) -> None:
    with running(site) as one:
        stopped(site, one)
        with roots.inside(one) as tree:
            assert "ready" in listing(tree)
        os.close(roots.open_merged(one))


def test_two_do_not_write_into_one_that_has_ended_at_once(site: Site) -> None:
    with running(site) as one:
        ended = stopped(site, one)
        held = Journal.hold(ended.path)
        assert held is not None
        try:
            with pytest.raises(RunError, match="is in use"), roots.inside(ended):
                pass
        finally:
            held.close()


def test_a_pid_that_is_another_process_by_now_is_not_entered(site: Site) -> None:
    with running(site) as one:
        values = {name: getattr(one, name) for name in type(one)._fields}
        impostor = Container(**{**values, "pid": os.getpid()})
        for entering in (roots.inside(impostor), roots.merged(Store.open(site.root), roots.Subject("it", container=impostor))):
            with pytest.raises(RunError), entering:
                pass


def test_a_container_is_found_before_an_image_of_the_same_name(site: Site) -> None:
    store = Store.open(site.root)
    with store.leased():
        assert roots.find(store, "probe").image is not None
        with running(site, name="probe"):
            assert roots.find(store, "probe").container is not None
        with pytest.raises(BoxError, match="no container or image named 'none'"):
            roots.find(store, "none")


def test_what_a_container_changed_is_what_docker_would_say(site: Site) -> None:
    script = "mkdir /fresh; touch /fresh/file; rm -r /etc/group; touch /home/app/file; mkdir -p /a/b; rm -r /home; mkdir /home"
    with running(site, script) as one:
        for container in running_and_ended(site, one):
            with differences.own(container) as pair:
                found = [(change.kind, change.path) for change in pair.changes(times=True) if change.path]
            assert found == [
                ("A", b"a"), ("A", b"a/b"), ("C", b"etc"), ("D", b"etc/group"), ("A", b"fresh"), ("A", b"fresh/file"),
                ("C", b"home"), ("D", b"home/app"), ("A", b"ready"),
            ]  # fmt: skip


def test_a_container_against_an_image_has_nothing_of_the_runtime_s_own(site: Site) -> None:
    store = Store.open(site.root)
    with store.leased(), running(site, "echo x > /etc/own") as one:
        image = roots.find(store, "probe")
        for container in running_and_ended(site, one):
            with differences.between(store, image, roots.Subject("it", container=container)) as pair:
                assert [(change.kind, change.path) for change in pair.changes(times=False)] == [
                    ("A", b"etc/own"),
                    ("A", b"ready"),
                ]


def test_a_container_whose_files_are_mounted_is_removed_only_by_force(site: Site) -> None:
    with running(site, "echo new > /new") as one:
        ended = stopped(site, one)
        mounted = mount(site.root, "it", lambda: roots.open_merged(ended), container=ended.id)
        assert Path(mounted.target, "new").read_text() == "new\n"
        with pytest.raises(RunError, match="are mounted at"):
            lifecycle.remove(ended)
        unmount(site.root, mounted)
        mount(site.root, "it", lambda: roots.open_merged(ended), container=ended.id)
        lifecycle.remove(ended, force=True)
        assert all_mounts(site.root) == []
        assert not [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if site.root in line]
