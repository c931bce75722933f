"""Classic BPF as seccomp has it: a machine that runs a filter on paper, and libseccomp as a second opinion."""

import ctypes
import ctypes.util
import functools
import os
import struct
import tempfile
from collections.abc import Sequence

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7, "i386": 0x40000003, "arm": 0x40000028}

LIBSECCOMP = ctypes.CDLL(path, use_errno=True) if (path := ctypes.util.find_library("seccomp")) else None


def run(program: bytes, architecture: int, number: int, arguments: Sequence[int] = (), *, longest: int = 0) -> int:
    """The action that the filter answers a call with; at most `longest` instructions (0: any number) may be needed for it.

    As strict as the kernel's checker: no jump leaves the program, no other instruction than seccomp allows, no fall off the end.
    """
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, architecture, 0x7F00DEADBEEF, *[*arguments, *[0] * 6][:6])
    instructions = _decoded(program)
    at = accumulator = steps = 0
    while True:
        code, true, false, value = instructions[at]
        at += 1
        steps += 1
        assert not longest or steps <= longest, f"call {number} takes over {longest} instructions"
        if code == 0x06:  # RET K
            return value
        if code == 0x20:  # LD W ABS
            assert value % 4 == 0 and value < len(data)
            accumulator = struct.unpack_from("<I", data, value)[0]
        elif code == 0x54:  # AND K
            accumulator &= value
        elif code == 0x05:  # JA
            at += value
        elif code in (0x15, 0x25, 0x35, 0x45):  # JEQ, JGT, JGE, JSET
            held = {
                0x15: accumulator == value,
                0x25: accumulator > value,
                0x35: accumulator >= value,
                0x45: bool(accumulator & value),
            }
            at += true if held[code] else false
        else:
            raise AssertionError(f"instruction {code:#x}")


@functools.lru_cache(16)
def _decoded(program: bytes) -> list[tuple[int, ...]]:
    return list(struct.iter_unpack("<HBBI", program))


# enum scmp_compare; "&" is SCMP_CMP_MASKED_EQ.
_OPERATORS = {"!=": 1, "<": 2, "<=": 3, "==": 4, ">=": 5, ">": 6, "&": 7}


class _Argument(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("datum_a", ctypes.c_uint64), ("datum_b", ctypes.c_uint64))


class Oracle:
    """A filter made by libseccomp for one machine: `default` for every call, then what is added."""

    def __init__(self, machine: str, default: int) -> None:
        assert LIBSECCOMP is not None
        self._library = LIBSECCOMP
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._library.seccomp_syscall_resolve_num_arch.restype = ctypes.c_void_p
        self._machine = machine
        self._filter = ctypes.c_void_p(self._library.seccomp_init(ctypes.c_uint32(default)))
        native = ctypes.c_uint32(self._library.seccomp_arch_native())
        wanted = ctypes.c_uint32(AUDIT_ARCH[machine])
        if native.value != wanted.value:
            assert self._library.seccomp_arch_add(self._filter, wanted) == 0
            assert self._library.seccomp_arch_remove(self._filter, native) == 0
        self._library.seccomp_attr_set(self._filter, 8, ctypes.c_uint32(2))  # CTL_OPTIMIZE: a binary tree

    def knows(self, name: str) -> bool:
        """Whether libseccomp, which may be older than our tables, has the call on this machine."""
        return bool(
            self._library.seccomp_syscall_resolve_name_arch(ctypes.c_uint32(AUDIT_ARCH[self._machine]), name.encode()) >= 0
        )

    def add(self, name: str, action: int, *conditions: tuple[int, str, int, int]) -> None:
        """A rule; each condition is (argument, operator, first datum, second datum)."""
        number = self._library.seccomp_syscall_resolve_name(name.encode())
        array = (_Argument * len(conditions))(*[(arg, _OPERATORS[op], a, b) for arg, op, a, b in conditions])
        result = self._library.seccomp_rule_add_array(self._filter, ctypes.c_uint32(action), number, len(conditions), array)
        assert result == 0, (name, os.strerror(-result))

    def program(self) -> bytes:
        with tempfile.TemporaryFile() as file:
            assert self._library.seccomp_export_bpf(self._filter, file.fileno()) == 0
            file.seek(0)
            self._library.seccomp_release(self._filter)
            return file.read()
