"""box-runtime as an engine calls it: ids, states, errors, the pid file, descriptors, terminals."""

import array
import json
import os
import re
import signal
import socket
import struct
import subprocess
import termios
import time
from fcntl import ioctl
from pathlib import Path

import pytest

from tests.runtime.bundles import BOX_RUNTIME, Bundles, until

pytestmark = [pytest.mark.needs("root", "mount", "cgroup")]


# --- ids ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("identity", ["a", "0", "_x", "+x", "A.b-c_d+e", "x" * 128])
def test_ids_that_are_good(bundles: Bundles, identity: str) -> None:
    bundles.make("true").run(identity)


@pytest.mark.parametrize("identity", ["", ".", "..", ".x", "-x", "a/b", "../x", "a b", "a\n", "ä", "x" * 129, "a:b"])
def test_ids_that_are_none(bundles: Bundles, identity: str) -> None:
    arguments = ("--", identity) if identity.startswith("-") else (identity,)
    error = bundles.box("create", "--bundle", bundles.make("true").write(), *arguments, status=1).stderr
    assert "invalid container ID format" in error
    for verb in ("state", "start", "kill", "delete"):
        bundles.box(verb, *arguments, status=1)


def test_an_id_is_taken_once(bundles: Bundles) -> None:
    bundle = bundles.make("sleep", "100")
    bundle.create()
    assert "already exists" in bundle.create(status=1).stderr
    assert bundles.status("one") == "created"


# --- states -------------------------------------------------------------------------------------------------------------------


def test_a_life(bundles: Bundles) -> None:
    bundle = bundles.make("sleep", "100", annotations={"org.example": "said"})
    bundle.create()
    state = bundles.state("one")
    assert set(state) >= {"ociVersion", "id", "status", "pid", "bundle", "annotations", "rootfs", "created", "owner"}
    assert (state["id"], state["status"], state["bundle"]) == ("one", "created", str(bundle.directory))
    assert state["annotations"] == {"org.example": "said"}
    assert state["rootfs"] == str(bundle.rootfs)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", state["created"])
    pid = state["pid"]
    assert Path(f"/proc/{pid}/comm").read_text() != "sleep\n"
    bundles.box("start", "one")
    assert bundles.state("one") == {**state, "status": "running"}
    assert Path(f"/proc/{pid}/comm").read_text() == "sleep\n"
    bundles.box("pause", "one")
    assert bundles.status("one") == "paused"
    bundles.box("resume", "one")
    assert bundles.status("one") == "running"
    bundles.box("kill", "one", "KILL")
    until(lambda: bundles.status("one") == "stopped")
    assert bundles.state("one")["pid"] == 0
    bundles.box("delete", "one")
    assert "does not exist" in bundles.box("state", "one", status=1).stderr


def test_list_says_the_same_of_all(bundles: Bundles) -> None:
    assert bundles.box("list").stdout.split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    assert json.loads(bundles.box("list", "--format", "json").stdout) == []
    for identity in ("two", "one"):
        bundles.make("sleep", "100").create(identity)
    listed = json.loads(bundles.box("list", "--format=json").stdout)
    assert listed == [bundles.state("one"), bundles.state("two")]
    assert bundles.box("list", "-q").stdout == "one\ntwo\n"
    lines = bundles.box("list").stdout.splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [
        ["one", str(listed[0]["pid"]), "created"],
        ["two", str(listed[1]["pid"]), "created"],
    ]


@pytest.mark.parametrize(
    ("status", "refused"),
    [
        ("created", {"resume": "not paused", "delete": "cannot delete container one that is not stopped", "create": "already"}),
        ("running", {"start": "cannot start a container that is running", "resume": "not paused", "delete": "cannot delete"}),
        ("paused", {"start": "cannot start", "delete": "cannot delete", "exec": "cannot exec in a paused container"}),
        (
            "stopped",
            {
                "start": "cannot start a container that is stopped",
                "kill": "container not running",
                "pause": "cannot pause",
                "resume": "not paused",
                "exec": "cannot exec in a container that is stopped",
                "update": "not running",
                "events": "not running",
            },
        ),
        ("unknown", dict.fromkeys(("start", "state", "kill", "delete", "pause", "resume", "exec", "ps"), "does not exist")),
    ],
)
def test_what_cannot_be_done_in_which_state(bundles: Bundles, status: str, refused: dict[str, str]) -> None:
    bundle = bundles.make("sleep", "100")
    if status != "unknown":
        bundle.create()
    if status in ("running", "paused", "stopped"):
        bundles.box("start", "one")
    if status == "paused":
        bundles.box("pause", "one")
    if status == "stopped":
        bundles.box("kill", "one", "9")
        until(lambda: bundles.status("one") == "stopped")
    for verb, said in refused.items():
        more = {"create": ("--bundle", str(bundle.directory)), "events": ("--stats",)}.get(verb, ())
        error = bundles.box(verb, *more, "one", *(("true",) if verb == "exec" else ()), status=None)
        assert error.returncode in (1, 255), error
        assert said in error.stderr, error
    if status != "unknown":
        assert bundles.status("one") == status


