"""box-runtime under docker and podman: what a user of these does with containers."""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import docker as bench_docker
from bench.docker import Docker
from bench.podman import LIMITS, Podman
from bench.timing import Failed
from tests.command.terminal import Terminal
from tests.conftest import need
from tests.peers.conftest import refuse
from tests.peers.engine import BOX_RUNTIME, IMAGE, Engine, save_image, until

pytestmark = [pytest.mark.needs("root", "overlay", "cgroup")]

SLEEPER = ("sh", "-c", 'trap "exit 3" TERM; echo ready; while :; do sleep 0.05; done')


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_image(tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="module")
def _docker(_short: Path, archive: Path) -> Iterator[Engine]:
    """A dockerd whose default runtime is box-runtime."""
    need("dockerd")
    try:
        daemon = Docker(f"{_short}/box", f"--add-runtime=box={BOX_RUNTIME}", "--default-runtime=box")
    except Failed as reason:
        refuse("dockerd", reason)
        raise
    try:
        engine = Engine(daemon.command, ("--network", "none"))
        engine("load", "-i", str(archive))
        yield engine
    finally:
        daemon.close()


@pytest.fixture(scope="module")
def _box_podman(_short: Path) -> Iterator[Podman]:
    need("podman")
    store = Podman(f"{_short}/box-podman", isolated=False)
    store.runtime = BOX_RUNTIME
    yield store
    store.close()


@pytest.fixture(scope="module")
def _podman(_box_podman: Podman, archive: Path) -> Engine:
    engine = Engine(_box_podman.command, ("--network", "none", *LIMITS))
    engine("load", "-i", str(archive))
    return engine


