"""linux.seccomp of a bundle with an agent that answers calls: SCMP_ACT_NOTIFY."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.agent import Agent, Question
from tests.runtime.bundles import Bundle, Bundles, until

pytestmark = [pytest.mark.needs("root", "mount", "cgroup")]

AGENT = "agent"


@pytest.fixture
def agents(bundles: Bundles) -> Iterator[Callable[..., Agent]]:
    started = []

    def start(answer: Callable[[Question], "int | None"]) -> Agent:
        started.append(Agent(bundles.top / AGENT, answer))
        return started[-1]

    yield start
    for identity in bundles.ids():  # what they listen to ends with them
        bundles.box("delete", "--force", identity)
    for agent in started:
        agent.close()


def notifying(bundles: Bundles, script: str, *names: str, **more: Any) -> Bundle:
    bundle = bundles.make("sh", "-c", script)
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": str(bundles.top / AGENT),
        "syscalls": [{"names": list(names), "action": "SCMP_ACT_NOTIFY"}],
    }
    return bundle.change("linux_seccomp", {**profile, **more})


def makes_it_itself(question: Question) -> int:
    """The directory appears with a name and a mode of the agent's own."""
    path = question.text(0 if question.name == "mkdir" else 1)
    os.mkdir(f"/proc/{question.pid}/root{path}-by-agent", 0o700)
    return 0


@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_an_agent_makes_the_directory_in_the_container_s_stead(
    bundles: Bundles, agents: Callable[..., Agent], no_new_privileges: bool
) -> None:
    agent = agents(makes_it_itself)
    script = "mkdir /dev/shm/made && stat -c '%n %a' /dev/shm/*; grep Seccomp: /proc/self/status"
    bundle = notifying(bundles, script, "mkdir", "mkdirat", listenerMetadata="of the test")
    bundle.change("process_noNewPrivileges", no_new_privileges).change("annotations", {"an": "annotation"})
    bundle.create()
    (told,) = agent.told
    state = bundles.state("one")
    assert told == {
        "ociVersion": state["ociVersion"], "fds": ["seccompFd"], "pid": state["pid"], "metadata": "of the test",
        "state": {**state, "status": "creating"},
    }  # fmt: skip
    bundles.box("delete", "--force", "one")
    assert bundle.run().stdout == "/dev/shm/made-by-agent 700\nSeccomp:\t2\n"
    assert {question.name for question in agent.asked} <= {"mkdir", "mkdirat"}


def test_an_agent_refuses_with_an_errno_or_lets_the_kernel_go_on(bundles: Bundles, agents: Callable[..., Agent]) -> None:
    agents(lambda question: 122 if question.text(0 if question.name == "mkdir" else 1).endswith("no") else None)
    bundle = notifying(bundles, "mkdir /dev/shm/yes; mkdir /dev/shm/no; ls /dev/shm", "mkdir", "mkdirat")
    done = bundle.run()
    assert done.stdout == "yes\n"
    assert os.strerror(122) in done.stderr


@pytest.mark.parametrize("others", [("read",), ("read", "recvfrom", "recvmsg")])
def test_what_box_itself_calls_behind_the_filter_may_be_asked_too(
    bundles: Bundles, agents: Callable[..., Agent], others: tuple[str, ...]
) -> None:
    """The wait for the agent is the one call that must be allowed: which, is chosen by the filter."""
    names = ("close_range", "dup3", "write", "execve", "rt_sigprocmask", *others)
    agent = agents(lambda question: None)
    assert notifying(bundles, "echo said", *names).run().stdout == "said\n"
    assert {"execve", "write", "read"} <= {question.name for question in agent.asked}
    notifying(bundles, "true", "read", "recvfrom", "ppoll").refused("could not wait until its agent has the listener")


def test_a_process_that_joins_has_a_listener_of_its_own(bundles: Bundles, agents: Callable[..., Agent]) -> None:
    agent = agents(makes_it_itself)
    pid = notifying(bundles, "while :; do sleep 1; done", "mkdir", "mkdirat", listenerMetadata="both").start()
    for number in (1, 2):
        path = f"/dev/shm/{number}"
        seen = bundles.box("exec", "one", "sh", "-c", f"mkdir {path} && stat -c %a {path}-by-agent")
        assert seen.stdout == "700\n"
        assert len(agent.told) == 1 + number
        told = agent.told[-1]
        assert told["pid"] not in (pid, 0)
        assert (told["metadata"], told["state"]["id"], told["state"]["status"]) == ("both", "one", "running")
        assert told["state"]["pid"] == pid


def test_an_exec_that_fails_says_why_and_not_that_its_agent_has_nothing(bundles: Bundles, agents: Callable[..., Agent]) -> None:
    agents(lambda question: None)
    notifying(bundles, "while :; do sleep 1; done", "mkdir").start()
    assert 'exec: "nosuch": executable file not found in $PATH' in bundles.box("exec", "one", "nosuch", status=1).stderr
    assert "/none" in bundles.box("exec", "--cwd", "/none", "one", "true", status=1).stderr


def test_what_fails_before_the_filter_is_said_by_itself(bundles: Bundles, agents: Callable[..., Agent]) -> None:
    agents(lambda question: None)
    bundle = notifying(bundles, "true", "mkdir").change("process_cwd", "/proc/nowhere")
    bundle.refused("working directory", "/proc/nowhere")


def test_an_agent_that_is_not_there_is_named_and_nothing_is_left(bundles: Bundles) -> None:
    notifying(bundles, "true", "mkdir").refused(f"the agent at {bundles.top}/{AGENT} cannot be reached", "No such file".lower())
    notifying(bundles, "true", "mkdir", listenerPath="agent").refused("linux.seccomp.listenerPath", "absolute path")
    notifying(bundles, "true", "chroot", listenerPath=None).refused("linux.seccomp.listenerPath")


def test_an_agent_that_goes_away_leaves_calls_without_an_answer(bundles: Bundles, agents: Callable[..., Agent]) -> None:
    """The kernel says then that there is no such call."""
    path = bundles.top / AGENT
    import socket

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        server.settimeout(20)
        bundle = notifying(bundles, "while ! [ -e /dev/shm/go ]; do sleep 0.01; done; mkdir /dev/shm/x", "mkdir", "mkdirat")
        bundle.create()
        connection, _ = server.accept()
        connection.close()  # with the listener in it
    pid = bundles.state("one")["pid"]
    bundles.box("start", "one")
    Path(f"/proc/{pid}/root/dev/shm/go").touch()
    until(lambda: bundles.status("one") == "stopped")
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 1


def test_the_kernel_waits_killable_where_it_was_asked_to(bundles: Bundles, agents: Callable[..., Agent]) -> None:
    agents(lambda question: 5)
    flags = ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"]
    assert os.strerror(5) in notifying(bundles, "mkdir /x", "mkdir", "mkdirat", flags=flags).run(status=1).stderr


def test_the_features_say_so(bundles: Bundles) -> None:
    said = json.loads(bundles.box("features").stdout)["linux"]["seccomp"]
    assert "SCMP_ACT_NOTIFY" in said["actions"]
    assert "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" in said["supportedFlags"]