def test_delete_force_takes_what_there_is_and_what_there_is_not(bundles: Bundles) -> None:
    bundles.box("delete", "--force", "unknown")
    bundle = bundles.make("sh", "-c", 'trap "" TERM; while :; do sleep 0.1; done')
    bundle.create()
    bundles.box("delete", "--force", "one")
    bundle.start()
    bundles.box("delete", "--force", "one")
    pid = bundle.start()
    bundles.box("pause", "one")
    bundles.box("delete", "--force", "one")
    until(lambda: not os.path.exists(f"/proc/{pid}") or Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z")
    assert bundles.ids() == []


def test_a_frozen_container_dies_of_a_kill(bundles: Bundles) -> None:
    bundles.make("sleep", "100").start()
    bundles.box("pause", "one")
    bundles.box("kill", "one", "KILL")
    until(lambda: bundles.status("one") == "stopped")
    bundles.box("delete", "one")


@pytest.mark.parametrize(("said", "number"), [("TERM", 15), ("SIGUSR1", 10), ("usr2", 12), ("34", 34), ("SIGRTMIN+1", 35)])
def test_a_signal_has_many_names(bundles: Bundles, said: str, number: int) -> None:
    script = f'trap "echo got; exit 9" {number}; echo ready; while :; do sleep 0.01; done'
    with open(bundles.top / "log", "w") as log:
        folder = bundles.make("sh", "-c", script).write()
        for words in (("create", "--bundle", folder, "one"), ("start", "one")):
            subprocess.run([BOX_RUNTIME, "--root", bundles.root, *words], stdout=log, check=True)
    until(lambda: "ready" in (bundles.top / "log").read_text())
    bundles.box("kill", "one", said)
    until(lambda: bundles.status("one") == "stopped")
    assert (bundles.top / "log").read_text() == "ready\ngot\n"


@pytest.mark.parametrize("said", ["NOSUCH", "0x9", "-1", "65", "SIG"])
def test_a_signal_that_is_none(bundles: Bundles, said: str) -> None:
    bundles.make("sleep", "100").start()
    bundles.box("kill", "one", said, status=1)
    assert bundles.status("one") == "running"


def test_kill_all_reaches_every_process_even_without_its_own_pids(bundles: Bundles) -> None:
    bundle = bundles.make("sh", "-c", "sleep 100 & sleep 100 & wait")
    bundle.change("linux_namespaces", lambda old: [each for each in old if each["type"] != "pid"])
    bundle.start()
    pids = until(lambda: found if len(found := json.loads(bundles.box("ps", "--format", "json", "one").stdout)) == 3 else None)
    bundles.box("kill", "--all", "one", "KILL")
    until(lambda: all(not os.path.exists(f"/proc/{pid}") or "\nState:\tZ" in _status(pid) for pid in pids))


def _status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return "\nState:\tZ"


def test_the_first_process_gone_takes_the_others_along_at_delete(bundles: Bundles) -> None:
    """Without a pid namespace they live on until the container is deleted."""
    bundle = bundles.make("sh", "-c", "sleep 100 & exit 0")
    bundle.change("linux_namespaces", lambda old: [each for each in old if each["type"] != "pid"])
    bundle.start()
    until(lambda: bundles.status("one") == "stopped")
    assert len(json.loads(bundles.box("ps", "--format", "json", "one").stdout)) == 1
    bundles.box("delete", "one")


# --- errors -------------------------------------------------------------------------------------------------------------------


def test_an_error_is_a_line_on_stderr_and_one_in_the_log(bundles: Bundles, tmp_path: Path) -> None:
    log = tmp_path / "log"
    error = bundles.make("no-such").create(status=1, before=("--log", str(log), "--log-format", "json")).stderr
    assert error == 'box-runtime: exec: "no-such": executable file not found in $PATH\n'
    (line,) = log.read_text().splitlines()
    entry = json.loads(line)
    assert entry == {"level": "error", "msg": 'exec: "no-such": executable file not found in $PATH', "time": entry["time"]}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", entry["time"])
    bundles.box("state", "unknown", status=1, before=("--log", str(log), "--log-format=text"))
    assert "level=error" in log.read_text().splitlines()[1]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("nosuch", 'exec: "nosuch": executable file not found in $PATH'),
        ("/nosuch", 'exec: "/nosuch": no such file or directory'),
        ("./nosuch", 'exec: "./nosuch": no such file or directory'),
        ("/etc", 'exec: "/etc": permission denied'),
        ("/plain", 'exec: "/plain": permission denied'),
        ("/bin/sh/x", 'exec: "/bin/sh/x": not a directory'),
    ],
)
def test_a_command_that_cannot_be_is_said_by_create(bundles: Bundles, command: str, said: str) -> None:
    bundle = bundles.make(command, own_root=True)
    (bundle.rootfs / "plain").write_text("x")
    bundle.refused(said)


