"""`box run`: many at once, ended from outside, its streams closed, and what it leaves: nothing."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from runtime import lifecycle
from tests.command.installed import BOX, Box
from tests.containers import IMAGE, Site, probing, until

pytestmark = pytest.mark.needs("root", "overlay", "cgroup")


def test_fifty_at_once_all_end_well(site: Site) -> None:
    started = [
        subprocess.Popen(
            [BOX, "run", "--rm", IMAGE, "sh", "-c", f"echo {number}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for number in range(50)
    ]
    for number, process in enumerate(started):
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, b"%d\n" % number, b"")


def test_many_in_the_background_start_and_are_removed_at_once(site: Site, box: Box) -> None:
    started = [
        subprocess.Popen([BOX, "run", "-d", "--name", f"n{number}", IMAGE, "sleep", "1000"], stdout=subprocess.PIPE)
        for number in range(12)
    ]
    identities = {process.communicate(timeout=60)[0].decode().strip() for process in started}
    assert {process.returncode for process in started} == {0}
    assert set(box("ps", "-q", "--no-trunc").stdout.split()) == identities
    removals = [subprocess.Popen([BOX, "rm", "-f", f"n{number}"], stdout=subprocess.DEVNULL) for number in range(12)]
    assert {process.wait(60) for process in removals} == {0}


@pytest.mark.parametrize("name", ["HUP", "INT", "QUIT", "USR1", "USR2", "TERM"])
def test_a_signal_is_passed_on(site: Site, name: str) -> None:
    process = subprocess.Popen(
        [BOX, "run", "--rm", IMAGE, "sh", "-c", f"trap 'echo {name}; exit 7' {name}; echo up; while :; do sleep 0.02; done"],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    process.send_signal(getattr(signal, f"SIG{name}"))
    assert process.stdout.read() == f"{name}\n".encode()
    assert process.wait(20) == 7
    process.stdout.close()


@pytest.mark.parametrize("step", range(8))
def test_a_signal_at_any_time_of_the_start_leaves_nothing(site: Site, step: int) -> None:
    """Before the container it ends box, as any command; after, the container gets it, and ends by it or does not hear it."""
    process = subprocess.Popen([BOX, "run", "--rm", IMAGE, "sleep", "0.1"], stdin=subprocess.DEVNULL)
    time.sleep(0.008 * step)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) in (-signal.SIGTERM, 0, 143)
    assert site.containers.all() == []


def test_a_command_that_a_signal_ends_is_128_and_its_number(site: Site, box: Box) -> None:
    box("run", "--rm", IMAGE, "sh", "-c", "sh -c 'kill -15 $$'", status=143)
    box("run", "--rm", "-m", "32m", IMAGE, "python3", "-c", "x = bytearray(256 << 20)", status=137)


def test_an_end_by_the_memory_limit_is_said_and_inspected(site: Site, box: Box) -> None:
    done = box("run", "--name", "big", "-m", "32m", IMAGE, "python3", "-c", "x = bytearray(256 << 20)", status=137)
    assert "ran out of memory" in done.stderr
    state = json.loads(box("inspect", "big").stdout)[0]["State"]
    assert (state["OOMKilled"], state["ExitCode"], state["Status"]) == (True, 137, "exited")
    box("rm", "big")


def test_a_fork_bomb_behind_a_limit_of_20_ends(site: Site, box: Box) -> None:
    """And this machine goes on."""
    bomb = "bomb() { bomb | bomb & }; bomb; sleep 0.3; exit 3"
    begin = time.monotonic()
    done = box("run", "--rm", "--pids-limit", "20", IMAGE, "sh", "-c", bomb, status=None)
    assert done.returncode in (2, 3)
    assert "annot fork" in done.stderr
    assert time.monotonic() - begin < 30


def test_a_reader_that_goes_away_ends_what_writes_by_sigpipe(site: Site) -> None:
    """Not process 1 itself, which no signal of its own namespace ends."""
    process = subprocess.Popen(
        [BOX, "run", "--rm", IMAGE, "sh", "-c", "sh -c 'while :; do echo y; done'; exit $?"], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"y\n"
    process.stdout.close()
    assert process.wait(20) == 128 + signal.SIGPIPE


def test_closed_standard_streams_are_not_taken_by_something_else(site: Site) -> None:
    script = "ls -l /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 > /shown/fds"
    for closed in ("0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"):
        done = subprocess.run(
            ["sh", "-c", f'exec "$@" {closed}', "sh", BOX, "run", "--rm", "-v", f"{site.root}:/shown", IMAGE, "sh", "-c", script],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )
        assert done.returncode == 0, (closed, done.stderr)
        shown = Path(site.root, "fds").read_text()
        assert len(shown.splitlines()) == 3
        assert "containers" not in shown


def test_descriptors_that_the_shell_passes_are_not_the_container_s(site: Site) -> None:
    def descriptors() -> list[str]:
        import os

        return [name for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")]

    root = os.open("/", os.O_RDONLY)
    try:
        done = subprocess.run(
            [BOX, "run", "--rm", IMAGE, *probing(descriptors)], pass_fds=[root], capture_output=True, check=True
        )
    finally:
        os.close(root)
    assert json.loads(done.stdout) == ["0", "1", "2"]


def test_nothing_of_this_shell_s_environment_is_passed_unless_asked(site: Site, box: Box) -> None:
    done = box("run", "--rm", "-e", "ASKED", IMAGE, "env", SECRET="x", ASKED="y", LD_PRELOAD="")
    seen = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert seen.pop("HOSTNAME")
    assert seen == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "FROM": "image",
        "SHARED": "image", "ASKED": "y",
    }  # fmt: skip


def test_what_the_container_printed_is_whole_whatever_it_is(site: Site) -> None:
    """A megabyte of any bytes, through a pipe and through box's own copying (kept containers have a log)."""
    script = "import os\nos.write(1, b'')\nfor n in range(4096): os.write(1, bytes(range(256)))"
    for options in (["--rm"], ["--name", "kept"]):
        done = subprocess.run(
            [BOX, "run", *options, IMAGE, "python3", "-I", "-S", "-c", script], capture_output=True, check=True, timeout=60
        )
        assert done.stdout == bytes(range(256)) * 4096
    logged = subprocess.run([BOX, "logs", "kept"], capture_output=True, check=True)
    assert logged.stdout == bytes(range(256)) * 4096
    subprocess.run([BOX, "rm", "kept"], check=True, capture_output=True)


