"""libseccomp as an oracle for whole profiles: what runc would install for a `linux.seccomp`, but for its ENOSYS stub."""

import ctypes
import os
import signal
import tempfile
from typing import Any

from tests.runtime.bpf import LIBSECCOMP

_ARCHITECTURES = {
    "SCMP_ARCH_X86": 0x40000003,
    "SCMP_ARCH_X86_64": 0xC000003E,
    "SCMP_ARCH_X32": 0x4000003E,
    "SCMP_ARCH_ARM": 0x40000028,
    "SCMP_ARCH_AARCH64": 0xC00000B7,
}
_OWN = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
_ACTIONS = {
    "SCMP_ACT_KILL": 0,
    "SCMP_ACT_KILL_THREAD": 0,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
_OPERATORS = ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")  # enum scmp_compare, from 1 on
_EEXIST, _DEFAULT = 17, 8  # SCMP_FLTATR_CTL_OPTIMIZE


class _Argument(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("datum_a", ctypes.c_uint64), ("datum_b", ctypes.c_uint64))


def program(profile: dict[str, Any], machine: str) -> bytes | None:
    """libseccomp's program; None where it has none: it refuses a rule, or never ends (its trees may become circular)."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            os.write(writer, _program(profile, machine))
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        data = pipe.read()
    os.waitpid(pid, 0)
    return data or None


def action(entry: dict[str, Any], key: str, errno_key: str) -> int:
    """SECCOMP_RET_* of an entry's action."""
    number = 0
    if entry[key] in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        number = 1 if entry.get(errno_key) is None else entry[errno_key]
    return _ACTIONS[entry[key]] | number


def _program(profile: dict[str, Any], machine: str) -> bytes:
    library = LIBSECCOMP
    assert library is not None
    library.seccomp_init.restype = ctypes.c_void_p
    default = action(profile, "defaultAction", "defaultErrnoRet")
    held = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(default)))
    native = library.seccomp_arch_native() & 0xFFFFFFFF
    for name in (_OWN[machine], *profile.get("architectures", ())):
        if name in _ARCHITECTURES:
            assert library.seccomp_arch_add(held, ctypes.c_uint32(_ARCHITECTURES[name])) in (0, -_EEXIST)
    if native != _ARCHITECTURES[_OWN[machine]]:
        assert library.seccomp_arch_remove(held, ctypes.c_uint32(native)) == 0
    library.seccomp_attr_set(held, _DEFAULT, ctypes.c_uint32(2))  # a binary tree
    for entry in profile.get("syscalls", ()):
        wanted = action(entry, "action", "errnoRet")
        arguments = entry.get("args") or []
        alternatives = [arguments]
        if len({held["index"] for held in arguments}) < len(arguments):
            alternatives = [[held] for held in arguments]
        for name in entry["names"]:
            number = library.seccomp_syscall_resolve_name(name.encode())
            if wanted == default or number == -1:
                continue
            for alternative in alternatives:
                array = (_Argument * len(alternative))(*[_argument(each) for each in alternative])
                done = library.seccomp_rule_add_array(held, ctypes.c_uint32(wanted), number, len(alternative), array)
                assert done == 0, (name, os.strerror(-done))
    with tempfile.TemporaryFile() as file:
        assert library.seccomp_export_bpf(held, file.fileno()) == 0
        file.seek(0)
        return file.read()


def _argument(given: dict[str, Any]) -> tuple[int, int, int, int]:
    operator = _OPERATORS.index(given["op"].removeprefix("SCMP_CMP_")) + 1
    return given["index"], operator, given["value"], given.get("valueTwo") or 0
