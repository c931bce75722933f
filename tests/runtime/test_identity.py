"""Who the command runs as, where, and how it is found."""

import os
from pathlib import Path
from typing import Any

import pytest

from runtime import container
from store.errors import CommandNotExecutable, CommandNotFound, RunError, SetupFailed
from tests.containers import Site

pytestmark = pytest.mark.needs("root", "overlay", "cgroup")


def identity() -> list[Any]:
    import os

    return [os.getresuid(), os.getresgid(), sorted(os.getgroups()), os.environ["HOME"]]


@pytest.mark.parametrize(
    ("user", "uid", "gid", "groups", "home"),
    [
        ("", 0, 0, [0], "/root"),
        ("root", 0, 0, [0], "/root"),
        ("app", 1000, 1001, [1001, 1500, 1600], "/home/app"),
        ("1000", 1000, 1001, [1001, 1500, 1600], "/home/app"),
        ("app:extra", 1000, 1500, [1500], "/home/app"),
        ("app:0", 1000, 0, [0], "/home/app"),
        ("4242", 4242, 0, [0], "/"),
        ("4242:4343", 4242, 4343, [4343], "/"),
        ("nobody", 65534, 65534, [65534], "/"),
        ("0:other", 0, 1600, [1600], "/root"),
    ],
)
def test_the_user_is_the_image_s_by_name_or_by_number(
    site: Site, user: str, uid: int, gid: int, groups: list[int], home: str
) -> None:
    assert site.probe(identity, user=user) == [[uid] * 3, [gid] * 3, groups, home]


@pytest.mark.parametrize("user", ["app2", "daemon", "app:nogroups", "root:wheel"])
def test_a_user_or_group_that_the_image_does_not_know_is_an_error_though_this_machine_may(site: Site, user: str) -> None:
    with pytest.raises(RunError, match="in the image's /etc/") as caught:
        site.run("true", user=user)
    assert "it has root, app" in caught.value.hint


