"""A container's log: whole, in order, by stream, while it is written and afterwards."""

import os
import re
import threading
import time
from pathlib import Path

import pytest

from runtime import lifecycle, logs
from runtime.spec import Bind
from tests.containers import Site, until


def entries(path: Path) -> list[tuple[str, bytes]]:
    return [(entry.stream, entry.text) for entry in logs.read(str(path))]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


def test_lines_are_kept_by_stream_with_their_ends(path: Path) -> None:
    log = logs.LogWriter(str(path))
    log.feed("stdout", b"one\ntwo")
    log.feed("stderr", b"oh\n")
    log.feed("stdout", b" parts\n\n")
    log.feed("stdout", b"no end")
    log.close()
    assert entries(path) == [
        ("stdout", b"one\n"), ("stderr", b"oh\n"), ("stdout", b"two parts\n"), ("stdout", b"\n"), ("stdout", b"no end"),
    ]  # fmt: skip


@pytest.mark.parametrize("size", [1, 7, 16383, 16384, 16385, 100_000])
def test_what_is_read_is_what_was_fed_whatever_the_pieces(path: Path, size: int) -> None:
    data = b"".join(b"%d " % number * (number % 50) + b"\n" for number in range(400)) + b"\0\xff\r" * 30_000 + b"\nend"
    log = logs.LogWriter(str(path))
    for at in range(0, len(data), size):
        log.feed("stdout", data[at : at + size])
    log.close()
    assert b"".join(text for _, text in entries(path)) == data


def test_a_line_without_end_does_not_grow_in_memory(path: Path) -> None:
    log = logs.LogWriter(str(path))
    for _ in range(100):
        log.feed("stdout", b"x" * 10_000)
    assert path.stat().st_size > 900_000
    log.close()
    assert b"".join(text for _, text in entries(path)) == b"x" * 1_000_000


def test_every_entry_has_its_time(path: Path) -> None:
    log = logs.LogWriter(str(path))
    log.feed("stdout", b"a\nb\n")
    log.close()
    times = [entry.time for entry in logs.read(str(path))]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", each) for each in times), times
    assert times == sorted(times)
    now = time.strftime("%Y-%m-%dT%H:", time.gmtime())
    assert times[0].startswith(now[:11])


@pytest.mark.parametrize(("tail", "expected"), [(0, []), (1, [b"3\n"]), (2, [b"2\n", b"3\n"]), (9, [b"1\n", b"2\n", b"3\n"])])
def test_the_tail_is_the_last_lines(path: Path, tail: int, expected: list[bytes]) -> None:
    log = logs.LogWriter(str(path))
    log.feed("stdout", b"1\n2\n3\n")
    log.close()
    assert [entry.text for entry in logs.read(str(path), tail=tail)] == expected
    assert [entry.text for entry in logs.follow(str(path), tail=tail)] == expected


def test_a_container_without_a_log_has_no_entries(path: Path) -> None:
    assert list(logs.read(str(path))) == []
    assert list(logs.follow(str(path))) == []


def test_an_entry_that_was_cut_off_is_not_shown(path: Path) -> None:
    """The keeper was killed while it wrote."""
    log = logs.LogWriter(str(path))
    log.feed("stdout", b"whole\n")
    log.close()
    with path.open("ab") as file:
        file.write(b"2026-01-01T00:00:00.000000000Z stdout F cut o")
    assert entries(path) == [("stdout", b"whole\n")]
    assert [entry.text for entry in logs.follow(str(path))] == [b"whole\n"]


def test_a_log_is_not_written_through_a_link(path: Path, tmp_path: Path) -> None:
    (tmp_path / "canary").write_text("alive")
    path.symlink_to(tmp_path / "canary")
    with pytest.raises(OSError, match="symbolic links"):
        logs.LogWriter(str(path))
    assert (tmp_path / "canary").read_text() == "alive"


def test_a_log_that_is_full_is_rotated_and_the_oldest_goes(path: Path) -> None:
    log = logs.LogWriter(str(path), 1000, 3)
    for number in range(200):
        log.feed("stdout", b"line %d\n" % number)
    log.close()
    files = logs.LogWriter.files(str(path))
    assert files == [str(path), f"{path}.1", f"{path}.2"]
    assert all(os.path.getsize(name) <= 1000 for name in files)
    assert sorted(os.listdir(path.parent)) == ["log", "log.1", "log.2"]
    shown = [text for _, text in entries(path)]
    assert 40 < len(shown) < 80
    assert shown == [b"line %d\n" % number for number in range(200 - len(shown), 200)]
    assert [entry.text for entry in logs.read(str(path), tail=3)] == shown[-3:]


@pytest.mark.parametrize("files", [1, 2])
def test_few_files_hold_the_newest(path: Path, files: int) -> None:
    log = logs.LogWriter(str(path), 300, files)
    for number in range(30):
        log.feed("stdout", b"%d\n" % number)
    log.close()
    shown = [text for _, text in entries(path)]
    assert shown
    assert shown == [b"%d\n" % number for number in range(30 - len(shown), 30)]
    assert len(os.listdir(path.parent)) == files