def test_what_only_the_kernel_knows_of_a_command_is_said_by_start(bundles: Bundles) -> None:
    bundle = bundles.make("/garbage", own_root=True)
    (bundle.rootfs / "garbage").write_bytes(b"\x7fELF garbage")
    (bundle.rootfs / "garbage").chmod(0o755)
    bundle.create()
    assert 'exec: "/garbage": exec format error' in bundles.box("start", "one", status=1).stderr
    assert bundles.status("one") == "stopped"


def test_a_filter_that_forbids_execve_is_told_from_a_missing_command(bundles: Bundles) -> None:
    rule = {"names": ["execve"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77}
    bundle = bundles.make("true", linux_seccomp={"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]})
    bundle.create()
    assert os.strerror(77).lower() in bundles.box("start", "one", status=1).stderr


def test_the_command_line_is_read_as_runc_reads_it(bundles: Bundles) -> None:
    folder = bundles.make("true").write()
    assert bundles.box("--version").stdout.splitlines()[1].startswith("spec: 1.")
    bundles.box("--debug", "--systemd-cgroup=false", "--rootless=auto", "create", "-b", folder, "--no-new-keyring", "one")
    bundles.box("delete", "-f", "one")
    bundles.box("run", "one", cwd=folder)
    bundles.box("run", "one", "--bundle", folder)
    for wrong in (("create",), ("create", "a", "b"), ("nosuch",), ("state", "--nosuch", "one"), ("create", "--bundle")):
        assert bundles.box(*wrong, status=1).stderr.startswith("box-runtime: ")


@pytest.mark.parametrize("verb", ["checkpoint", "restore"])
def test_what_is_not_supported_says_so(bundles: Bundles, verb: str) -> None:
    assert f"{verb} is not supported" in bundles.box(verb, "one", status=1).stderr


# --- what create leaves -------------------------------------------------------------------------------------------------------


def test_the_pid_file_is_a_bare_number_and_the_process_a_child_of_the_nearest_reaper(bundles: Bundles) -> None:
    file = bundles.top / "pid"
    bundles.make("sleep", "100").create("one", "--pid-file", str(file))
    pid = bundles.state("one")["pid"]
    assert file.read_bytes() == str(pid).encode()
    assert f"\nPPid:\t{os.getpid()}\n" in _status(pid)


def test_nobody_of_box_holds_the_pipes_when_create_has_returned(bundles: Bundles) -> None:
    folder = bundles.make("echo", "through").write()
    reader, writer = os.pipe()
    subprocess.run([BOX_RUNTIME, "--root", bundles.root, "create", "--bundle", folder, "one"], stdout=writer, check=True)
    os.close(writer)
    bundles.box("start", "one")
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == b"through\n"  # to its end: the container alone had it


def test_any_first_version_is_read_and_no_other(bundles: Bundles) -> None:
    for version in ("1.0.0", "1.0.2-dev", "1.1.0+dev", "1.9.9"):
        bundles.make("true", ociVersion=version).run()
    for version in ("0.9", "2.0.0", "", "1"):
        bundles.make("true", ociVersion=version).refused("ociVersion")


def test_a_descriptor_that_is_not_open_cannot_be_preserved(bundles: Bundles) -> None:
    """What box opens meanwhile would be in its place."""
    error = bundles.make("true").create("one", "--preserve-fds", "4", status=1).stderr
    assert "descriptor 3 is not open" in error


# --- terminals ----------------------------------------------------------------------------------------------------------------


class Console:
    """A console socket, as an engine listens at it."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(self.path)
        self.socket.listen(1)

    def receive(self) -> tuple[bytes, int]:
        connection, _ = self.socket.accept()
        with connection:
            data, ancillary, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(64))
            ((level, kind, content),) = ancillary
            assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
            fds = array.array("i", content)
            assert len(fds) == 1
            assert connection.recv(1) == b""  # closed
        return data, fds[0]


def test_the_console_socket_gets_the_terminal_s_master(bundles: Bundles) -> None:
    bundle = bundles.make(
        "sh", "-c", "stty size 2>/dev/null; readlink /proc/self/fd/0; readlink /dev/console; stat -c %t:%T /dev/console"
    )
    bundle.change("process_terminal", True).change("process_consoleSize", {"height": 21, "width": 91})
    console = Console(bundles.top / "console")
    with console.socket:
        bundle.create("one", "--console-socket", console.path)
        data, master = console.receive()
    try:
        assert data == b"/dev/ptmx"
        assert struct.unpack("HHHH", ioctl(master, termios.TIOCGWINSZ, bytes(8)))[:2] == (21, 91)
        bundles.box("start", "one")
        shown = b""
        try:
            while piece := os.read(master, 4096):
                shown += piece
        except OSError:
            pass  # EIO: the other end is gone
        assert b"/dev/pts/0\r\n" in shown
        assert b"88:0\r\n" in shown  # the console is that terminal
    finally:
        os.close(master)


def test_a_terminal_and_a_console_socket_come_together_or_not_at_all(bundles: Bundles) -> None:
    bundles.make("true", process_terminal=True).refused("there is no --console-socket")
    bundle = bundles.make("true")
    assert "process.terminal is not set" in bundle.create("one", "--console-socket", "/nonexistent", status=1).stderr
    bundle.change("process_terminal", True)
    assert "cannot send the terminal" in bundle.create("one", "--console-socket", "/nonexistent", status=1).stderr
    assert bundles.ids() == []


def test_a_detached_run_with_a_terminal_needs_no_socket(bundles: Bundles) -> None:
    bundle = bundles.make("sh", process_terminal=True)
    bundle.run("one", "--detach")
    time.sleep(0.1)
    assert bundles.status("one") == "running"
    assert bundles.box("exec", "one", "readlink", "/proc/1/fd/0").stdout == "/dev/pts/0\n"


# --- run ----------------------------------------------------------------------------------------------------------------------


def test_run_is_all_of_a_life(bundles: Bundles) -> None:
    assert bundles.make("sh", "-c", "echo said; exit 7").run(status=7).stdout == "said\n"
    bundles.make("sh", "-c", "sh -c 'kill -9 $$'").run(status=137)
    assert bundles.ids() == []


def test_run_keeps_the_container_when_it_is_asked_to(bundles: Bundles) -> None:
    bundles.make("true").run("one", "--keep")
    assert bundles.status("one") == "stopped"


def test_run_passes_signals_on(bundles: Bundles) -> None:
    folder = bundles.make("sh", "-c", 'trap "echo got; exit 3" TERM; echo ready; while :; do sleep 0.01; done').write()
    command = [BOX_RUNTIME, "--root", bundles.root, "run", "--bundle", folder, "one"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGTERM)
        assert running.stdout.read() == "got\n"
        assert running.wait(20) == 3
    assert bundles.ids() == []


def test_run_keeps_a_signal_that_comes_before_it_is_back_from_start(bundles: Bundles) -> None:
    bundle = bundles.make("sh", "-c", 'trap "echo got; exit 3" TERM; echo ready; while :; do sleep 0.01; done')
    bundle.change("hooks_poststart", [{"path": "/bin/sleep", "args": ["sleep", "0.5"]}])
    command = [BOX_RUNTIME, "--root", bundles.root, "run", "--bundle", bundle.write(), "one"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) == 3
        assert running.stdout.read() == "got\n"


def test_nothing_of_the_environment_is_needed(bundles: Bundles) -> None:
    bundle = bundles.make("sh", "-c", "sleep 1000")
    bundle.run("one", "--detach", env={})
    assert bundles.box("exec", "one", "echo", "said", env={}).stdout == "said\n"
    bundles.box("delete", "--force", "one", env={})


def test_a_pipe_belongs_to_the_command_s_user(bundles: Bundles) -> None:
    bundle = bundles.make(
        "sh", "-c", "echo said > /dev/stdout; sleep 1000", process_user={"uid": 1000, "gid": 1000}, own_root=True
    )
    bundle.rootfs.chmod(0o755)
    bundle.write()
    command = [BOX_RUNTIME, "--root", bundles.root]
    with subprocess.Popen([*command, "run", "--bundle", str(bundle.directory), "one"], stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"said\n"
        said = subprocess.run([*command, "exec", "one", "sh", "-c", "echo too > /dev/stdout"], stdout=subprocess.PIPE, check=True)
        assert said.stdout == b"too\n"
        bundles.box("kill", "one", "KILL")
