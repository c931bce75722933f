"""The verbs of containers, as a user types them."""

import json
import os
import pty
import subprocess
import time
from pathlib import Path

import pytest

from tests.command.installed import BOX, Box

pytestmark = pytest.mark.needs("root", "overlay", "cgroup")


def containers_left() -> list[str]:
    return os.listdir(f"{os.environ['BOX_ROOT']}/containers")


class TestRun:
    def test_it_gives_the_command_s_own_exit_status_and_output(self, box: Box, tiny: str) -> None:
        done = box("run", "--rm", tiny, "sh", "-c", "echo out; echo err >&2; exit 3", status=3)
        assert (done.stdout, done.stderr) == ("out\n", "err\n")
        assert box("run", "--rm", tiny).stdout == "hello\n"
        assert containers_left() == []

    @pytest.mark.parametrize(("command", "status"), [("nonesuch", 127), ("/nonesuch", 127), ("/etc/motd", 126), ("/etc", 126)])
    def test_a_command_that_cannot_be_run_is_told_from_one_that_failed(
        self, box: Box, tiny: str, command: str, status: int
    ) -> None:
        done = box("run", "--rm", tiny, command, status=status)
        assert command in done.stderr
        assert done.stderr.startswith("box: ")

    def test_entrypoint_and_command_combine_as_docker_has_them(self, box: Box, tmp_path: Path) -> None:
        (tmp_path / "Boxfile").write_text(
            'box: 1\nname: e\nbase: {host: [sh, echo, "true"]}\nconfig: {entrypoint: [echo, entry], cmd: [one, two]}\n'
        )
        box("build", "-q", tmp_path)
        assert box("run", "--rm", "e").stdout == "entry one two\n"
        assert box("run", "--rm", "e", "three").stdout == "entry three\n"
        assert box("run", "--rm", "--entrypoint", "echo", "e", "x").stdout == "x\n"
        assert box("run", "--rm", "--entrypoint", "echo", "e").stdout == "\n"
        assert "names no command" in box("run", "--rm", "--entrypoint=", "e", status=125).stderr

    def test_variables_come_from_the_image_then_files_then_options(self, box: Box, tiny: str, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("# comment\nA=file\nB=file # kept\n  C=c\nPASSED\nABSENT\n\n=bad\n")
        done = box(
            "run",
            "--rm",
            "-e",
            "A=option",
            "-e",
            "GREETING",
            "--env-file",
            tmp_path / "file",
            tiny,
            "env",
            PASSED="yes",
            GREETING="ours",
        )
        seen = dict(line.split("=", 1) for line in done.stdout.splitlines())
        assert {key: seen.get(key) for key in ("A", "B", "C", "PASSED", "ABSENT", "GREETING")} == {
            "A": "option", "B": "file # kept", "C": "c", "PASSED": "yes", "ABSENT": None, "GREETING": "ours",
        }  # fmt: skip
        assert "cannot read the variables" in box("run", "--rm", "--env-file", "/nowhere", tiny, status=125).stderr

    def test_what_surrounds_the_command_is_as_the_options_say(self, box: Box, tiny: str, tmp_path: Path) -> None:
        (tmp_path / "shown").write_text("from outside\n")
        script = "hostname; pwd; id -u; id -g; cat /shown; cat /etc/hosts; touch /x"
        done = box(
            "run", "--rm", "-h", "shop", "-w", "/etc", "-u", "7:8", "-v", f"{tmp_path}/shown:/shown:ro",
            "--add-host", "db:10.1.2.3", "--read-only",
            "--tmpfs", "/run:size=1m", tiny, "sh", "-c", script, status=1,
        )  # fmt: skip
        lines = done.stdout.splitlines()
        assert lines[:5] == ["shop", "/etc", "7", "8", "from outside"]
        assert "10.1.2.3\tdb" in lines
        assert "Read-only file system" in done.stderr

    def test_a_relative_source_is_of_this_directory_and_a_missing_one_is_said(self, box: Box, tiny: str, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        box("run", "--rm", "-v", "./data:/data", tiny, "touch", "/data/made", cwd=tmp_path)
        assert os.listdir(tmp_path / "data") == ["made"]
        done = box("run", "--rm", "-v", "./none:/data", tiny, cwd=tmp_path, status=125)
        assert f"there is no {tmp_path}/none" in done.stderr

    def test_limits_and_protections_are_those_that_were_asked_for(self, box: Box, tiny: str) -> None:
        def status_of(*options: str) -> dict[str, str]:
            text = box("run", "--rm", *options, tiny, "cat", "/proc/self/status").stdout
            return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}

        plain = status_of()
        assert (plain["NoNewPrivs"], plain["Seccomp"]) == ("1", "2")
        opted_out = status_of("--security-opt", "no-new-privileges=false", "--security-opt", "seccomp=unconfined")
        assert (opted_out["NoNewPrivs"], opted_out["Seccomp"]) == ("0", "0")
        assert int(status_of("--cap-drop", "ALL")["CapBnd"], 16) == 0
        assert int(status_of("--cap-drop", "all", "--cap-add", "net_admin")["CapBnd"], 16) == 1 << 12
        assert "did you mean" in box("run", "--cap-add", "NET_ADMN", tiny, status=125).stderr
        limits = box("run", "--rm", "--ulimit", "nofile=77:88", tiny, "cat", "/proc/self/limits").stdout
        assert next(line for line in limits.splitlines() if line.startswith("Max open files")).split()[3:5] == ["77", "88"]
        done = box(
            "run", "--rm", "--pids-limit", "5", tiny, "sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait", status=None
        )
        assert "fork" in done.stderr.lower()

    def test_standard_input_is_passed_on_only_with_i(self, box: Box, tiny: str) -> None:
        assert box("run", "--rm", "-i", tiny, "cat", stdin="given\n").stdout == "given\n"
        assert box("run", "--rm", tiny, "cat", stdin="given\n").stdout == ""

    def test_the_id_is_written_to_a_new_file_and_not_over_another(self, box: Box, tiny: str, tmp_path: Path) -> None:
        box("run", "--cidfile", tmp_path / "id", tiny)
        identity = (tmp_path / "id").read_text()
        assert box("ps", "-aq", "--no-trunc").stdout.strip() == identity
        assert "exists" in box("run", "--cidfile", tmp_path / "id", tiny, status=125).stderr
        assert (tmp_path / "id").read_text() == identity
        box("run", "--rm", "--cidfile", tmp_path / "other", tiny, "nonesuch", status=127)
        assert not (tmp_path / "other").exists()

    def test_a_name_is_used_once_at_a_time(self, box: Box, tiny: str) -> None:
        box("run", "--name", "one", tiny)
        done = box("run", "--name", "one", tiny, status=125)
        assert "the name 'one' is taken" in done.stderr
        box("rm", "one")
        box("run", "--rm", "--name", "one", tiny)

    def test_a_terminal_is_a_terminal_inside(self, tiny: str) -> None:
        master, slave = pty.openpty()
        process = subprocess.Popen(
            [BOX, "run", "--rm", "-it", tiny, "sh", "-c", "stty size; echo $TERM; read x; echo got $x"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        os.write(master, b"typed\n")
        seen = b""
        while b"got typed" not in seen:
            seen += os.read(master, 4096)
        assert process.wait(20) == 0
        os.close(master)
        assert b"xterm" in seen

    def test_signals_that_reach_box_reach_the_command(self, box: Box, tiny: str) -> None:
        import signal

        process = subprocess.Popen(
            [BOX, "run", "--rm", tiny, "sh", "-c", "trap 'echo term; exit 4' TERM; echo up; while :; do sleep 0.1; done"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "term\n"
        assert process.wait(20) == 4
        process.stdout.close()


class TestBackground:
    def test_a_container_is_followed_from_its_start_to_its_removal(self, box: Box, tiny: str) -> None:
        identity = box(
            "run",
            "-d",
            "--init=false",
            "--name",
            "web",
            "-l",
            "tier=front",
            tiny,
            "sh",
            "-c",
            "echo one; echo two >&2; exec sleep 60",
        ).stdout.strip()
        assert len(identity) == 64
        head, line = box("ps").stdout.splitlines()
        assert head.split() == ["CONTAINER", "ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAMES"]
        assert line.startswith(identity[:12])
        assert "tiny:latest" in line
        assert " Up " in line
        assert line.endswith(" web")
        assert box("ps", "-q").stdout.strip() == identity[:12]
        record = json.loads(box("ps", "--format", "json").stdout)
        assert (record["ID"], record["Names"], record["State"]) == (identity[:12], "web", "running")
        shown = json.loads(box("inspect", "web").stdout)[0]
        assert shown["Id"] == identity
        assert shown["State"]["Running"] is True
        assert shown["Config"]["Labels"] == {"kind": "sample", "tier": "front"}
        assert os.path.exists(f"/proc/{shown['State']['Pid']}")
        assert box("stop", "-t", "0", "web").stdout == "web\n"
        assert box("ps", "-q").stdout == ""
        assert "Exited (137)" in box("ps", "-a").stdout
        assert box("wait", identity[:8]).stdout == "137\n"
        assert box("inspect", "web", "-f", "{{.State.Status}} {{.State.ExitCode}}").stdout == "exited 137\n"
        assert box("rm", "web").stdout == "web\n"
        assert box("ps", "-aq").stdout == ""
        assert containers_left() == []

    def test_logs_are_kept_by_stream_with_times_and_can_be_followed(self, box: Box, tiny: str) -> None:
        box(
            "run",
            "-d",
            "--name",
            "talk",
            tiny,
            "sh",
            "-c",
            "for i in 1 2 3; do echo line $i; done; echo oops >&2; sleep 0.5; echo last",
        )
        followed = box("logs", "-f", "talk")
        assert followed.stdout == "line 1\nline 2\nline 3\nlast\n"
        assert followed.stderr == "oops\n"
        assert box("logs", "--tail", "1", "talk").stdout == "last\n"
        assert box("logs", "-n", "all", "talk").stdout == followed.stdout
        stamp, _, text = box("logs", "-t", "-n1", "talk").stdout.partition(" ")
        assert text == "last\n"
        assert time.strptime(stamp[:19], "%Y-%m-%dT%H:%M:%S")

    def test_logs_reach_a_terminal_as_text_and_a_file_as_they_are(self, box: Box, tiny: str) -> None:
        box("run", "--name", "evil", tiny, "sh", "-c", r"printf '\033]0;title\007\033[31mred\n'")
        assert box("logs", "evil").stdout == "\033]0;title\007\033[31mred\n"
        master, slave = pty.openpty()
        subprocess.run([BOX, "logs", "evil"], stdout=slave, check=True)
        os.close(slave)
        assert os.read(master, 4096) == b"\\x1b]0;title\\x07\033[31mred\033[0m\r\n"
        os.close(master)

    def test_a_container_in_the_background_that_cannot_start_is_said_and_leaves_nothing(self, box: Box, tiny: str) -> None:
        assert "nonesuch" in box("run", "-d", tiny, "nonesuch", status=127).stderr
        assert containers_left() == []

    def test_one_with_rm_is_gone_when_it_ended(self, box: Box, tiny: str) -> None:
        identity = box("run", "-d", "--rm", tiny, "sleep", "0.3").stdout.strip()
        box("wait", identity, status=None)
        assert box("ps", "-aq").stdout == ""
        assert containers_left() == []

    def test_kill_sends_a_signal_by_name(self, box: Box, tiny: str) -> None:
        box("run", "-d", "--name", "k", tiny, "sh", "-c", "trap 'exit 9' USR1; echo up; while :; do sleep 0.05; done")
        while "up" not in box("logs", "k").stdout:
            pass
        assert box("kill", "-s", "USR1", "k").stdout == "k\n"
        assert box("wait", "k").stdout == "9\n"
        assert "is not running" in box("kill", "k", status=1).stderr

    def test_stop_sends_the_container_s_stop_signal_before_it_kills(self, box: Box, tiny: str) -> None:
        box(
            "run",
            "-d",
            "--name",
            "s",
            "--stop-signal",
            "USR2",
            tiny,
            "sh",
            "-c",
            "trap 'exit 5' USR2; echo up; while :; do sleep 0.05; done",
        )
        while "up" not in box("logs", "s").stdout:
            pass
        box("stop", "s")
        assert box("wait", "s").stdout == "5\n"

    def test_rm_refuses_what_runs_and_goes_on_with_the_next(self, box: Box, tiny: str) -> None:
        box("run", "-d", "--name", "up", tiny, "sleep", "60")
        box("run", "--name", "down", tiny)
        done = box("rm", "up", "down", "none", status=1)
        assert done.stdout == "down\n"
        assert "is running" in done.stderr
        assert "no container named 'none'" in done.stderr
        assert box("rm", "-f", "up", "none").stdout == "up\n"
        assert containers_left() == []

    def test_ps_filters_by_field(self, box: Box, tiny: str) -> None:
        box("run", "--name", "one", "-l", "a=1", tiny, "sh", "-c", "exit 2", status=2)
        box("run", "--name", "two", "-l", "a=2", tiny)
        for filters, names in (
            (["name=o"], ["two", "one"]),
            (["name=one"], ["one"]),
            (["label=a=2"], ["two"]),
            (["label=a"], ["two", "one"]),
            (["label=a=1", "label=a=2"], ["two", "one"]),
            (["label=a=1", "name=two"], []),
            (["exited=2"], ["one"]),
            (["status=running"], []),
            (["ancestor=tiny", "status=exited"], ["two", "one"]),
            (["ancestor=other"], []),
        ):
            arguments = [word for text in filters for word in ("--filter", text)]
            assert box("ps", "-a", *arguments, "--format", "{{.Names}}").stdout.split() == names, filters
        assert "is not FIELD=VALUE" in box("ps", "-f", "size=3", status=2).stderr


class TestExec:
    def test_it_runs_in_the_container_and_gives_the_command_s_exit_status(self, box: Box, tiny: str) -> None:
        box("run", "-d", "--name", "host", "-h", "inner", "-w", "/etc", tiny, "sleep", "60")
        try:
            assert box("exec", "host", "hostname").stdout == "inner\n"
            assert box("exec", "host", "sh", "-c", "pwd; exit 6", status=6).stdout == "/etc\n"
            assert (
                box("exec", "-e", "A=b", "-w", "/tmp", "-u", "7", "host", "sh", "-c", "echo $A $PWD; id -u").stdout
                == "b /tmp\n7\n"
            )
            assert box("exec", "-i", "host", "cat", stdin="in\n").stdout == "in\n"
            assert box("exec", "host", "cat", stdin="in\n").stdout == ""
            assert box("exec", "host", "echo", "-e", "--", "-x", status=127).stderr.startswith("box: ")
            box("exec", "host", "/etc/motd", status=126)
        finally:
            box("rm", "-f", "host")

    def test_it_needs_a_container_that_runs(self, box: Box, tiny: str) -> None:
        box("run", "--name", "ended", tiny)
        assert "is not running" in box("exec", "ended", "true", status=125).stderr
        assert "no container named" in box("exec", "none", "true", status=125).stderr


def test_logs_are_bounded_by_time_and_rotated_as_asked(box: Box, tiny: str) -> None:
    script = "i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); done"
    box("run", "-d", "--name", "l", "--log-opt", "max-size=4k", "--log-opt", "max-file=2", tiny, "sh", "-c", script)
    box("wait", "l")
    shown = box("logs", "l").stdout.splitlines()
    assert shown[-1] == "line 299"
    assert len(shown) < 250
    assert box("logs", "--since", "10m", "-n", "1", "l").stdout == "line 299\n"
    assert box("logs", "--until", "10m", "l").stdout == ""
    assert box("logs", "-f", "--since", "2020-01-01", "-n", "1", "l").stdout == "line 299\n"
    assert "is no time" in box("logs", "--since", "yesterday", "l", status=2).stderr
    assert "neither max-size" in box("run", "--log-opt", "compress=true", tiny, status=125).stderr
    assert box("inspect", "-f", "{{json .HostConfig.LogConfig.Config}}", "l").stdout == '{"max-size":"4096","max-file":"2"}\n'