def test_without_a_limit_nothing_is_rotated_and_by_default_a_flood_ends_somewhere(path: Path) -> None:
    log = logs.open_log(str(path.parent), {"max-size": 0})
    for _ in range(30):
        log.feed("stdout", b"x" * (1 << 20) + b"\n")
    log.close()
    assert os.listdir(path.parent) == ["log"]
    path.unlink()
    log = logs.open_log(str(path.parent), {})
    for _ in range(90):
        log.feed("stdout", b"x" * (1 << 20) + b"\n")
    log.close()
    assert sum(os.path.getsize(name) for name in logs.LogWriter.files(str(path))) <= logs.MAX_SIZE * logs.MAX_FILES


def test_since_and_until_bound_what_is_shown(path: Path) -> None:
    path.write_bytes(b"".join(b"2026-01-0%dT00:00:00.000000000Z stdout F %d\n" % (day, day) for day in range(1, 8)))
    shown = logs.read(str(path), since="2026-01-03T00:00:00.000000000Z", until="2026-01-06T00:00:00.000000000Z")
    assert [entry.text for entry in shown] == [b"3\n", b"4\n", b"5\n"]
    shown = logs.read(str(path), since="2026-01-03T00:00:00.000000000Z", tail=2)
    assert [entry.text for entry in shown] == [b"6\n", b"7\n"]


def test_following_goes_on_across_rotations(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.journal.looked_after", lambda container: not done.is_set())
    monkeypatch.setattr(logs, "_PAUSE", 0.002)
    done = threading.Event()
    log = logs.LogWriter(str(path), 2000, 4)
    log.feed("stdout", b"0\n")
    seen: list[bytes] = []
    thread = threading.Thread(target=lambda: seen.extend(entry.text for entry in logs.follow(str(path))))
    thread.start()
    for number in range(1, 400):
        log.feed("stdout", b"%d\n" % number)
        time.sleep(0.0005)
    log.close()
    assert len(logs.LogWriter.files(str(path))) == 4
    done.set()
    thread.join(20)
    assert seen == [b"%d\n" % number for number in range(400)]


@pytest.mark.needs("root", "overlay", "cgroup")
@pytest.mark.parametrize("removed", [False, True])
def test_following_shows_what_comes_until_the_container_has_ended(site: Site, tmp_path: Path, removed: bool) -> None:
    """All of it, though the container and its log be removed with its end."""
    for name in ("one", "two"):
        os.mkfifo(tmp_path / name)
    script = """
        echo first
        read line < /go/one; echo $line; echo second >&2
        read line < /go/two; i=0; while [ $i -lt 500 ]; do echo $i; i=$((i+1)); done; printf last
    """
    one = site.start("sh", "-c", script, removed=removed, mounts=[Bind(str(tmp_path), "/go")])
    seen: list[bytes] = []

    def follow() -> None:
        seen.extend(entry.text for entry in logs.follow(one.log_path))

    thread = threading.Thread(target=follow)
    until(lambda: list(logs.read(one.log_path)))
    thread.start()
    until(lambda: seen == [b"first\n"])
    (tmp_path / "one").write_text("told\n")
    until(lambda: len(seen) == 3)
    assert sorted(seen[1:]) == [b"second\n", b"told\n"]
    (tmp_path / "two").write_text("on\n")
    thread.join(20)
    assert not thread.is_alive()
    assert seen[3:] == [b"%d\n" % number for number in range(500)] + [b"last"]
    if not removed:
        lifecycle.remove(site.containers.find(one.id))


@pytest.mark.needs("root", "overlay", "cgroup")
def test_a_foreground_container_that_is_kept_has_a_log_too_whole_when_it_has_ended(site: Site) -> None:
    ran = site.shell("echo out; echo err >&2; printf half", removed=False)
    assert (ran.out, ran.err) == ("out\nhalf", "err\n")
    one = site.containers.all()[0]
    assert one.exit_status == 0
    found = [(entry.stream, entry.text) for entry in logs.read(one.log_path)]
    assert sorted(found) == [("stderr", b"err\n"), ("stdout", b"half"), ("stdout", b"out\n")]
    lifecycle.remove(one)


@pytest.mark.needs("root", "overlay", "cgroup")
def test_a_flood_of_output_is_whole(site: Site) -> None:
    """Through the pipe, to the caller and into the log."""
    script = "i=0; while [ $i -lt 2000 ]; do echo line $i of many; i=$((i+1)); done"
    ran = site.shell(script, removed=False)
    expected = "".join(f"line {number} of many\n" for number in range(2000))
    assert ran.out == expected
    one = site.containers.all()[0]
    assert b"".join(entry.text for entry in logs.read(one.log_path)).decode() == expected
    lifecycle.remove(one)
