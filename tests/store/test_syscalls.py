"""The crossing into libc: above all, that a failure is never taken for success."""

import errno
import os

import pytest

from store import syscalls


def test_a_failed_system_call_is_an_error_with_its_name_and_path() -> None:
    with pytest.raises(OSError, match="openat2: No such file or directory") as caught:
        syscalls.openat2(syscalls.AT_FDCWD, "/nowhere/at/all", os.O_RDONLY)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, "/nowhere/at/all")


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("chdir", (b"/nowhere/at/all",), errno.ENOENT),  # an assembler stub: -1 in the whole register
        ("prctl", (24, 1000, 0, 0, 0), errno.EINVAL),  # compiled C returning int: -1 in the register's lower half
        ("poll", (None, -1, 0), errno.EINVAL),
    ],
)
def test_a_failed_function_of_libc_is_an_error_whatever_its_type(
    name: str, arguments: tuple[int | bytes | None, ...], expected: int
) -> None:
    with pytest.raises(OSError, match=name) as caught:
        syscalls.libc(name, *arguments)
    assert caught.value.errno == expected


def test_what_a_function_returns_comes_back() -> None:
    assert syscalls.libc("getpid") == os.getpid()
    assert syscalls.syscall("getpid", {"x86_64": 39, "aarch64": 172}[syscalls.MACHINE]) == os.getpid()


def test_the_kernel_writes_into_a_buffer() -> None:
    memory, _ = syscalls.buffer(4096)
    assert syscalls.libc("gethostname", memory, 4096) == 0
    assert memory.value.decode() == os.uname().nodename


def test_an_address_is_where_the_bytes_lie() -> None:
    data = b"some bytes, and a few more"
    memory, address = syscalls.buffer(64)
    assert syscalls.libc("memcpy", address, syscalls.address_of(data), len(data)) == address
    assert memory.raw[: len(data)] == data
