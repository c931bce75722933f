"""Performing a Program in a child that shares this process' memory: some hundred bytes of x86-64 code that make its calls in
order.

clone3 with CLONE_VM and CLONE_VFORK copies nothing: the child runs on the parent's memory and stack while the parent waits, as
with vfork(2), until it executes its program or ends. A child that is a fork of the interpreter would copy each of some 400
pages that it touches, which costs 3 ms of a start that takes 10, and more in a larger process. The code calls nothing, pushes
nothing after the clone and keeps its state in two registers that it has saved, so the stack is as it was when the parent goes
on.

What other threads do meanwhile does not matter: the child reads only tables made here. All signals are blocked around it, since a
handler would run in the child, on the parent's memory. Hot.
"""

import posix as os
from _signal import SIG_BLOCK, SIG_SETMASK, pthread_sigmask, valid_signals
from _struct import pack, unpack

from runtime.linux import SIGKILL, clone_arguments
from runtime.program import NUMBERS, Failure, Program, Result
from store.syscalls import MACHINE, buffer, callable_at, libc, syscall

_CLONE_VM, _CLONE_VFORK, _CLONE_CHILD_CLEARTID = 0x100, 0x4000, 0x200000
_FUTEX, _FUTEX_WAIT = 202, 0
_SECOND = (1).to_bytes(8, "little") + bytes(8)  # struct timespec: looked at again now and then, whatever becomes of the wake-up
_PROT_RW, _PROT_RX, _MAP_PRIVATE_ANONYMOUS = 3, 5, 0x22
RECORD = 9 * 8  # number, six arguments, tolerated errnos (16 bits each), where to store the result

