"""Run steps: what a command finds, what of it comes into the image, and how its failure is told."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.errors import BuildError, StepFailed
from tests.builder.building import Site, running

pytestmark = [pytest.mark.needs("root"), pytest.mark.needs("overlay"), pytest.mark.needs("netns")]

HOST = "{host: [sh, cat, ls, id, env, mkdir, chown, chmod, rm, ln, touch, sleep]}"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    assert made.leftovers() == []


def test_a_command_finds_the_settings_in_force(site: Site) -> None:
    site.build(
        "env: {A: 1, B: 1}",
        "workdir: /srv/app",
        "run: {command: 'echo $A $B $C; pwd; id -u; id -g; cat /proc/self/fd/0; echo end', env: {B: 2, C: 3}}",
        'user: "12:34"',
        "run: id -u; id -g",
        "run: {command: [id, -u], user: root, workdir: /tmp}",
        base=HOST,
    )
    assert site.told.lines == ["1 2 3", "/srv/app", "0", "0", "end", "12", "34", "0"]


def test_what_a_command_changes_is_the_layer_and_nothing_of_the_run_is_in_it(site: Site) -> None:
    built = site.build("run: echo x > /srv.txt", base=HOST)
    assert site.layers(built)[1] == [".", "srv.txt"]


def test_files_that_every_run_mounts_come_into_the_layer_only_when_the_step_made_them(site: Site) -> None:
    built = site.build(
        "run: cat /etc/hosts /etc/resolv.conf > /dev/null; ls /proc /sys /dev > /dev/null; touch /dev/shm/x /tmp/y",
        "write: {to: /etc/hosts, text: mine}",
        base=HOST,
    )
    assert site.layers(built)[1:] == [[".", "tmp", "tmp/y"], [".", "etc", "etc/hosts"]]


def test_a_command_that_changes_nothing_makes_no_layer(site: Site) -> None:
    built = site.build("run: ls / > /dev/null", base=HOST)
    assert len(site.layers(built)) == 1
    assert built.steps[0].layer == ""
    site.build("run: ls / > /dev/null", base=HOST)
    assert site.told.missed == {}


def test_removed_changed_and_linked_files_come_into_the_layer(site: Site) -> None:
    built = site.build(
        "run: mkdir -p /d/sub && echo 1 > /d/a && echo 2 > /d/b && ln /d/a /d/c",
        "run: rm /d/b && rm -r /d/sub && mkdir /d/sub && touch /d/sub/new && chown 5:6 /d/a && chmod 4755 /d/a",
        base=HOST,
    )
    assert site.layers(built)[2] == [".", "d", "d/.wh.b", "d/a", "d/sub", "d/sub/.wh..wh..opq", "d/sub/new"]
    store = site.store
    view = store.snapshots.view(store.images.load(built.descriptor).layers)
    try:
        assert sorted(os.listdir(f"/proc/self/fd/{view}/d")) == ["a", "c", "sub"]
        status = os.stat("d/a", dir_fd=view)
        assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (5, 6, 0o4755)
    finally:
        os.close(view)


def test_a_command_without_network_has_loopback_alone(site: Site) -> None:
    site.build("run: {command: cat /proc/net/dev, network: none}", base=HOST)
    assert [line.split(":")[0].strip() for line in site.told.lines[2:]] == ["lo"]


def test_a_build_has_podmans_eleven_capabilities(site: Site) -> None:
    site.build("run: cat /proc/self/status", base=HOST)
    masks = {line.split(":")[0]: int(line.split()[1], 16) for line in site.told.lines if line.startswith("Cap")}
    assert masks["CapEff"] == masks["CapPrm"] == masks["CapBnd"] == 0x800405FB
    assert masks["CapInh"] == 0


def test_a_failing_command_is_told_with_status_last_lines_place_and_log(site: Site) -> None:
    with pytest.raises(StepFailed) as caught:
        site.build("run: i=0; while [ $i -lt 30 ]; do i=$((i+1)); echo line $i; done; echo last >&2; exit 3", base=HOST)
    error = caught.value
    assert error.message == "the command exited with status 3"
    assert error.command_status == 3
    assert error.step.startswith(f"{site.context}/Boxfile:4: run: i=0;")
    assert error.tail.split("\n") == [f"line {number}" for number in range(12, 31)] + ["last"]
    assert error.log_path in error.hint
    log = Path(error.log_path).read_text()
    assert "line 1\n" in log and log.endswith("last\n")
    assert log.startswith(f"--- {site.context}/Boxfile:4: run:")
    assert Path(error.log_path).parent == site.root / "logs"
    assert Path(error.log_path).stat().st_mode & 0o077 == 0


def test_a_command_killed_by_a_signal_is_told_by_its_name(site: Site) -> None:
    def kill(number: int, line: str) -> None:
        inside = running(b"sleep\x0061234\0")
        assert len(inside) == 1
        os.kill(inside[0], signal.SIGKILL)

    site.watch = kill
    with pytest.raises(StepFailed, match="the command was killed by SIGKILL") as caught:
        site.build("run: echo ready; exec sleep 61234", base=HOST)
    assert caught.value.command_status == 137


def test_a_part_of_a_command_killed_by_a_signal_is_told_by_its_name_too(site: Site) -> None:
    with pytest.raises(StepFailed, match=r"the command exited with status 139 \(SIGSEGV\)"):
        site.build("run: sh -c 'kill -SEGV $$'; exit $?", base=HOST)


def test_a_failed_step_is_tried_again_and_the_ones_before_it_are_not(site: Site) -> None:
    for _ in range(2):
        with pytest.raises(StepFailed):
            site.build("run: touch /a", "run: exit 1", base=HOST)
    assert site.told.cached == [0, 1]
    assert site.told.missed == {2: "never built here"}


def test_a_command_that_is_not_there_names_the_step(site: Site) -> None:
    with pytest.raises(BuildError) as caught:
        site.build("run: [nothing-like-this]", base=HOST)
    assert "nothing-like-this" in caught.value.message
    assert caught.value.step.startswith(f"{site.context}/Boxfile:4: run:")


def test_a_user_that_is_not_there_names_the_step(site: Site) -> None:
    with pytest.raises(BuildError, match="no user 'app'") as caught:
        site.build("user: app", "run: id", base=HOST)
    assert caught.value.step.startswith(f"{site.context}/Boxfile:5: run:")


def test_a_miss_of_a_command_names_the_variable_workdir_or_user_that_changed(site: Site) -> None:
    def reason(*before: str) -> str:
        site.build(*before, "run: touch /tmp/x", base=HOST)
        return site.told.missed[len(before) + 1]

    reason("env: {A: 1}")
    assert reason("env: {A: 2}") == "env A changed"
    assert reason("env: {A: 2, B: 1}") == "env B is new"
    assert reason("env: {A: 2, B: 1}", 'user: "5"') == "the user changed from root to 5"


def test_variables_do_not_count_for_steps_that_run_nothing(site: Site) -> None:
    site.build("env: {A: 1}", "mkdir: /a")
    site.build("env: {A: 2}", "mkdir: /a")
    assert site.told.missed == {}


def test_output_that_never_ends_its_line_and_is_no_text_arrives_all_the_same(site: Site) -> None:
    site.build(r"run: printf 'a\377b\rdone 100%%\nno newline'", base=HOST)
    assert site.told.lines == ["done 100%", "no newline"]


def test_files_newer_than_the_epoch_are_set_to_it(site: Site) -> None:
    built = site.build("run: touch /new; touch -d '1975-05-05 00:00 UTC' /old", base=HOST)
    store = site.store
    view = store.snapshots.view(store.images.load(built.descriptor).layers)
    try:
        assert os.stat("new", dir_fd=view).st_mtime == 315532800
        assert os.stat("old", dir_fd=view).st_mtime == 168480000
    finally:
        os.close(view)


def test_programs_that_write_the_time_get_the_images_unless_the_boxfile_says_another(site: Site) -> None:
    site.build(
        "run: echo $SOURCE_DATE_EPOCH", "env: {SOURCE_DATE_EPOCH: 7}", "run: echo $SOURCE_DATE_EPOCH", base=HOST, epoch=500
    )
    assert site.told.lines == ["500", "7"]
    site.build("run: echo $SOURCE_DATE_EPOCH", base=HOST)
    assert site.told.lines == ["315532800"]


def test_a_script_ends_at_its_first_line_that_fails(site: Site) -> None:
    with pytest.raises(StepFailed):
        site.build('run: "cat /nope 2>&-\\necho never"', base=HOST)
    assert site.told.lines == []
    site.build('run: {command: "cat /nope 2>&-\\necho on", shell: [sh, -c]}', base=HOST)  # the control
    assert site.told.lines == ["on"]