def test_input_of_any_size_arrives(site: Site) -> None:
    data = os.urandom(1 << 20)
    for options in (["--rm"], ["--name", "kept"]):
        done = subprocess.run([BOX, "run", *options, "-i", IMAGE, "cat"], input=data, capture_output=True, check=True, timeout=60)
        assert done.stdout == data
    subprocess.run([BOX, "rm", "kept"], check=True, capture_output=True)


def test_a_host_with_shared_mounts_sees_none_of_the_container_s(site: Site) -> None:
    """systemd makes every mount shared; a container's must not appear among the machine's."""
    script = f'cat /proc/self/mountinfo > /dev/stderr; "{BOX}" run --rm -v /usr:/shown {IMAGE} true; cat /proc/self/mountinfo'
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "shared", "sh", "-c", script], capture_output=True, check=True, text=True
    )
    assert "shared:" in done.stderr
    assert done.stdout == done.stderr


def test_inspect_and_ps_tell_what_was_asked_for(site: Site, box: Box, tmp_path: Path) -> None:
    identity = box(
        "run", "-d", "--name", "web", "-h", "inner", "-e", "A=b", "-u", "app", "-w", "/home/app", "-v", f"{tmp_path}:/data:ro",
        "--tmpfs", "/run:size=1m", "-m", "64m", "--cpus", "0.5", "--pids-limit", "9", "-l", "k=v", "--stop-signal", "USR1",
        "--read-only", IMAGE, "sleep", "1000",
    ).stdout.strip()  # fmt: skip
    shown: dict[str, Any] = json.loads(box("inspect", "web").stdout)[0]
    assert (shown["Id"], shown["Name"], shown["Path"], shown["Args"]) == (identity, "web", "sleep", ["1000"])
    assert shown["State"]["Pid"] == site.containers.find("web").pid
    config, host = shown["Config"], shown["HostConfig"]
    assert (config["Hostname"], config["User"], config["WorkingDir"], config["Labels"]) == (
        "inner",
        "app",
        "/home/app",
        {"k": "v"},
    )
    assert "A=b" in config["Env"]
    assert config["StopSignal"] == int(signal.SIGUSR1)
    assert (host["Memory"], host["NanoCpus"], host["PidsLimit"], host["ReadonlyRootfs"]) == (64 << 20, 500_000_000, 9, True)
    assert {(mount["Destination"], mount["Type"], mount["RW"]) for mount in shown["Mounts"]} == {
        ("/data", "bind", False), ("/run", "tmpfs", True),
    }  # fmt: skip
    record = json.loads(box("ps", "--format", "json").stdout)
    assert (record["ID"], record["Names"], record["State"], record["Command"]) == (
        identity[:12],
        "web",
        "running",
        '"sleep 1000"',
    )
    lifecycle.remove(site.containers.find("web"), force=True)


