"""Before and around the verbs: help, mistakes, roots, errors, and what becomes of standard streams."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from boxcli import elsewhere, failure, main
from store import errors
from tests.command.installed import BOX, Box


def test_box_alone_and_help_show_every_command(box: Box) -> None:
    alone = box()
    assert alone.stdout == box("help").stdout == box("--help").stdout
    for name in main.VERBS:
        assert f"\n  {name} " in alone.stdout
    assert alone.stderr == ""


@pytest.mark.parametrize("verb", main.VERBS)
def test_every_command_explains_itself(box: Box, verb: str) -> None:
    shown = box(verb, "--help").stdout
    assert shown.startswith(f"Usage: box {verb} ")
    assert shown == box("help", verb).stdout
    assert all(len(line) <= 100 for line in shown.splitlines())


def test_versions_are_said(box: Box) -> None:
    assert box("--version").stdout == "box version 0.1.0\n"
    runtime = subprocess.run([f"{os.path.dirname(BOX)}/box-runtime", "--version"], capture_output=True, text=True, check=True)
    assert runtime.stdout == "box-runtime version 0.1.0\nspec: 1.2.0\n"
    assert box("version", "--format", "{{.Version}} {{.RuntimeSpec}}").stdout == "0.1.0 1.2.0\n"


def test_the_version_is_that_of_the_package() -> None:
    import tomllib

    from boxcli.release import RELEASE

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["version"] == RELEASE


def test_box_runtime_names_a_command_that_it_does_not_know() -> None:
    done = subprocess.run([f"{os.path.dirname(BOX)}/box-runtime", "craete", "x"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "there is no command 'craete'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message", "hint"),
    [
        (["biuld"], 2, "unknown command 'biuld'", "did you mean 'build'?"),
        (["xyzzy"], 2, "unknown command 'xyzzy'", "see 'box help'"),
        (["help", "imagse"], 2, "unknown command 'imagse'", "did you mean 'images'?"),
        (["--nonesuch"], 2, "no such option", "see 'box --help'"),
        (["--root"], 2, "--root", "see 'box --help'"),
        (["ps", "--nonesuch"], 2, "ps: no such option", "see 'box ps --help'"),
        (["pause1"], 2, "unknown command 'pause1'", "did you mean 'pause'?"),
        (["pull", "x"], 2, "unknown command 'pull'", "registries are not supported yet: skopeo copy"),
        (["image", "ls"], 2, "unknown command 'image'", "images have commands of their own"),
        (["sniff"], 2, "unknown command 'sniff'", "see 'box help'"),
        (["run", "-p", "80:80", "img"], 125, "run: no such option '-p'", "ports are not published yet"),
        (["run", "--publish", "80:80", "img"], 125, "run: no such option '--publish'", "ports are not published yet"),
        (["run", "--privileged", "img"], 125, "run: no such option '--privileged'", "name what it needs: --cap-add"),
        (["build", "--build-arg", "a=b"], 2, "build: no such option '--build-arg'", "it is --arg NAME=VALUE"),
        (["run", "--memroy", "1g", "img"], 125, "run: no such option '--memroy'", "did you mean '--memory'?"),
        (["run", "--zzz", "img"], 125, "run: no such option '--zzz'", "see 'box run --help'"),
        (["tag", "one"], 2, "tag: missing argument 'NAME'", "see 'box tag --help'"),
        (["run", "--memory", "lots", "img"], 125, "'lots' is not a size such as 64m or 1GiB", "see 'box run --help'"),
        (["exec"], 125, "exec: missing argument 'CONTAINER'", "see 'box exec --help'"),
        (["images", "--format", "{{.Nam}"], 2, "this template is not understood", "it may have {{.Field}}"),
        (["build", "/nowhere"], 2, "there is no /nowhere", ""),
        (["run", "nonesuch"], 125, "there is no store at ", "`box build`, `box load` or `box import` makes one"),
        (["rmi", "nonesuch"], 1, "there is no store at ", ""),
        (["inspect", "nonesuch"], 1, "no container or image named 'nonesuch'", "'box ps -a' and 'box images' list them"),
        (["logs", "nonesuch"], 1, "no container named 'nonesuch'", ""),
        (["run", "-it", "img"], 125, "standard input is not a terminal", "leave out -t, or -i"),
        (["load", "-i", "/nowhere"], 2, "there is no /nowhere", ""),
        (["completion", "tcsh"], 2, "'tcsh' is not one of bash, zsh, fish", ""),
    ],
)
def test_a_mistake_is_answered_with_what_is_wrong_and_what_to_do(
    box: Box, arguments: list[str], status: int, message: str, hint: str
) -> None:
    done = box(*arguments, status=status)
    assert done.stdout == ("[]\n" if arguments[0] == "inspect" else "")
    first, _, rest = done.stderr.partition("\n")
    assert first.startswith("box: ")
    assert message in first
    assert hint in rest
    assert "Traceback" not in done.stderr


def test_the_root_is_the_option_s_then_the_variable_s(box: Box, tmp_path: Path) -> None:
    def root(*arguments: str, **environment: str) -> str:
        return box(*arguments, "info", "--format", "{{.Root}}", cwd=tmp_path, **environment).stdout.strip()

    assert root() == os.environ["BOX_ROOT"]
    assert root("--root", "here") == root("--root=here") == f"{tmp_path}/here"
    assert root("--root", "here", BOX_ROOT="/nowhere") == f"{tmp_path}/here"
    assert root(BOX_ROOT="relative") == f"{tmp_path}/relative"


def test_the_root_of_a_user_lies_below_the_data_directory_and_that_of_root_in_var(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BOX_ROOT")
    monkeypatch.setattr(main.os, "geteuid", lambda: 1000)
    assert main.default_root() == os.environ["XDG_DATA_HOME"] + "/box"
    monkeypatch.setattr(main.os, "geteuid", lambda: 0)
    assert main.default_root() == "/var/lib/box"


def test_output_that_cannot_be_written_is_an_error(box: Box) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([BOX, "version"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "box: no space left on device\n"


def test_a_reader_that_went_away_ends_it_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([BOX, "help"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_closed_standard_streams_are_not_taken_for_files_of_the_store(tmp_path: Path) -> None:
    done = subprocess.run(["sh", "-c", f"exec '{BOX}' images <&- >&- 2>&-"], check=False)
    assert done.returncode == 0


def test_ctrl_c_ends_it_with_130_and_one_word(tmp_path: Path) -> None:
    # `load` from a pipe that says nothing waits, as a long command would.
    reader, writer = os.pipe()
    process = subprocess.Popen([BOX, "load"], stdin=reader, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    os.close(reader)
    while not os.path.exists(os.environ["BOX_ROOT"] + "/format"):
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    os.close(writer)
    assert (process.returncode, out, err) == (130, "", "box: interrupted\n")


def test_a_boxfile_s_mistake_is_shown_in_its_place(box: Box, tmp_path: Path) -> None:
    (tmp_path / "Boxfile").write_text("box: 1\nbase: scratch\nstpes: []\n")
    done = box("build", ".", cwd=tmp_path, status=2)
    assert done.stderr.startswith("Boxfile:3:1: ")
    assert "did you mean 'steps'?" in done.stderr
    assert "^^^^^" in done.stderr


class TestReport:
    """The one boundary, in process."""

    def test_an_unknown_error_is_a_bug_with_its_traceback(self, capsys: pytest.CaptureFixture[str]) -> None:
        try:
            raise ZeroDivisionError("oops")
        except ZeroDivisionError as error:
            assert failure.report(error) == 1
            assert failure.report(error, 125) == 125
        said = capsys.readouterr().err
        assert "Traceback" in said
        assert "ZeroDivisionError: oops" in said
        assert "box: this is a bug in box\n" in said

    def test_an_errno_that_is_the_machine_s_is_said_and_any_other_is_a_bug(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert failure.report(OSError(28, "No space left on device", "/x/y")) == 1
        assert capsys.readouterr().err == "box: no space left on device: /x/y\n"
        failure.report(FileNotFoundError(2, "No such file or directory", "/x"))
        assert "this is a bug in box" in capsys.readouterr().err

    def test_a_message_cannot_speak_to_the_terminal(self, capsys: pytest.CaptureFixture[str]) -> None:
        failure.report(errors.StoreError("no \033[2J", hint="say\n\033]0;x\007"))
        assert capsys.readouterr().err == "box: no \\x1b[2J\nhint: say\n\\x1b]0;x\\x07\n"

    def test_a_failed_step_shows_the_end_of_its_output_and_its_place(self, capsys: pytest.CaptureFixture[str]) -> None:
        error = errors.StepFailed(
            "the command exited with status 3",
            step="Boxfile:4:5: run: make",
            exit_status=3,
            log_path="/l",
            tail="one\ntwo",
            hint="see /l",
        )
        assert failure.report(error) == 1
        assert capsys.readouterr().err == (
            "  | one\n  | two\nbox: Boxfile:4:5: run: make\nbox: the command exited with status 3\nhint: see /l\n"
        )

    @pytest.mark.parametrize(
        ("error", "plain", "run"),
        [
            (errors.UsageError("x"), 2, 125),
            (errors.StoreError("x"), 1, 125),
            (errors.RunError("x"), 1, 125),
            (errors.ContainerMissing("x"), 1, 125),
            (errors.CommandNotFound("x"), 1, 127),
            (errors.CommandNotExecutable("x", "y"), 1, 126),
            (errors.BoxfileError("x", path="B", line=1, column=1), 2, 125),
            (KeyboardInterrupt(), 130, 130),
            (BrokenPipeError(), 141, 141),
            (SystemExit(3), 3, 3),
        ],
    )
    def test_the_exit_status_follows_the_table(self, error: BaseException, plain: int, run: int) -> None:
        assert failure.report(error) == plain
        assert failure.report(error, 125) == run


def test_what_is_told_of_other_tools_is_told_of_nothing_that_box_has() -> None:
    assert not set(elsewhere.COMMANDS) & {*main.VERBS, "help"}
    for key in elsewhere.OPTIONS:
        verb, _, flag = key.rpartition(" ")
        for name in [verb] if verb else ["run", "build"]:
            assert flag not in main.load(name).VERB.by_flag, key