def test_a_program_s_set_user_id_bit_gives_nothing(site: Site, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir(mode=0o755)
    (tree / "id").write_bytes(Path(site.trees[-1], "usr/bin/id").read_bytes())
    os.chmod(tree / "id", 0o6755)
    ran = site.run("/id", user="app", lowers=[str(tree), *site.trees])
    assert ran.out.startswith("uid=1000(app) gid=1001(app)")
    assert "euid" not in ran.out


def test_the_working_directory_is_made_where_it_is_missing(site: Site) -> None:
    assert site.shell("pwd; ls -ld .", cwd="/new/place").out.startswith("/new/place\ndrwxr-xr-x")
    assert site.shell("pwd", cwd="/home/app", user="app").out == "/home/app\n"
    assert site.shell("pwd", cwd="/proc/self/net/..").status == 0


@pytest.mark.parametrize("cwd", ["/etc/passwd", "/etc/passwd/below"])
def test_a_working_directory_that_is_a_file_is_an_error(site: Site, cwd: str) -> None:
    with pytest.raises(SetupFailed, match="make the working directory"):
        site.run("true", cwd=cwd)


@pytest.mark.parametrize("number", [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 200])
def test_a_working_directory_that_is_a_descriptor_leads_nowhere(site: Site, number: int) -> None:
    """/proc/self/fd/N of the process that prepares the container led out of it: CVE-2024-21626."""
    root = os.open("/", os.O_RDONLY)
    os.dup2(root, 200)
    try:
        with pytest.raises(SetupFailed, match=r"directory (/proc/self/fd/|at /proc/self/fd/3)"):
            site.run("true", cwd=f"/proc/self/fd/{number}")
    finally:
        os.close(root)
        os.close(200)


def test_a_working_directory_that_is_a_descriptor_of_the_caller_s_own_leads_nowhere(site: Site, tmp_path: Path) -> None:
    """`box run IMAGE <.`: the image's working directory must not choose to begin in a directory of this machine."""
    (tmp_path / "canary").write_text("outside")

    def run(*argv: str, cwd: str) -> str:
        directory = os.open(tmp_path, os.O_RDONLY)
        try:
            with (tmp_path / "out").open("w+b") as out:
                container.run(site.spec(*argv, cwd=cwd, userns="host"), stdin=directory, stdout=out.fileno(), stderr=2)
                out.seek(0)
                return out.read().decode()
        finally:
            os.close(directory)

    assert run("cat", "/proc/self/fd/0/canary", cwd="/") == "outside"  # the control: the descriptor does lead out
    with pytest.raises(SetupFailed, match="change to the working directory"):
        run("cat", "canary", cwd="/proc/self/fd/0")
    with pytest.raises(SetupFailed, match="change to the working directory"):
        run("pwd", cwd="/proc/self/cwd")


def test_a_working_directory_that_is_a_link_to_a_descriptor_is_refused(site: Site, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir(mode=0o755)
    (tree / "app").symlink_to("/proc/self/fd/8")
    with pytest.raises(SetupFailed, match="working directory"):
        site.run("true", cwd="/app", lowers=[str(tree), *site.trees])


def test_a_working_directory_is_entered_before_the_user_is_another(site: Site, tmp_path: Path) -> None:
    """As docker does; what the user can do there is another question."""
    tree = tmp_path / "tree"
    tree.mkdir(mode=0o755)
    (tree / "secret").mkdir(mode=0o700)
    lowers = [str(tree), *site.trees]
    assert site.shell("pwd; ls", cwd="/secret", lowers=lowers).status == 0
    ran = site.shell("pwd; ls", cwd="/secret", lowers=lowers, user="app")
    assert "/secret" in ran.out
    assert ran.status == 2


@pytest.fixture
def commands(site: Site, tmp_path: Path) -> list[str]:
    """Lowers with programs in /one, /two and /three."""
    tree = tmp_path / "tree"
    for name in ("one", "two", "three"):
        (tree / name).mkdir(parents=True)
    tree.chmod(0o755)

    def put(path: str, text: str, mode: int = 0o755) -> None:
        (tree / path).write_text(text)
        (tree / path).chmod(mode)

    put("two/tool", "#!/bin/sh\necho two $0 $*\n")
    put("three/tool", "#!/bin/sh\necho three\n")
    put("one/shadow", "not executable", 0o644)
    put("two/shadow", "#!/bin/sh\necho found\n")
    put("one/closed", "#!/bin/sh\n", 0o644)
    put("one/lost", "#!/no/such/interpreter\n")
    put("one/plain", "echo a script without its first line\n")
    put("one/foreign", "\x7fELF\x02\x01\x01" + "\0" * 60)
    put("one/private", "#!/bin/sh\n", 0o700)
    (tree / "one" / "folder").mkdir()
    (tree / "one" / "dangling").symlink_to("/nowhere")
    (tree / "one" / "loop").symlink_to("loop")
    return [str(tree), *site.trees]


PATH = "PATH=/one:/missing:/etc/passwd:/two:/three:/usr/bin:/bin"


def test_a_command_is_looked_up_along_the_path_of_the_container(site: Site, commands: list[str]) -> None:
    assert site.run("tool", "a", "b", lowers=commands, env=[PATH]).out == "two /two/tool a b\n"
    assert site.run("shadow", lowers=commands, env=[PATH]).out == "found\n"  # past one that is not executable
    assert site.run("./tool", lowers=commands, env=[PATH], cwd="/three").out == "three\n"
    assert site.run("/three/tool", lowers=commands, env=[PATH]).out == "three\n"
    assert site.run("three/tool", lowers=commands, env=[PATH]).out == "three\n"
    assert site.run("tool", lowers=commands, env=["PATH=:/one"], cwd="/three").out == "three\n"  # empty: here


@pytest.mark.parametrize(
    "name", ["none", "/none", "./none", "dangling", "/one/dangling", "/one/loop", "tool/x", "/etc/passwd/x", ""]
)
def test_a_command_that_is_not_there_is_127(site: Site, commands: list[str], name: str) -> None:
    with pytest.raises(CommandNotFound) as caught:
        site.run(name, lowers=commands, env=[PATH])
    assert caught.value.exit_status == 127


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("closed", "permission denied"), ("/one/closed", "permission denied"), ("/one/folder", "/one/folder is a directory"),
        ("folder", "/one/folder is a directory"), ("plain", "exec format error"), ("/one", "/one is a directory"),
        ("lost", "the first line of /one/lost asks for /no/such/interpreter, which the image does not have"),
        ("foreign", "/one/foreign is built for machine 0, and this machine is"), ("/", "/ is a directory"),
    ],
)  # fmt: skip
def test_a_command_that_cannot_be_executed_is_126_and_says_why(site: Site, commands: list[str], name: str, reason: str) -> None:
    with pytest.raises(CommandNotExecutable) as caught:
        site.run(name, lowers=commands, env=[PATH])
    assert caught.value.exit_status == 126
    assert reason in caught.value.message


def test_what_is_executable_for_root_alone_is_126_for_a_user(site: Site, commands: list[str]) -> None:
    assert site.run("/one/private", lowers=commands).status == 0
    with pytest.raises(CommandNotExecutable, match="permission denied"):
        site.run("/one/private", lowers=commands, user="app")


def test_what_the_environment_says_is_no_code_for_box(site: Site) -> None:
    """LD_PRELOAD, PYTHONPATH and their like mean something to the command alone."""
    hostile = ["LD_PRELOAD=/none.so", "PYTHONPATH=/none", "PYTHONSTARTUP=/none", "LD_LIBRARY_PATH=/none", "BASH_ENV=/none"]
    ran = site.run("env", env=hostile)
    assert set(hostile) <= set(ran.out.split())
    assert "ERROR: ld.so: object '/none.so'" in ran.err  # the container's loader, not box's
