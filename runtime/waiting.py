"""A program that waits: what is left of a container's set-up, as a file that can be executed, for a process whose parent goes.

`create` ends with a container that is all there but for its command; `start` comes later, from another process. What waits in
between cannot be the interpreter's memory (runtime.native's child shares it) nor an interpreter of its own (10 MB, and its file
would be in the container's reach: CVE-2019-5736). So it is a file of a few pages, made for this one container in sealed memory:
the code of runtime.native and the list of calls, of which the first waits. x86-64 ELF, as elf(5) has it.
"""

import posix as os
from _struct import pack, unpack

from runtime.native import RECORD, STEPS, Layout
from runtime.program import Program
from store.syscalls import MACHINE, libc

_CODE_AT, _DATA_AT = 0x10000000, 0x20000000
_PAGE = 4096
LEAST = _OUTCOME = 24  # a failed record's address, its errno, the descriptor to tell them to
_MFD_CLOEXEC, _MFD_ALLOW_SEALING, _MFD_EXEC = 1, 2, 0x10
_F_ADD_SEALS, _ALL_SEALS = 1033, 0x1F & ~0x10  # seal, shrink, grow, write
_EINVAL = 22


def available() -> bool:
    """Whether this machine's code is known."""
    return MACHINE == "x86_64"


def image(program: Program, teller: int) -> bytes:
    """The file whose process performs `program`, and writes to the descriptor `teller` which call failed, if one does: what
    `Ended` reads."""
    layout = Layout(program)
    outcome_at = _DATA_AT
    executions_at = _DATA_AT + _OUTCOME
    table_at = executions_at + 8 * layout.executions
    data = bytes(16) + teller.to_bytes(8, "little") + bytes(8 * layout.executions) + layout.at(table_at, executions_at)
    code = b"".join(
        [
            b"\x48\xbb" + table_at.to_bytes(8, "little"),  # mov rbx, table
            b"\x49\xbc" + outcome_at.to_bytes(8, "little"),  # mov r12, outcome
            STEPS,
            bytes.fromhex(
                "b801000000"  # mov eax, 1: write
                "418b7c2410"  # mov edi, [r12+16]
                "4c89e6"  # mov rsi, r12
                "ba"  # mov edx, the length
            ),
            (_OUTCOME + 8 * layout.executions).to_bytes(4, "little"),
            bytes.fromhex(
                "0f05"  # syscall
                "b8e7000000"  # mov eax, 231: exit_group
                "bf7d000000"  # mov edi, 125
                "0f05"  # syscall
            ),
        ]
    )
    headers = 64 + 2 * 56
    data_at = -(-(headers + len(code)) // _PAGE) * _PAGE
    entry = _CODE_AT + headers
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    file_header = ident + pack("<HHIQQQIHHHHHH", 2, 62, 1, entry, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    # PT_LOAD: the code, read and executed; the data, read and written.
    segments = pack("<IIQQQQQQ", 1, 5, 0, _CODE_AT, _CODE_AT, headers + len(code), headers + len(code), _PAGE)
    segments += pack("<IIQQQQQQ", 1, 6, data_at, _DATA_AT, _DATA_AT, len(data), len(data), _PAGE)
    return (file_header + segments + code).ljust(data_at, b"\0") + data


class Ended:
    """What the process told before it ended: the `index` of the failed call, None where no execution succeeded; the `errno`; and
    the errnos of all `executions` that were tried."""

    __slots__ = ("errno", "executions", "index")

    def __init__(self, message: bytes, calls: int) -> None:
        address, errno, _, *results = unpack(f"<{len(message) // 8}q", message[: len(message) // 8 * 8])
        index = (address - (_DATA_AT + len(message))) // RECORD
        self.index = index if 0 <= index < calls else None
        self.errno = errno
        self.executions = [-result for result in results if result]


def sealed(data: bytes, least: int) -> int:
    """A descriptor, at least `least`, of a file in memory that holds `data` and can never be changed. Raises OSError."""
    from fcntl import F_DUPFD_CLOEXEC, fcntl

    flags = _MFD_CLOEXEC | _MFD_ALLOW_SEALING
    try:
        low = libc("memfd_create", b"box-init", flags | _MFD_EXEC)  # where vm.memfd_noexec asks for that
    except OSError as err:
        if err.errno != _EINVAL:  # Linux before 6.3 does not know the flag
            raise
        low = libc("memfd_create", b"box-init", flags)
    try:
        descriptor = fcntl(low, F_DUPFD_CLOEXEC, least)
    finally:
        os.close(low)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        fcntl(descriptor, _F_ADD_SEALS, _ALL_SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