# rdi: clone3's arguments, rsi: their size, rdx: the records, rcx: where to store a failed record's address and its errno.
_BIRTH = bytes.fromhex(
    "f30f1efa"  # endbr64
    "53"  # push rbx
    "4154"  # push r12
    "4889d3"  # mov rbx, rdx
    "4989cc"  # mov r12, rcx
    "b8b3010000"  # mov eax, 435: clone3
    "0f05"  # syscall
    "4885c0"  # test rax, rax
    "7404"  # jz child
    "415c"  # pop r12
    "5b"  # pop rbx
    "c3"  # ret: the child's pid, or a negative errno
)
# rbx: the records, r12: where to store a failed record's address and its errno; what comes behind runs only after a failure.
STEPS = bytes.fromhex(
    # child:
    "488b03"  # mov rax, [rbx]
    "488b7b08"  # mov rdi, [rbx+8]
    "488b7310"  # mov rsi, [rbx+16]
    "488b5318"  # mov rdx, [rbx+24]
    "4c8b5320"  # mov r10, [rbx+32]
    "4c8b4328"  # mov r8, [rbx+40]
    "4c8b4b30"  # mov r9, [rbx+48]
    "0f05"  # syscall
    "488b4b40"  # mov rcx, [rbx+64]
    "4885c9"  # test rcx, rcx
    "7403"  # jz over the next
    "488901"  # mov [rcx], rax
    "483d00f0ffff"  # cmp rax, -4096
    "7706"  # ja failed
    # next:
    "4883c348"  # add rbx, 72
    "ebc9"  # jmp child
    # failed:
    "48f7d8"  # neg rax
    "488b4b38"  # mov rcx, [rbx+56]
    # tolerated:
    "6639c1"  # cmp cx, ax
    "74ee"  # je next
    "48c1e910"  # shr rcx, 16
    "75f5"  # jnz tolerated
    "4989442408"  # mov [r12+8], rax
    "49891c24"  # mov [r12], rbx
)
_CODE = (
    _BIRTH
    + STEPS
    + bytes.fromhex(
        "b8e7000000"  # mov eax, 231: exit_group
        "bf7d000000"  # mov edi, 125
        "0f05"  # syscall
    )
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from store.syscalls import Buffer

_entry: "Callable[..., int] | None" = None


def available() -> bool:
    """Whether this machine lets the code be made; where it does not (another processor, a policy), runtime.portable serves."""
    global _entry
    if _entry is None and MACHINE == "x86_64":
        try:
            where = libc("mmap", 0, 4096, _PROT_RW, _MAP_PRIVATE_ANONYMOUS, -1, 0)
            libc("memcpy", where, _CODE, len(_CODE))
            libc("mprotect", where, 4096, _PROT_RX)
        except OSError:
            return False
        _entry = callable_at(where)
    return _entry is not None


def perform(
    program: Program, namespaces: int, cgroup: int | None = None, ready: "Callable[[int], object] | None" = None
) -> "tuple[int, Failure | None]":
    """Bear a child into new `namespaces`, and on v2 into the group whose directory is `cgroup`, that performs `program`.

    `ready` is called with its pid while it lives already: for what only others can do for it, such as the maps of a user
    namespace, for which the program then waits (a read of a pipe) before it does what needs them. Returns the child's pid, and
    None once it has executed something. With a Failure, it has ended with status 125 and is to be waited for. Raises OSError when
    it could not be born, and what `ready` raises: the child is dead then. Only where `available`.
    """
    entry = _entry
    if entry is None:
        raise OSError(38, "clone3: no native code here")
    alive, alive_at = buffer(8)
    arguments = clone_arguments(namespaces | _CLONE_VM | _CLONE_VFORK, cgroup)
    if ready is not None:
        # In place of the kernel's waiting for the child, which nothing could be done in: this word becomes zero when the child
        # leaves this memory, by execve or by its end.
        libc("memcpy", alive_at, b"\1", 1)
        arguments = clone_arguments(namespaces | _CLONE_VM | _CLONE_CHILD_CLEARTID, cgroup, alive_at)
    layout = Layout(program)
    table, table_at = buffer(layout.size)
    outcome, outcome_at = buffer(16 + 8 * layout.executions)
    data = layout.at(table_at, outcome_at + 16)
    libc("memcpy", table_at, data, len(data))
    former = pthread_sigmask(SIG_BLOCK, valid_signals())
    try:
        pid = entry(arguments, len(arguments), table, outcome)
    finally:
        pthread_sigmask(SIG_SETMASK, former)
    if pid < 0:
        raise OSError(-pid, f"clone3: {os.strerror(-pid)}")
    if ready is not None:
        try:
            ready(pid)
        except BaseException:
            os.kill(pid, SIGKILL)
            _await(alive, alive_at)
            os.waitpid(pid, 0)
            raise
        _await(alive, alive_at)
    failed, errno, *tried = unpack(f"<{2 + layout.executions}q", outcome)
    if not failed:
        return pid, None
    index = (failed - table_at) // RECORD
    call = program.calls[index] if index < len(program.calls) else None
    return pid, Failure(call, errno, [-result for result in tried if result])


def _await(word: "Buffer", at: int) -> None:
    """Wait until the child has left this memory."""
    while word[0] != b"\0":
        try:
            syscall("futex", _FUTEX, at, _FUTEX_WAIT, 1, _SECOND, None, 0)
        except OSError as err:
            if err.errno not in (4, 11, 110):  # EINTR, EAGAIN: it has changed already, ETIMEDOUT
                raise


class Layout:
    """A program as the code reads it: a record for each call, a last one of no call at all (ENOSYS, when nothing could be
    executed), and then the memory that the calls' arguments point to."""

    __slots__ = ("_executions", "_memory", "_pointers", "_pointers_inside", "_words", "executions", "size")

    def __init__(self, program: Program) -> None:
        taken = {}  # a call whose result is used -> where among the words it becomes an argument
        words: list[int] = []
        memory: list[bytes] = []
        structures: dict[int, int] = {}  # those that several calls share, by identity
        end = 0
        self._pointers: list[int] = []  # words that are addresses in the memory, relative to its beginning
        self._pointers_inside: list[tuple[int, int]] = []  # places in the memory that are such addresses, and these
        self._executions: list[int] = []  # words that say where to store what an execve came to
        for call in program.calls:
            words.append(NUMBERS[call.name])
            for argument in call.arguments:
                if type(argument) is int:
                    words.append(argument)
                elif type(argument) is bytes:
                    self._pointers.append(len(words))
                    words.append(end)
                    memory.append(argument)
                    end += len(argument)
                elif id(argument) in structures:
                    self._pointers.append(len(words))
                    words.append(structures[id(argument)])
                elif type(argument) is tuple:
                    memory.append(bytes(-end % 8))
                    end += -end % 8
                    structures[id(argument)] = end
                    self._pointers.append(len(words))
                    words.append(end)
                    end = self._structure(argument, memory, end)
                else:
                    if type(argument) is Result:
                        taken[argument.call] = len(words)
                    words.append(0)
            words += (0,) * (6 - len(call.arguments))
            tolerated = 0
            for errno in call.tolerated:
                tolerated = tolerated << 16 | errno
            if call.name == "execve":
                self._executions.append(len(words) + 1)
            words += (tolerated, 0)
        for index, call in enumerate(program.calls):
            if call in taken:
                words[index * 9 + 8] = taken[call] * 8 + 1  # one more, so that none is zero, which means nowhere
        words += (0xFFFFFFFF, 0, 0, 0, 0, 0, 0, 0, 0)
        self._words = words
        self._memory = memory
        self.executions = len(self._executions)
        self.size = 8 * len(words) + end

    def _structure(self, parts: "tuple[bytes | list[bytes], ...]", memory: list[bytes], start: int) -> int:
        """Lay out a structure with pointers, then what they point to; where that ends."""
        pointed: list[tuple[int, bytes]] = []
        at = start
        for part in parts:
            if type(part) is list:
                pointed.append((at, part[0]))
                memory.append(_NULL)
                at += 8
            elif type(part) is bytes:
                memory.append(part)
                at += len(part)
        for place, target in pointed:
            self._pointers_inside.append((place, at))
            memory.append(target)
            at += len(target)
        return at

    def at(self, table: int, executions: int) -> bytes:
        """The bytes, for a table at this address; what the executions come to is stored from `executions` on."""
        words = self._words[:]
        for index in range(8, len(words), 9):
            if words[index]:
                words[index] += table - 1
        for number, index in enumerate(self._executions):
            words[index] = executions + 8 * number
        start = table + 8 * len(words)
        for index in self._pointers:
            words[index] += start
        memory = b"".join(self._memory)
        if self._pointers_inside:
            changed = bytearray(memory)
            for place, target in self._pointers_inside:
                changed[place : place + 8] = (start + target).to_bytes(8, "little")
            memory = bytes(changed)
        return _words(words) + memory


_NULL = bytes(8)


def _words(values: list[int]) -> bytes:
    return pack(f"<{len(values)}q", *values)