@pytest.fixture(params=["docker", "podman"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine that has no containers before the test; after it, they are removed."""
    found: Engine = request.getfixturevalue("_" + request.param)
    yield found
    if left := found("ps", "-aq").out.split():
        found("rm", "-f", *left)


def terminal(engine: Engine, *arguments: str) -> Terminal:
    program, *words = engine.command(*arguments)
    return Terminal(*words, program=program)


def ready(engine: Engine, name: str) -> None:
    until(lambda: "ready" in engine("logs", name).out)


def test_a_container_runs_and_its_status_is_the_engine_s(engine: Engine) -> None:
    ended = engine.run("-i", "--", "sh", "-c", "cat; echo err >&2; exit 7", status=7, stdin="through\n")
    assert (ended.out, ended.err) == ("through\n", "err\n")


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        ("no-such-command", 127, "executable file not found in $PATH"),
        ("/no/such/command", 127, "no such file or directory"),
        ("/not-executable", 126, "permission denied"),
        ("/data", 126, "permission denied"),
    ],
)
def test_a_command_that_cannot_be_executed(engine: Engine, command: str, status: int, said: str) -> None:
    assert said in engine.run(command, status=status).err.lower().replace("$path", "$PATH")


def test_what_the_runtime_refuses_is_what_the_engine_says(engine: Engine) -> None:
    refused = engine.run("--ulimit", "nofile=99999999:99999999", "--", "true", status=None)
    assert refused.status in (125, 126)
    assert "limit nofile to 99999999:99999999" in refused.err


def test_a_terminal_is_the_container_s(engine: Engine) -> None:
    with terminal(engine, "run", "--rm", "-it", *engine.placed(["sh"])) as user:
        user.type(b"stty -echo; tty; stty size; echo first-$((40+2))\n")
        user.until(rb"/dev/pts/0\r\n")
        user.until(rb"first-42\r\n")
        until(lambda: _typed(user, b"stty size\n", b"33 111"))
        user.resize(20, 70)
        until(lambda: _typed(user, b"stty size\n", b"20 70"))
        user.type(b"exit 5\n")
        assert user.end() == 5


def _typed(user: Terminal, keys: bytes, wanted: bytes) -> bool:
    user.type(keys)
    return wanted in user.until(rb"\d+ \d+\r\n").group()


def test_one_more_process_in_it(engine: Engine) -> None:
    engine.start("one", *SLEEPER)
    assert engine("exec", "one", "cat", "/proc/1/comm").out == "sh\n"
    assert engine("exec", "-i", "one", "cat", stdin="given").out == "given"
    assert engine("exec", "-u", "app", "-w", "/data", "-e", "X=y", "one", "sh", "-c", "id; pwd; echo $X").out == (
        "uid=1000(app) gid=1001(app) groups=1001(app),1500(extra)\n/data\ny\n"
    )
    assert engine("exec", "one", "sh", "-c", "exit 9", status=9).out == ""
    assert engine("exec", "one", "no-such-command", status=None).status in (126, 127)  # docker 20.10 says 126 here
    engine("exec", "-d", "one", "touch", "/made")
    until(lambda: engine("exec", "one", "ls", "/made", status=None).status == 0)
    # The same profile as the container's: capabilities, filter, control groups.
    seen = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/%s/status; cat /proc/%s/cgroup"
    assert engine("exec", "one", "sh", "-c", seen % (1, 1)).out == engine("exec", "one", "sh", "-c", seen % ("self", "self")).out


def test_one_more_process_with_a_terminal(engine: Engine) -> None:
    engine.start("one", *SLEEPER)
    with terminal(engine, "exec", "-it", "one", "sh") as user:
        user.type(b"stty -echo; tty; echo got-$((1+1))\n")
        user.until(rb"/dev/pts/\d+\r\n")
        user.until(rb"got-2\r\n")
        user.type(b"exit 6\n")
        assert user.end() == 6


def test_stop_lets_the_command_end_itself_and_start_starts_it_again(engine: Engine) -> None:
    engine.start("one", *SLEEPER)
    ready(engine, "one")
    engine("stop", "-t", "20", "one")
    state = engine.state("one")
    assert (state["Status"], state["ExitCode"]) == ("exited", 3)
    engine("start", "one")
    assert engine.state("one")["Status"] == "running"
    before = engine.state("one")["Pid"]
    engine("restart", "-t", "0", "one")
    state = engine.state("one")
    assert state["Status"] == "running"
    assert state["Pid"] != before


def test_stop_kills_what_does_not_listen(engine: Engine) -> None:
    engine.start("one", "sh", "-c", 'trap "" TERM; echo ready; while :; do sleep 0.05; done')
    ready(engine, "one")
    engine("stop", "-t", "1", "one")
    assert engine.state("one")["ExitCode"] == 137


def test_kill_sends_the_signal_that_was_named(engine: Engine) -> None:
    engine.start("one", "sh", "-c", 'trap "echo caught; exit 4" USR1; echo ready; while :; do sleep 0.05; done')
    ready(engine, "one")
    engine("kill", "-s", "USR1", "one")
    assert engine("wait", "one").out == "4\n"
    assert "caught" in engine("logs", "one").out
    engine("start", "one")
    ready(engine, "one")
    engine("kill", "one")
    assert engine("wait", "one").out == "137\n"


def test_a_paused_container_stands_still_until_it_is_let_go(engine: Engine) -> None:
    engine.start("one", "sh", "-c", "i=0; while :; do i=$((i+1)); echo $i > /count; sleep 0.01; done")
    count = Path(f"/proc/{until(lambda: engine.state('one')['Pid'])}/root/count")
    until(count.exists)
    engine("pause", "one")
    assert engine.state("one")["Status"] == "paused"
    assert engine("exec", "one", "true", status=None).status != 0
    still = count.read_text()
    time.sleep(0.3)
    assert count.read_text() == still
    engine("unpause", "one")
    until(lambda: count.read_text() not in (still, ""))


def test_a_paused_container_can_be_removed(engine: Engine) -> None:
    engine.start("one", *SLEEPER)
    engine("pause", "one")
    engine("rm", "-f", "one")
    assert engine("ps", "-aq").out == ""


def test_stats_and_top_see_it(engine: Engine) -> None:
    engine.start("one", "-m", "64m", "--", "sh", "-c", "while :; do :; done")
    until(lambda: "PID" in engine("top", "one").out)
    assert "while :" in engine("top", "one").out
    used = json.loads(engine("stats", "--no-stream", "--format", "{{json .}}", "one").out.strip("[]\n"))
    said = json.dumps(used)
    assert "67.1" in said or "64MiB" in said or "67108864" in said, used
    assert float(str(used.get("CPUPerc", used.get("cpu_percent"))).rstrip("%")) > 1


def test_limits_hold(engine: Engine) -> None:
    limits = ("-m", "48m", "--memory-swap", "48m", "--pids-limit", "30", "--cpus", "0.5", "--cpu-shares", "256")
    script = "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes pids/pids.max cpu/cpu.cfs_quota_us cpu/cpu.shares"
    if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        script = "cd /sys/fs/cgroup; cat memory.max pids.max cpu.max"
    said = engine.run(*limits, "--", "sh", "-c", script).out.split()
    assert {"50331648", "30", "50000"} <= set(said), said
    forks = (
        "import os\nn=0\ntry:\n  while n<100:\n    os.fork() or os._exit(os.read(os.pipe()[0],1)); n+=1\nexcept OSError: print(n)"
    )
    assert int(engine.run("--pids-limit", "30", "--", "python3", "-c", forks).out) == 29


def test_out_of_memory_is_known_as_such(engine: Engine) -> None:
    hungry = "python3 -c 'x = bytearray(200 << 20)'; ended=$?; sleep 1; exit $ended"  # the engine hears of it while it runs
    engine.start("one", "-m", "32m", "--memory-swap", "32m", "--", "sh", "-c", hungry)
    assert engine("wait", "one").out == "137\n"
    if engine.is_docker:  # conmon does not see it on cgroup v1, with whatever runtime
        assert engine.state("one")["OOMKilled"] is True


def test_update_changes_a_running_one(engine: Engine) -> None:
    engine.start("one", "-m", "64m", "--memory-swap", "64m", "--", *SLEEPER)
    limits = ("--memory", "96m", "--memory-swap", "96m", "--cpus", "0.25", "--cpu-shares", "300")
    engine("update", *limits, *(("--pids-limit", "44") if engine.is_docker else ()), "one")
    if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        script = "cd /sys/fs/cgroup; cat memory.max cpu.max pids.max"
    else:
        script = "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us cpu/cpu.shares pids/pids.max"
    said = engine("exec", "one", "sh", "-c", script).out.split()
    assert {"100663296", "25000"} <= set(said), said
    assert ("44" in said) is engine.is_docker


def test_an_init_reaps_and_passes_signals_on(engine: Engine) -> None:
    own = () if engine.is_docker else ("--init-path", shutil.which("tini") or "")
    engine.start("one", "--init", *own, "--", "sh", "-c", "(sleep 0.1 &); echo ready; sleep 100")
    ready(engine, "one")
    assert "init" in engine("exec", "one", "cat", "/proc/1/comm").out
    until(lambda: "defunct" not in engine("top", "one").out)
    engine("stop", "-t", "20", "one")
    assert engine.state("one")["ExitCode"] == 143


def test_a_read_only_root_with_what_may_be_written(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "given").write_text("of the machine\n")
    script = """
        touch /x 2>&1; cat /v/given; touch /v/x 2>&1; echo made > /w/made; echo t > /t/t && cat /t/t; cat /named/kept
        stat -f -c %T /t || true; grep " /t " /proc/mounts
    """
    ended = engine.run(
        "--read-only", "-v", f"{tmp_path}:/v:ro", "-v", f"{tmp_path}:/w", "--tmpfs", "/t:size=1m,mode=1777,noexec",
        "-v", "volume:/named/", "-v", "filled:/data", "--", "sh", "-c", script.replace("/named/kept", "/data/kept"),
    )  # fmt: skip
    assert "touch: cannot touch '/x': Read-only file system" in ended.out
    assert "touch: cannot touch '/v/x': Read-only file system" in ended.out
    assert "of the machine\n" in ended.out
    assert "of the image\n" in ended.out  # a named volume takes what the image has there
    assert "size=1024k" in ended.out
    assert "noexec" in ended.out
    assert (tmp_path / "made").read_text() == "made\n"


def test_a_file_system_in_memory_covers_what_the_image_has_or_begins_with_it(engine: Engine) -> None:
    """podman asks for the latter unless it is told not to; docker never does."""
    said = engine.run("--tmpfs", "/data", "--", "sh", "-c", "cat /data/kept; echo x > /data/new && cat /data/new", status=None)
    assert said.out == ("x\n" if engine.is_docker else "of the image\nx\n")
    if not engine.is_docker:
        assert engine.run("--tmpfs", "/data:notmpcopyup", "--", "ls", "/data").out == ""


def test_no_capabilities_and_none_to_be_gained(engine: Engine) -> None:
    seen = engine.run("--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--", "cat", "/proc/self/status").out
    status = dict(line.split(":\t", 1) for line in seen.splitlines() if ":\t" in line)
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    added = engine.run("--cap-drop", "ALL", "--cap-add", "NET_ADMIN", "--", "grep", "CapEff", "/proc/self/status").out
    assert int(added.split()[1], 16) == 1 << 12


def test_a_filter_of_the_user_s_own(engine: Engine, tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text(
        json.dumps(
            {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [
                    {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95},
                    {
                        "names": ["personality"],
                        "action": "SCMP_ACT_ERRNO",
                        "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}],
                    },
                ],
            }
        )
    )
    script = (
        "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "print(libc.personality(8), ctypes.get_errno(), libc.personality(0xffffffff))\n"
        "try: os.mkdir('/made')\nexcept OSError as err: print(err.errno)"
    )
    options = ("--security-opt", f"seccomp={profile}", "--")
    assert engine.run(*options, "python3", "-c", script).out == "-1 1 0\n95\n"
    assert engine.run("--security-opt", "seccomp=unconfined", "--", "grep", "Seccomp:", "/proc/self/status").out.split()[1] == "0"


def test_namespaces_of_another_container_and_of_the_machine(engine: Engine) -> None:
    engine.start("one", "--ipc", "shareable", "--", *SLEEPER)
    links = "readlink /proc/self/ns/net /proc/self/ns/ipc /proc/self/ns/pid"
    theirs = engine("exec", "one", "sh", "-c", links).out
    options = [each for each in engine.running if each not in ("--network", "none")]
    joined = engine(
        "run", "--rm", *options, "--network", "container:one", "--ipc", "container:one", "--pid", "container:one", IMAGE,
        "sh", "-c", links,
    )  # fmt: skip
    assert joined.out == theirs
    own = engine("run", "--rm", *options, "--network", "host", "--pid", "host", "--uts", "host", IMAGE, "sh", "-c", links).out
    assert own.split()[0] == os.readlink("/proc/self/ns/net")
    assert own.split()[2] == os.readlink("/proc/self/ns/pid")


def test_a_privileged_one_has_the_machine_s_devices(engine: Engine) -> None:
    assert "loop-control" in engine.run("--privileged", "--", "ls", "/dev").out
    seen = engine.run("--device", "/dev/loop-control:/dev/given:r", "--", "stat", "-c", "%t:%T %F", "/dev/given").out
    assert seen == "a:ed character special file\n"
    assert engine.run("--", "sh", "-c", "cat /dev/kmsg", status=1).out == ""


def test_a_health_check_runs_in_it(engine: Engine) -> None:
    engine.start("one", "--health-cmd", "test -e /well", "--health-interval", "1s", "--health-retries", "1", "--", *SLEEPER)
    if engine.is_docker:
        until(lambda: engine.state("one")["Health"]["Status"] == "unhealthy")
        engine("exec", "one", "touch", "/well")
        until(lambda: engine.state("one")["Health"]["Status"] == "healthy")
        return
    assert engine("healthcheck", "run", "one", status=1).out.strip() in ("unhealthy", "")  # no timers without systemd
    engine("exec", "one", "touch", "/well")
    engine("healthcheck", "run", "one")


def test_names_sysctls_and_limits_of_the_container(engine: Engine) -> None:
    options = ("--hostname", "named", "--sysctl", "net.ipv4.ip_unprivileged_port_start=7", "--ulimit", "core=0:0")
    script = "hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; grep 'core file' /proc/self/limits; cat /etc/hostname"
    lines = engine.run(*options, "--", "sh", "-c", script).out.splitlines()
    assert lines[:2] == ["named", "7"]
    assert lines[2].split()[4:6] == ["0", "0"]
    assert lines[3] == "named"


def test_nothing_is_left_of_many(engine: Engine) -> None:
    known = set()
    for number in range(3):
        known.add(engine.start(f"n{number}", *SLEEPER))
    assert known <= {path.name.removeprefix("libpod-") for path in _groups()}
    engine("rm", "-f", *known)
    until(lambda: not [path for path in _groups() if path.name.removeprefix("libpod-") in known])
    mounted = Path("/proc/self/mounts").read_text()
    assert not [each for each in known if each in mounted]
    assert not [path for path in Path("/run/box-runtime").glob("*") if path.name in known]


def _groups() -> list[Path]:
    return [path for path in Path("/sys/fs/cgroup").glob("*/*/*") if path.is_dir()]


@pytest.mark.needs("dockerd")
def test_docker_has_it_as_one_runtime_of_several(_short: Path, archive: Path) -> None:
    try:
        daemon = Docker(f"{_short}/several", f"--add-runtime=box={BOX_RUNTIME}")
    except Failed as reason:
        refuse("dockerd", reason)
        raise
    try:
        engine = Engine(daemon.command, ("--network", "none"))
        engine("load", "-i", str(archive))
        seen = "grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups)' /proc/self/status; ls /dev /dev/; umask"
        assert engine.run("--runtime", "box", "--", "sh", "-c", seen).out == engine.run("--", "sh", "-c", seen).out
    finally:
        daemon.close()
    assert bench_docker.version()


@pytest.fixture
def swarm(_short: Path, archive: Path) -> Iterator[Engine]:
    """A dockerd that is alone in its network, and a swarm of itself."""
    need("dockerd")
    need("netns")
    try:
        daemon = Docker(f"{_short}/swarm", f"--add-runtime=box={BOX_RUNTIME}", "--default-runtime=box", own_network=True)
    except Failed as reason:
        refuse("dockerd", reason)
        raise
    try:
        engine = Engine(daemon.command, ())
        engine("load", "-i", str(archive))
        engine("swarm", "init", "--advertise-addr", "127.0.0.1", "--listen-addr", "127.0.0.1:2377")
        yield engine
        engine("swarm", "leave", "--force")
    finally:
        daemon.close()


def test_a_swarm_service_heals(swarm: Engine) -> None:
    engine = swarm
    create = ("--detach", "--name", "service", "--replicas", "3", "--restart-delay", "100ms", "--no-resolve-image")
    engine("service", "create", *create, IMAGE, "sleep", "1000")
    until(lambda: _replicas(engine) == "3/3", 60)
    before = set(engine("ps", "-q", "--no-trunc").out.split())
    killed = sorted(before)[0]
    os.kill(engine.state(killed)["Pid"], signal.SIGKILL)
    until(lambda: killed not in engine("ps", "-q", "--no-trunc").out)
    until(lambda: _replicas(engine) == "3/3" and len(engine("ps", "-q").out.split()) == 3, 60)
    assert len(before & set(engine("ps", "-q", "--no-trunc").out.split())) == 2
    engine("service", "rm", "service")
    until(lambda: engine("ps", "-aq").out == "", 60)


def _replicas(engine: Engine) -> str:
    return engine("service", "ls", "--format", "{{.Replicas}}").out.strip()


def test_containerd_runs_it_by_its_own_command(_docker: Engine, _short: Path, archive: Path) -> None:
    """ctr --runc-binary, on the containerd that dockerd has started, in a namespace of its own."""
    need("ctr")
    address = f"{_short}/box/exec/containerd/containerd.sock"
    ctr = Engine(lambda *words: ["ctr", "--address", address, "--namespace", "own", *words], ())
    ctr("images", "import", str(archive))
    image = ctr("images", "ls", "-q").out.strip()
    run = ("--runc-binary", BOX_RUNTIME)
    assert ctr("run", "--rm", *run, image, "one", "sh", "-c", "echo through; exit 7", status=7).out == "through\n"
    assert "executable file not found in $PATH" in ctr("run", "--rm", *run, image, "none", "nosuch", status=1).err
    ctr("container", "rm", "none", status=None)
    ctr("run", "-d", *run, image, "two", "sleep", "1000")
    assert ctr("task", "exec", "--exec-id", "more", "two", "cat", "/proc/1/comm").out == "sleep\n"
    ctr("task", "pause", "two")
    assert "PAUSED" in ctr("task", "ls").out
    ctr("task", "resume", "two")
    assert "memory.usage_in_bytes" in ctr("task", "metrics", "two").out
    assert len(ctr("task", "ps", "two").out.splitlines()) == 2
    ctr("task", "kill", "-s", "KILL", "two")
    until(lambda: "STOPPED" in ctr("task", "ls").out)
    assert "137" in ctr("task", "delete", "two").err
    ctr("container", "rm", "two")
    assert "two" not in ctr("task", "ls").out
    ctr("images", "rm", image)


def test_buildah_builds_by_it(_podman: Engine, _box_podman: Podman, tmp_path: Path) -> None:
    need("buildah")
    buildah = Engine(_box_podman.buildah, ())
    (tmp_path / "Dockerfile").write_text(
        f"FROM {IMAGE}\n"
        "RUN echo built > /built && id -u && ls /proc/self/fd > /descriptors\n"
        "USER app\n"
        "WORKDIR /made/by/buildah\n"
        "RUN id -un && pwd && cat /built && rm -f /nothing\n"
        "RUN no-such-command || echo went on\n"
    )
    options = ("--isolation", "oci", "--network", "none", "--ulimit", "nofile=1024:1024", "--runtime", BOX_RUNTIME)
    printed = buildah("build", *options, "--tag", "built", str(tmp_path)).out
    assert "\n0\n" in printed
    assert "app\n/made/by/buildah\nbuilt\n" in printed
    assert "went on\n" in printed
    container = buildah("from", "--pull-never", "built").out.strip()
    try:
        run = ("run", "--isolation", "oci", "--network", "none", "--runtime", BOX_RUNTIME, container)
        # Of the many descriptors that buildah has open none comes through: the fourth is that of the listing itself.
        assert buildah(*run, "cat", "/descriptors").out == "0\n1\n2\n3\n"
        buildah(*run, "sh", "-c", "exit 4", status=4)
        assert "executable file not found in $PATH" in buildah(*run, "nosuch", status=1).err
    finally:
        buildah("rm", container)
