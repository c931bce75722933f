"""A container's life in steps: created, started, attached to, left, restarted, renamed, replaced."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from runtime.journal import looked_after
from tests.command.installed import BOX, Box
from tests.command.terminal import Terminal
from tests.containers import cgroups, until

pytestmark = pytest.mark.needs("root", "overlay", "cgroup")


def state(box: Box, name: str) -> str:
    return box("inspect", "-f", "{{.State.Status}}", name).stdout.strip()


class TestCreateAndStart:
    def test_a_created_container_waits_for_its_start(self, box: Box, tiny: str) -> None:
        identity = box("create", "--name", "later", "-e", "A=b", tiny, "sh", "-c", "echo $A; exit 3").stdout.strip()
        assert len(identity) == 64
        assert box("ps", "-q").stdout == ""
        assert "Created" in box("ps", "-a").stdout
        assert state(box, "later") == "created"
        assert cgroups(identity) == []
        assert box("start", "later").stdout == "later\n"
        assert box("wait", "later").stdout == "3\n"
        assert box("logs", "later").stdout == "b\n"

    def test_one_that_ended_is_started_again_with_what_it_wrote(self, box: Box, tiny: str) -> None:
        box("run", "--name", "twice", tiny, "sh", "-c", "cat /count 2>/dev/null; echo again >> /count")
        for _ in range(2):
            box("start", "twice")
            box("wait", "twice")
        assert box("logs", "twice").stdout == "again\nagain\nagain\n"
        shown = json.loads(box("inspect", "twice").stdout)[0]["State"]
        assert shown["Status"] == "exited"
        assert shown["FinishedAt"] > shown["StartedAt"]

    def test_a_start_of_one_that_runs_changes_nothing(self, box: Box, tiny: str) -> None:
        box("run", "-d", "--name", "up", tiny, "sleep", "60")
        before = box("inspect", "-f", "{{.State.Pid}}", "up").stdout
        assert box("start", "up").stdout == "up\n"
        assert box("inspect", "-f", "{{.State.Pid}}", "up").stdout == before

    def test_a_start_that_fails_leaves_the_container_as_it_was(self, box: Box, tiny: str) -> None:
        identity = box("create", "--name", "bad", tiny, "nonesuch").stdout.strip()
        done = box("start", "bad", status=1)
        assert "command not found: nonesuch" in done.stderr
        assert done.stdout == ""
        assert state(box, "bad") == "created"
        box("run", "--name", "was", tiny, "sh", "-c", "rm() { :; }; exit 4", status=4)
        root = os.environ["BOX_ROOT"]
        (journal,) = [path for path in Path(root, "containers").glob("*/journal") if path.parent.name != identity]
        journal.write_text(journal.read_text().replace('"sh"', '"gone"'))
        box("start", "was", status=1)
        assert box("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "was").stdout == "exited 4\n"

    def test_the_options_of_run_hold(self, box: Box, tiny: str, tmp_path: Path) -> None:
        box("create", "--name", "o", "--read-only", "-u", "7", "-h", "inner", "--cidfile", tmp_path / "id", "--rm", tiny,
            "sh", "-c", "id -u; hostname; touch /x")  # fmt: skip
        assert box("inspect", "-f", "{{.Id}}", "o").stdout.strip() == (tmp_path / "id").read_text()
        done = box("start", "-a", "o", status=None)
        assert done.stdout == "7\ninner\n"
        assert "touch" in done.stderr
        assert done.returncode != 0
        assert box("ps", "-aq").stdout == ""

    def test_attached_the_status_the_output_and_the_input_are_the_container_s(self, box: Box, tiny: str) -> None:
        box("create", "-i", "--name", "filter", tiny, "sh", "-c", "cat; echo errors >&2; exit 6")
        done = box("start", "-ai", "filter", stdin="given\n" * 5000, status=6)
        assert (done.stdout, done.stderr) == ("given\n" * 5000, "errors\n")
        assert "only one" in box("start", "-a", "filter", "other", status=2).stderr

    def test_it_can_be_removed_before_it_was_ever_started(self, box: Box, tiny: str) -> None:
        box("create", "--name", "never", tiny)
        assert box("stop", "never").stdout == "never\n"
        assert "is not running" in box("exec", "never", "true", status=125).stderr
        assert box("rm", "never").stdout == "never\n"

    def test_a_starter_that_is_killed_leaves_it_as_it_was(self, box: Box, tiny: str) -> None:
        identity = box("create", "--name", "k", tiny, "sleep", "60").stdout.strip()
        path = f"{os.environ['BOX_ROOT']}/containers/{identity}"
        for call in ("rename", "setsid", "clone3"):
            subprocess.run(
                ["strace", "-f", "-qqq", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when=1",
                 BOX, "start", "k"],
                check=False, capture_output=True, stdin=subprocess.DEVNULL, timeout=60,
            )  # fmt: skip
            until(lambda: not looked_after(path))
            assert state(box, "k") == "created", call
            assert cgroups(identity) == [], call
        box("start", "k")
        assert state(box, "k") == "running"

    def test_prune_takes_what_was_never_started(self, box: Box, tiny: str) -> None:
        identity = box("create", tiny).stdout.strip()
        assert identity in box("prune", "-f").stdout


class TestRestart:
    def test_it_runs_anew(self, box: Box, tiny: str) -> None:
        box("run", "-d", "--name", "r", tiny, "sh", "-c", "echo up; exec sleep 60")
        before = box("inspect", "-f", "{{.State.Pid}} {{.State.StartedAt}}", "r").stdout
        assert box("restart", "-t", "0", "r").stdout == "r\n"
        assert box("inspect", "-f", "{{.State.Pid}} {{.State.StartedAt}}", "r").stdout != before
        until(lambda: box("logs", "r").stdout == "up\nup\n")

    def test_one_that_does_not_run_is_started(self, box: Box, tiny: str) -> None:
        box("create", "--name", "r", tiny, "sleep", "60")
        box("restart", "r")
        assert state(box, "r") == "running"

    def test_one_that_would_be_gone_is_refused(self, box: Box, tiny: str) -> None:
        box("run", "-d", "--rm", "--name", "r", tiny, "sleep", "60")
        assert "is removed when it ends" in box("restart", "-t", "0", "r", status=1).stderr
        assert state(box, "r") == "running"


class TestNames:
    def test_a_container_is_found_by_its_new_name_only(self, box: Box, tiny: str) -> None:
        box("run", "-d", "--name", "old", tiny, "sleep", "60")
        box("rename", "old", "new")
        assert state(box, "new") == "running"
        assert "no container named 'old'" in box("inspect", "--type", "container", "old", status=1).stderr
        box("run", "--rm", "--name", "old", tiny)
        assert "the name 'new' is taken" in box("run", "--name", "new", tiny, status=125).stderr
        assert "has that name already" in box("rename", "new", "new", status=1).stderr
        box("run", "--name", "other", tiny)
        assert "is taken" in box("rename", "other", "new", status=1).stderr
        assert state(box, "other") == "exited"

    def test_one_without_a_name_that_removes_itself_gives_up_the_name_it_got(self, box: Box, tiny: str) -> None:
        process = subprocess.Popen([BOX, "run", "--rm", "-i", tiny, "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        identity = until(lambda: box("ps", "-q").stdout.strip())
        box("rename", identity, "named")
        assert state(box, "named") == "running"
        process.communicate(b"")
        assert os.listdir(f"{os.environ['BOX_ROOT']}/names") == []

    def test_replace_removes_the_one_that_has_the_name(self, box: Box, tiny: str) -> None:
        first = box("run", "-d", "--name", "web", tiny, "sleep", "60").stdout.strip()
        second = box("run", "-d", "--replace", "--name", "web", tiny, "sleep", "60").stdout.strip()
        assert second != first
        assert box("ps", "-aq", "--no-trunc").stdout.strip() == second
        assert "--replace goes with --name" in box("run", "--replace", tiny, status=125).stderr

    def test_the_pid_is_in_the_file_that_was_named(self, box: Box, tiny: str, tmp_path: Path) -> None:
        box("run", "-d", "--name", "p", "--pidfile", tmp_path / "pid", tiny, "sleep", "60")
        assert (tmp_path / "pid").read_text() == box("inspect", "-f", "{{.State.Pid}}", "p").stdout.strip()
        box("restart", "-t", "0", "p")
        assert (tmp_path / "pid").read_text() == box("inspect", "-f", "{{.State.Pid}}", "p").stdout.strip()
        assert "cannot write the pid" in box("run", "--rm", "--pidfile", "/nonesuch/pid", tiny, status=125).stderr


class TestAttach:
    def test_its_output_from_now_on_and_its_status(self, box: Box, tiny: str) -> None:
        box("run", "-di", "--name", "a", tiny, "sh", "-c", "echo before; read x; echo got $x; echo oops >&2; exit 9")
        until(lambda: box("logs", "a").stdout)
        done = box("attach", "a", stdin="typed\n", status=9)
        assert (done.stdout, done.stderr) == ("got typed\n", "oops\n")

    def test_the_end_of_input_is_not_the_container_s(self, box: Box, tiny: str) -> None:
        box("run", "-di", "--name", "a", tiny, "sh", "-c", "read x; echo $x; read x; echo $x")
        process = subprocess.Popen([BOX, "attach", "a"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(b"one\n")
        process.stdin.close()
        until(lambda: box("logs", "a").stdout == "one\n")
        assert state(box, "a") == "running"
        assert box("attach", "a", stdin="two\n").stdout == "two\n"
        assert process.wait(20) == 0
        assert process.stdout is not None
        assert process.stdout.read() == b"one\ntwo\n"
        process.stdout.close()

    def test_signals_are_passed_on_unless_that_is_declined(self, box: Box, tiny: str) -> None:
        box("run", "-d", "--name", "a", tiny, "sh", "-c", "trap 'echo term; exit 4' TERM; echo up; while :; do sleep 0.05; done")
        until(lambda: box("logs", "a").stdout)
        for proxy, status in (("false", -15), ("true", 4)):
            process = subprocess.Popen([BOX, "attach", "--sig-proxy", proxy, "a"], stdout=subprocess.DEVNULL)
            time.sleep(0.5)
            process.terminate()
            assert process.wait(20) == status
        assert state(box, "a") == "exited"

    def test_several_see_the_same(self, box: Box, tiny: str) -> None:
        box("run", "-di", "--name", "a", tiny, "sh", "-c", "read x; seq 20000")
        watchers = [subprocess.Popen([BOX, "attach", "--no-stdin", "a"], stdout=subprocess.PIPE) for _ in range(2)]
        time.sleep(0.6)
        expected = "".join(f"{number}\n" for number in range(1, 20001))
        assert box("attach", "a", stdin="\n").stdout == expected
        for process in watchers:
            assert process.communicate()[0].decode() == expected
            assert process.returncode == 0

    def test_it_needs_a_container_that_runs_and_somebody_who_listens(self, box: Box, tiny: str) -> None:
        box("run", "--name", "ended", tiny)
        assert "is not running" in box("attach", "ended", status=1).stderr
        process = subprocess.Popen([BOX, "run", "--rm", "-i", "--name", "here", tiny, "cat"], stdin=subprocess.PIPE)
        until(lambda: box("ps", "-q").stdout)
        assert "nobody listens" in box("attach", "here", status=1).stderr
        process.communicate(b"")


class TestDetaching:
    def test_the_keys_leave_it_running_and_attach_comes_back(self, box: Box, tiny: str) -> None:
        with Terminal("run", "-it", "--name", "d", tiny, "sh", "-c", "echo first; read x; echo got $x; exit 5") as terminal:
            terminal.until(b"first")
            terminal.type(b"\x10\x11")
            assert terminal.end() == 0
            assert terminal.settings() == terminal.before
        assert state(box, "d") == "running"
        with Terminal("attach", "d") as terminal:
            time.sleep(0.4)
            terminal.type(b"back\r")
            terminal.until(b"got back")
            assert terminal.end() == 5
        assert box("inspect", "-f", "{{.State.ExitCode}}", "d").stdout == "5\n"

    def test_other_keys_can_be_chosen_and_single_ones_are_passed_on(self, box: Box, tiny: str) -> None:
        script = "stty raw -echo; echo ready; head -c 3; sleep 60"
        with Terminal("run", "-it", "--detach-keys", "ctrl-a,d", "--name", "d", tiny, "sh", "-c", script) as terminal:
            terminal.until(b"ready")
            terminal.type(b"\x10\x11\x01")  # docker's keys mean nothing here, and this may be the first of them
            terminal.type(b"x")
            terminal.until(b"\x10\x11\x01")
            terminal.type(b"\x01d")
            assert terminal.end() == 0
        assert state(box, "d") == "running"
        assert "no sequence of keys" in box("attach", "--detach-keys", "ctrl-", "d", status=2).stderr

    def test_a_command_that_is_killed_takes_its_container_along(self, box: Box, tiny: str) -> None:
        with Terminal("run", "-it", "--name", "d", tiny, "sh", "-c", "echo up; sleep 60") as terminal:
            terminal.until(b"up")
            terminal.process.kill()
            until(lambda: state(box, "d") == "exited")

    def test_one_that_was_left_outlives_the_command(self, box: Box, tiny: str) -> None:
        with Terminal("run", "--rm", "-it", "--name", "d", tiny, "sh", "-c", "echo up; sleep 60") as terminal:
            terminal.until(b"up")
            terminal.type(b"\x10")
            terminal.type(b"\x11")
            assert terminal.end() == 0
        assert box("stop", "-t", "0", "d").stdout == "d\n"
        assert box("ps", "-aq").stdout == ""
