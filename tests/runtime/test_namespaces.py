"""What a container has for itself: its host name, its processes, its network, its view of control groups."""

import os
import socket
from typing import Any

import pytest

from runtime import lifecycle
from tests.containers import Site

pytestmark = pytest.mark.needs("root", "overlay", "cgroup")


def namespaces() -> dict[str, str]:
    import os

    return {name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")}


def test_every_namespace_but_the_clock_s_is_its_own(site: Site) -> None:
    ours, own = namespaces(), site.probe(namespaces)
    assert {name for name in ours if ours[name] != own[name]} == {
        "cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "user", "uts",
    }  # fmt: skip


def test_two_containers_share_no_namespace(site: Site) -> None:
    first = site.start("sleep", "1000")
    of_first = {name: os.readlink(f"/proc/{first.pid}/ns/{name}") for name in os.listdir(f"/proc/{first.pid}/ns")}
    of_second = site.probe(namespaces)
    lifecycle.stop(first, 0)
    assert {name for name in of_first if of_first[name] == of_second[name]} <= {"time", "time_for_children", "user"}


def test_the_host_name_is_the_first_of_the_id_and_it_is_in_etc(site: Site) -> None:
    def names() -> list[str]:
        import os

        with open("/etc/hostname") as file, open("/etc/hosts") as hosts:
            return [os.uname().nodename, os.environ["HOSTNAME"], file.read(), hosts.read()]

    host = os.uname().nodename
    own, variable, hostname, hosts = site.probe(names, id="abcdef0123456789" * 4)
    assert own == variable == "abcdef012345"
    assert hostname == "abcdef012345\n"
    assert "127.0.0.1\tlocalhost\n" in hosts
    assert "\tabcdef012345\n" in hosts
    assert os.uname().nodename == host


def test_the_host_name_can_be_said_and_hosts_be_added(site: Site) -> None:
    def names() -> list[str]:
        import os

        with open("/etc/hosts") as hosts:
            return [os.uname().nodename, hosts.read()]

    name, hosts = site.probe(names, hostname="web.example", add_hosts=["db:10.0.0.7", "six:::1"])
    assert name == "web.example"
    assert "10.0.0.7\tdb\n" in hosts
    assert "::1\tsix\n" in hosts


def test_the_command_is_process_1_and_the_table_has_only_its_own(site: Site) -> None:
    def table() -> list[Any]:
        import os

        return [os.getpid(), os.getppid(), os.getsid(0), os.getpgrp(), [name for name in os.listdir("/proc") if name.isdigit()]]

    assert site.probe(table) == [1, 0, 1, 1, ["1"]]


def test_what_process_1_leaves_behind_ends_with_it(site: Site) -> None:
    """The probe of traces would find the sleeping one."""
    assert site.shell("sleep 1000 & sleep 1000 & exit 7").status == 7


def test_the_network_is_a_loopback_that_is_up_and_nothing_else(site: Site) -> None:
    def network() -> list[Any]:
        import os
        import socket

        server = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(server.getsockname(), timeout=5)
        return [sorted(os.listdir("/sys/class/net")), client.getpeername()[0], open("/proc/net/route").read().count("\n")]

    interfaces, peer, lines = site.probe(network)
    assert "lo" in interfaces
    # A kernel with tunnels built in shows their fallback devices in every namespace, down.
    assert {name for name in interfaces if not name.endswith("0")} == {"lo"}
    assert not {"eth0", "wlan0"} & set(interfaces)
    assert peer == "127.0.0.1"
    assert lines == 1  # the heading: there is no way out


def test_a_port_of_this_machine_is_out_of_reach_unless_the_network_is_the_host_s(site: Site) -> None:
    def connect(port: int) -> int:
        import socket

        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port))

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert site.probe(connect, port) == 111  # ECONNREFUSED
        assert site.probe(connect, port, network="host") == 0


def test_an_abstract_socket_of_this_machine_is_out_of_reach(site: Site) -> None:
    def connect(name: str) -> int:
        import socket

        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex("\0" + name)

    name = f"box-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0" + name)
        server.listen()
        assert site.probe(connect, name) == 111
        assert site.probe(connect, name, network="host") == 0


def test_the_host_s_network_comes_with_its_name_its_hosts_and_its_resolver(site: Site) -> None:
    def seen() -> list[str]:
        import os

        with open("/etc/hosts") as hosts, open("/etc/resolv.conf") as resolver:
            return [os.uname().nodename, hosts.read(), resolver.read(), os.readlink("/proc/self/ns/net")]

    def text(path: str) -> str:
        with open(path) as file:
            return file.read()

    name, hosts, resolver, namespace = site.probe(seen, network="host")
    assert name == os.uname().nodename
    assert hosts.rstrip("\n") == text("/etc/hosts").rstrip("\n")
    assert resolver == text("/etc/resolv.conf")
    assert namespace == os.readlink("/proc/self/ns/net")


def test_without_the_host_s_network_its_resolver_is_not_told(site: Site) -> None:
    assert site.shell("cat /etc/resolv.conf").out == ""


def test_the_container_is_the_top_of_the_control_groups_that_it_sees(site: Site) -> None:
    def seen() -> dict[str, str]:
        with open("/proc/self/cgroup") as file:
            return {line.split(":")[1]: line.split(":", 2)[2].strip() for line in file}

    groups = site.probe(seen)
    of_box = {"pids", "devices"} & groups.keys() or {""}
    assert {groups[name] for name in of_box} == {"/"}


def test_system_v_and_posix_message_queues_are_its_own(site: Site) -> None:
    def queues() -> list[Any]:
        import os

        return [os.listdir("/dev/mqueue"), open("/proc/sysvipc/shm").read().count("\n")]

    assert site.probe(queues) == [[], 1]
