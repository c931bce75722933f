"""Which of an engine's descriptors are the container's: those behind the first three that it counts, and no other."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.runtime.bundles import BOX_RUNTIME, Bundles, until

pytestmark = [pytest.mark.needs("root", "mount", "cgroup")]

# Of a shell with these open: what is read from each, and then all that it has. The listing's own is the lowest that is free.
LOOK = 'for n in 3 4 5 6 7 8; do [ -e /proc/self/fd/$n ] && eval "cat <&$n"; done; ls /proc/self/fd; env | grep LISTEN; true'


def call(bundles: Bundles, numbers: tuple[int, ...], *words: str, before: str = "") -> str:
    """What box-runtime prints that has a file open at each of these numbers, whose content is the number."""
    for number in numbers:
        (bundles.top / str(number)).write_text(f"of {number}\n")
    opened = " ".join(f"{number}<{bundles.top}/{number}" for number in numbers)
    with open(bundles.top / "said", "w+b") as said:  # no pipe: what a container inherits would be waited for
        done = subprocess.run(
            ["/bin/sh", "-c", f'{before} exec "$@" {opened}', "sh", BOX_RUNTIME, "--root", bundles.root, *words],
            stdin=subprocess.DEVNULL, stdout=said, stderr=said, timeout=60, check=False, env={"PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        said.seek(0)
        text = said.read().decode()
    assert done.returncode == 0 or "box-runtime: " in text, text
    return text


def seen(*numbers: int) -> str:
    """What LOOK prints for these."""
    own = next(number for number in range(3, 99) if number not in numbers)
    return "".join(f"of {number}\n" for number in numbers) + "".join(f"{number}\n" for number in sorted([0, 1, 2, *numbers, own]))


@pytest.mark.parametrize(
    ("opened", "count", "kept"),
    [
        ((), 0, ()),
        ((3, 4, 5), 0, ()),
        ((3,), 1, (3,)),
        ((3, 4), 2, (3, 4)),
        ((3, 4, 5, 6), 2, (3, 4)),
        ((3, 4, 5, 6, 7, 8), 6, (3, 4, 5, 6, 7, 8)),
        ((3, 4, 7, 9), 2, (3, 4)),
        ((4, 7, 9), 0, ()),
    ],
)
def test_the_container_has_as_many_as_are_counted_and_none_behind_a_gap(
    bundles: Bundles, opened: tuple[int, ...], count: int, kept: tuple[int, ...]
) -> None:
    folder = bundles.make("sh", "-c", LOOK).write()
    options = ("--preserve-fds", str(count)) if count else ()
    assert call(bundles, opened, "run", "--bundle", folder, *options, "one") == seen(*kept)
    # Created by one command and started by another, which has none of them.
    bundle = bundles.make("sh", "-c", f"exec >/said; {LOOK}", own_root=True)
    (bundle.rootfs / "said").touch()
    assert call(bundles, opened, "create", "--bundle", bundle.write(), *options, "one") == ""
    bundles.box("start", "one")
    until(lambda: bundles.status("one") == "stopped")
    assert (bundle.rootfs / "said").read_text() == seen(*kept)


@pytest.mark.parametrize("detached", [False, True])
@pytest.mark.parametrize(("opened", "count", "kept"), [((3, 4, 5), 0, ()), ((3, 4), 2, (3, 4)), ((3, 4, 5, 8), 3, (3, 4, 5))])
def test_a_process_that_joins_has_them_by_the_same_rule(
    bundles: Bundles, opened: tuple[int, ...], count: int, kept: tuple[int, ...], detached: bool
) -> None:
    bundle = bundles.make("sleep", "100", own_root=True)
    bundle.start()
    file = bundles.top / "pid"
    options = (*(("--preserve-fds", str(count)) if count else ()), *(("--detach", "--pid-file", str(file)) if detached else ()))
    assert call(bundles, opened, "exec", *options, "one", "sh", "-c", f"exec >/draft; {LOOK}; mkdir /done") == ""
    until((bundle.rootfs / "done").exists)
    if detached:  # it is this process' child now
        os.waitpid(int(file.read_text()), 0)
    assert (bundle.rootfs / "draft").read_text() == seen(*kept)


@pytest.mark.parametrize(("opened", "count", "missing"), [((), 1, 3), ((3, 5), 3, 4), ((4,), 2, 3)])
def test_a_gap_among_the_counted_ones_is_refused_everywhere(
    bundles: Bundles, opened: tuple[int, ...], count: int, missing: int
) -> None:
    """What box opens meanwhile would be in its place."""
    folder = bundles.make("true").write()
    bundles.make("sleep", "100").start("runs")
    options = ("--preserve-fds", str(count))
    for words in (
        ("create", "--bundle", folder, *options, "one"), ("run", "--bundle", folder, *options, "one"),
        ("exec", *options, "runs", "true"),
    ):  # fmt: skip
        assert f"--preserve-fds {count}: descriptor {missing} is not open" in call(bundles, opened, *words)
    assert bundles.ids() == ["runs"]


def test_systemd_s_sockets_come_before_the_counted_ones_and_are_told(bundles: Bundles) -> None:
    folder = bundles.make("sh", "-c", LOOK).write()
    told = "LISTEN_FDS=2\nLISTEN_PID=1\n"
    said = call(bundles, (3, 4, 5, 6), "run", "--bundle", folder, "one", before="export LISTEN_FDS=2 LISTEN_PID=$$;")
    assert sorted(said.splitlines()) == sorted((seen(3, 4) + told).splitlines())
    said = call(
        bundles,
        (3, 4, 5, 6),
        "run",
        "--bundle",
        folder,
        "--preserve-fds",
        "1",
        "one",
        before="export LISTEN_FDS=2 LISTEN_PID=$$;",
    )
    assert sorted(said.splitlines()) == sorted((seen(3, 4, 5) + told).splitlines())
    # Those of another process are nobody's here.
    assert call(bundles, (3, 4), "run", "--bundle", folder, "one", before="export LISTEN_FDS=2 LISTEN_PID=1;") == seen()
    said = call(bundles, (3,), "run", "--bundle", folder, "one", before="export LISTEN_FDS=2 LISTEN_PID=$$;")
    assert "LISTEN_FDS 2: descriptor 4 is not open" in said


def test_a_terminal_and_counted_ones_go_together(bundles: Bundles) -> None:
    bundle = bundles.make("sh", "-c", "(cat <&3; cat <&4) >/said 2>&1", own_root=True, process_terminal=True)
    (bundle.rootfs / "said").touch()
    call(bundles, (3, 4, 5), "run", "--detach", "--bundle", bundle.write(), "--preserve-fds", "2", "one")
    until(lambda: bundles.status("one") == "stopped")
    assert (bundle.rootfs / "said").read_text() == "of 3\nof 4\n"


def test_an_agent_s_gate_is_in_nobody_s_way(bundles: Bundles) -> None:
    """A filter with a listener needs descriptors of its own, in create and in exec: none is the container's."""
    from tests.runtime.agent import Agent

    agent = Agent(bundles.top / "agent", lambda question: None)
    try:
        profile = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": str(bundles.top / "agent"),
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}],
        }
        bundle = bundles.make("sh", "-c", LOOK, linux_seccomp=profile)
        said = call(bundles, (3, 4, 6), "run", "--bundle", bundle.write(), "--preserve-fds", "2", "one")
        assert said == seen(3, 4)
        bundle.change("process_args", ["sleep", "100"]).start("two")
        assert call(bundles, (3, 4, 6), "exec", "--preserve-fds", "2", "two", "sh", "-c", LOOK) == seen(3, 4)
        bundles.box("delete", "--force", "two")
    finally:
        agent.close()


def test_the_count_is_a_number(bundles: Bundles, tmp_path: Path) -> None:
    folder = bundles.make("true").write()
    for count in ("-1", "x", "70000", ""):
        assert (
            "--preserve-fds takes a number"
            in bundles.box("run", "--bundle", folder, f"--preserve-fds={count}", "one", status=1).stderr
        )
    assert json.loads(bundles.box("list", "--format", "json").stdout) == []