def test_the_background_keeps_no_pipe_of_its_starter_open(site: Site) -> None:
    """`box run -d ... | tee`, a build server that waits for the end of a step's output."""
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [BOX, "run", "-d", "--rm", "--name", "web", IMAGE, "sleep", "1000"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=[writer],
    )  # fmt: skip
    os.close(writer)
    assert process.stdout is not None
    assert len(process.stdout.read().strip()) == 64  # read to its end
    process.stdout.close()
    process.wait()
    assert os.read(reader, 1) == b""
    os.close(reader)
    lifecycle.stop(site.containers.find("web"), 0)


@pytest.mark.parametrize("removed", [True, False])
def test_logs_are_followed_to_the_end_though_the_container_is_removed(site: Site, box: Box, removed: bool) -> None:
    options = ["--rm"] if removed else []
    box("run", "-d", *options, "--name", "talk", IMAGE, "sh", "-c", "echo begin; sleep 0.4; echo on; printf end")
    assert box("logs", "-f", "talk").stdout == "begin\non\nend"
    until(lambda: all(one.status == "stopped" for one in site.containers.all()))
    if not removed:
        box("rm", "talk")


def test_wait_tells_the_status_to_all_who_wait(site: Site, box: Box) -> None:
    box("run", "-d", "--name", "w", IMAGE, "sh", "-c", "sleep 0.3; exit 6")
    waiting = [subprocess.Popen([BOX, "wait", "w"], stdout=subprocess.PIPE) for _ in range(3)]
    assert [process.communicate(timeout=20)[0] for process in waiting] == [b"6\n"] * 3
    box("rm", "w")


@pytest.mark.parametrize("place", ["nowhere/id", "directory/"])
def test_a_place_where_the_id_cannot_be_written_is_told(site: Site, box: Box, tmp_path: Path, place: str) -> None:
    (tmp_path / "directory").mkdir()
    done = box("run", "--rm", "--cidfile", f"{tmp_path}/{place}", IMAGE, "true", status=125)
    assert done.stderr.startswith(f"box: cannot write the id to {tmp_path}/{place}: ")
    assert done.stderr.splitlines()[1:] == ["hint: name another file with --cidfile"]
    assert site.containers.all() == []


@pytest.mark.parametrize("arguments", [["build"], ["run", "--rm", "-v", ".:/here", IMAGE, "true"]])
def test_a_directory_that_is_gone_is_told(site: Site, tmp_path: Path, arguments: list[str]) -> None:
    script = f'mkdir {tmp_path}/gone && cd {tmp_path}/gone && rmdir {tmp_path}/gone && exec "$@"'
    done = subprocess.run(["sh", "-c", script, "sh", BOX, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == (125 if arguments[0] == "run" else 2)
    said = [line for line in done.stderr.splitlines() if "getcwd" not in line]  # the shell's own word
    assert said == ["box: this directory is gone", "hint: go to another: cd"]


def test_a_byte_that_is_no_utf_8_is_shown_as_one(box: Box, site: Site) -> None:
    assert "'he\\xff'" in box("run", "--rm", "he\udcff", "true", status=125).stderr
    assert "/nope\\xff" in box("run", "--rm", "--env-file", "/nope\udcff", IMAGE, status=125).stderr


def test_a_file_of_variables_is_refused_at_the_line_that_is_no_variable(site: Site, box: Box, tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("# a comment\n A=1 2\nexport B=2\n")
    done = box("run", "--rm", "--env-file", file, IMAGE, "env", status=125)
    assert done.stderr.splitlines() == [
        f"box: {file}:3: a blank in a variable's name: 'export B=2'",
        "hint: write NAME=VALUE, or NAME alone",
    ]
    file.write_text("# a comment\n A=1 2\nB=2\n")
    assert {"A=1 2", "B=2"} <= set(box("run", "--rm", "--env-file", file, IMAGE, "env").stdout.splitlines())
