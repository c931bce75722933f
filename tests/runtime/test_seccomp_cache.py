"""The kept filters: found again, never believed when damaged, and no burden where they cannot be kept."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime import seccomp_cache
from runtime.capabilities import ALL, BUILD_DEFAULT, RUN_DEFAULT
from runtime.seccomp import assemble
from runtime.seccomp_cache import filter_bytes
from runtime.seccomp_profile import default
from store.errors import RunError
from store.syscalls import MACHINE


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "prepared").mkdir(mode=0o700)
    return tmp_path


def kept(root: Path) -> list[Path]:
    return sorted((root / "prepared").iterdir())


def without_the_compiler(root: Path, mask: int, monkeypatch: pytest.MonkeyPatch) -> bytes:
    with monkeypatch.context() as patch:
        patch.setattr(seccomp_cache, "_compile", lambda *arguments: pytest.fail("it was compiled"))
        return filter_bytes(str(root), mask)


@pytest.mark.parametrize("mask", [0, RUN_DEFAULT, BUILD_DEFAULT, ALL])
def test_a_filter_is_compiled_once_and_then_read(root: Path, mask: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = assemble(default(mask), MACHINE)
    assert filter_bytes(str(root), mask) == expected
    assert without_the_compiler(root, mask, monkeypatch) == expected


def test_filters_that_are_equal_are_kept_once_and_others_apart(root: Path) -> None:
    assert filter_bytes(str(root), 0) == filter_bytes(str(root), RUN_DEFAULT)
    assert len(kept(root)) == 1
    assert filter_bytes(str(root), BUILD_DEFAULT) != filter_bytes(str(root), ALL) != filter_bytes(str(root), 0)
    assert len(kept(root)) == 3
    assert {path.stat().st_mode & 0o7777 for path in kept(root)} == {0o600}


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:8],
        lambda data: data[:16],
        lambda data: data[:-8],
        lambda data: data[:-1],
        lambda data: data + b"\0" * 8,
        lambda data: b"\0" * len(data),
        lambda data: data[:16] + b"\0" * (len(data) - 16),
        lambda data: data[:-512] + b"\0" * 512,
        lambda data: data[:100] + bytes((data[100] ^ 1,)) + data[101:],
        lambda data: data[:12] + b"\1" + data[13:],
        lambda data: b"boxbpf0\n" + data[8:],
        lambda data: data[:16] + data[24:32] + data[16:24] + data[32:],
    ],
)
def test_a_damaged_file_is_never_installed_and_is_made_anew(root: Path, damage: object, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = filter_bytes(str(root), RUN_DEFAULT)
    (path,) = kept(root)
    whole = path.read_bytes()
    assert callable(damage)
    path.write_bytes(damage(whole))
    assert filter_bytes(str(root), RUN_DEFAULT) == expected
    assert path.read_bytes() == whole
    assert without_the_compiler(root, RUN_DEFAULT, monkeypatch) == expected


def test_an_empty_program_is_not_a_filter(root: Path) -> None:
    expected = filter_bytes(str(root), RUN_DEFAULT)
    (path,) = kept(root)
    path.write_bytes(seccomp_cache._header(b""))
    assert filter_bytes(str(root), RUN_DEFAULT) == expected


def test_a_file_of_another_profile_is_not_taken(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = filter_bytes(str(root), RUN_DEFAULT)
    (old,) = kept(root)
    monkeypatch.setattr(seccomp_cache, "PROFILE", "0123456789abcdef")
    assert filter_bytes(str(root), RUN_DEFAULT) == expected
    assert len(kept(root)) == 2 and old in kept(root)


def test_where_nothing_can_be_kept_the_filter_is_compiled(tmp_path: Path) -> None:
    expected = assemble(default(RUN_DEFAULT), MACHINE)
    assert filter_bytes(str(tmp_path / "nowhere"), RUN_DEFAULT) == expected
    (tmp_path / "prepared").write_bytes(b"")
    assert filter_bytes(str(tmp_path), RUN_DEFAULT) == expected
    assert os.listdir(tmp_path) == ["prepared"]


def test_a_full_disk_costs_only_time(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(seccomp_cache.os, "write", full)
    assert filter_bytes(str(root), RUN_DEFAULT) == assemble(default(RUN_DEFAULT), MACHINE)
    assert kept(root) == []


def test_two_at_once_both_get_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one's file appears between our look and our link."""
    expected = filter_bytes(str(root), RUN_DEFAULT)
    (path,) = kept(root)
    whole = path.read_bytes()
    monkeypatch.setattr(seccomp_cache, "exists", lambda path: path == str(root / "prepared"))
    seccomp_cache.keep_body(str(path.parent), str(path), whole[16:])
    assert path.read_bytes() == whole
    assert len(kept(root)) == 1
    assert filter_bytes(str(root), RUN_DEFAULT) == expected


def test_a_machine_without_tables_is_told_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp_cache, "MACHINE", "s390x")
    with pytest.raises(RunError, match="no system call filter for s390x"):
        filter_bytes(str(root), RUN_DEFAULT)


def test_the_kept_filter_is_read_without_the_compiler_or_the_tables(root: Path) -> None:
    """What `box run` pays for: nothing that it does not use."""
    filter_bytes(str(root), RUN_DEFAULT)
    code = f"""
import sys
sys.path.insert(0, {os.getcwd()!r})
from runtime import confinement, seccomp_cache
assert seccomp_cache.filter_bytes({str(root)!r}, {RUN_DEFAULT})
ours = {{name for name in sys.modules if name.split(".")[0] in ("runtime", "store")}}
assert not ours & {{"runtime.seccomp", "runtime.seccomp_profile", "runtime.syscall_numbers"}}, ours
heavy = {{"ctypes", "struct", "re", "enum", "typing", "dataclasses", "functools", "collections", "json", "hashlib", "difflib"}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)
