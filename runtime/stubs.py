"""Two programs of some hundred bytes each, made here: the *keeper* of a container in the background, and its *init*.

Neither is an interpreter, a file of the machine nor one of an image: each is an ELF of two pages in sealed memory, so that a
container which reaches its first process' file (CVE-2019-5736) finds nothing that could be changed, and one that waits for
months takes kilobytes. x86-64 machine code; elsewhere runtime.detached keeps by an interpreter, and there is no init.

The keeper is the parent of a container's first process. It holds what the monitor (runtime.monitor) works with, so that a monitor
that was killed can be replaced by another, and tells how the container ended. It never leaves by itself: it is killed by the
monitor once that has all, or by anybody else, and the container goes with it.

The init is a container's first process, bears the command as its only child, passes every signal on to it, waits for
all that lose their parents, and ends with the command's status (128 + N for signal N).
"""

from _struct import pack

from store.errors import RunError
from store.syscalls import MACHINE

# The descriptors that a keeper holds: the container's directory, locked; the two ends of the socket that has the wait status once
# it ended; where its output is read (or its terminal's master), its errors are, and its input is written.
DIRECTORY, STATUS_WRITER, STATUS, OUTPUT, ERRORS, INPUT = 3, 4, 5, 6, 7, 8
CLOSE_INPUT = 10  # the signal at which a keeper closes its end of the container's input: SIGUSR1
KEEPER_NAME, INIT_NAME = "box-keeper", "box-init"

_CODE_AT, _DATA_AT = 0x10000000, 0x20000000
_PAGE = 4096
_SIGCHLD = 17

# At the data's address: 0 the signals waited for, 8 the name, 24 the status.
_KEEPER = bytes.fromhex(
    "48c7c500000020"  # mov rbp, 0x20000000
    "b89d000000"  # mov eax, 157
    "bf0f000000"  # mov edi, 15
    "488d7508"  # lea rsi, [rbp+8]
    "0f05"  # syscall
    # wait:
    "b83d000000"  # mov eax, 61
    "48c7c7ffffffff"  # mov rdi, -1
    "488d7518"  # lea rsi, [rbp+24]
    "ba01000000"  # mov edx, 1
    "4531d2"  # xor r10d, r10d
    "0f05"  # syscall
    "85c0"  # test eax, eax
    "7e15"  # jle signals
    "b801000000"  # mov eax, 1
    "bf04000000"  # mov edi, 4
    "488d7518"  # lea rsi, [rbp+24]
    "ba04000000"  # mov edx, 4
    "0f05"  # syscall
    # signals:
    "b880000000"  # mov eax, 128
    "4889ef"  # mov rdi, rbp
    "31f6"  # xor esi, esi
    "31d2"  # xor edx, edx
    "41ba08000000"  # mov r10d, 8
    "0f05"  # syscall
    "83f80a"  # cmp eax, 10
    "75b4"  # jne wait
    "b803000000"  # mov eax, 3
    "bf08000000"  # mov edi, 8
    "0f05"  # syscall
    "ebd9"  # jmp signals
)
# At the data's address: 0 all signals, 8 none, 16 a status, 24 a pid, 32 where the candidates' table is, 40 the name, 56 what
# each execution came to. The child shares this memory until it executes (clone with CLONE_VM and CLONE_VFORK).
_INIT = bytes.fromhex(
    "48c7c500000020"  # mov rbp, 0x20000000
    "b89d000000"  # mov eax, 157
    "bf0f000000"  # mov edi, 15
    "488d7528"  # lea rsi, [rbp+40]
    "0f05"  # syscall
    "b80e000000"  # mov eax, 14
    "bf02000000"  # mov edi, 2
    "488d7500"  # lea rsi, [rbp+0]
    "31d2"  # xor edx, edx
    "41ba08000000"  # mov r10d, 8
    "0f05"  # syscall
    "b848000000"  # mov eax, 72
    "bf03000000"  # mov edi, 3
    "be02000000"  # mov esi, 2
    "ba01000000"  # mov edx, 1
    "0f05"  # syscall
    "488b0c24"  # mov rcx, [rsp]
    "4c8d6ccc10"  # lea r13, [rsp+rcx*8+16]
    "4c8d742418"  # lea r14, [rsp+24]
    "b838000000"  # mov eax, 56
    "bf11410000"  # mov edi, 0x4111
    "31f6"  # xor esi, esi
    "31d2"  # xor edx, edx
    "4531d2"  # xor r10d, r10d
    "4531c0"  # xor r8d, r8d
    "0f05"  # syscall
    "85c0"  # test eax, eax
    "0f8486000000"  # je child
    "7910"  # jns born
    "48f7d8"  # neg rax
    "48894538"  # mov [rbp+56], rax
    "4c8d7d40"  # lea r15, [rbp+64]
    "e9ee000000"  # jmp report
    # born:
    "89c3"  # mov ebx, eax
    "b803000000"  # mov eax, 3
    "bf03000000"  # mov edi, 3
    "0f05"  # syscall
    # next:
    "b880000000"  # mov eax, 128
    "488d7d00"  # lea rdi, [rbp+0]
    "31f6"  # xor esi, esi
    "31d2"  # xor edx, edx
    "41ba08000000"  # mov r10d, 8
    "0f05"  # syscall
    "83f811"  # cmp eax, 17
    "7411"  # je reap
    "85c0"  # test eax, eax
    "78e2"  # js next
    "89c6"  # mov esi, eax
    "89df"  # mov edi, ebx
    "b83e000000"  # mov eax, 62
    "0f05"  # syscall
    "ebd5"  # jmp next
    # reap:
    "b83d000000"  # mov eax, 61
    "48c7c7ffffffff"  # mov rdi, -1
    "488d7510"  # lea rsi, [rbp+16]
    "ba01000040"  # mov edx, 0x40000001
    "4531d2"  # xor r10d, r10d
    "0f05"  # syscall
    "85c0"  # test eax, eax
    "7eb7"  # jle next
    "39d8"  # cmp eax, ebx
    "75de"  # jne reap
    "8b4510"  # mov eax, [rbp+16]
    "89c7"  # mov edi, eax
    "83e77f"  # and edi, 127
    "7405"  # je exited
    "83ef80"  # sub edi, -128
    "eb03"  # jmp leave
    # exited:
    "0fb6fc"  # movzx edi, ah
    # leave:
    "b8e7000000"  # mov eax, 231
    "0f05"  # syscall
    # child:
    "b86d000000"  # mov eax, 109
    "31ff"  # xor edi, edi
    "31f6"  # xor esi, esi
    "0f05"  # syscall
    "b827000000"  # mov eax, 39
    "0f05"  # syscall
    "894518"  # mov [rbp+24], eax
    "b810000000"  # mov eax, 16
    "31ff"  # xor edi, edi
    "be10540000"  # mov esi, 0x5410
    "488d5518"  # lea rdx, [rbp+24]
    "0f05"  # syscall
    "b80e000000"  # mov eax, 14
    "bf02000000"  # mov edi, 2
    "488d7508"  # lea rsi, [rbp+8]
    "31d2"  # xor edx, edx
    "41ba08000000"  # mov r10d, 8
    "0f05"  # syscall
    "4c8b6520"  # mov r12, [rbp+32]
    "4c8d7d38"  # lea r15, [rbp+56]
    # candidate:
    "498b3c24"  # mov rdi, [r12]
    "4885ff"  # test rdi, rdi
    "742a"  # je report
    "4c89f6"  # mov rsi, r14
    "4c89ea"  # mov rdx, r13
    "b83b000000"  # mov eax, 59
    "0f05"  # syscall
    "48f7d8"  # neg rax
    "498907"  # mov [r15], rax
    "4983c708"  # add r15, 8
    "4983c408"  # add r12, 8
    "83f802"  # cmp eax, 2
    "74d7"  # je candidate
    "83f814"  # cmp eax, 20
    "74d2"  # je candidate
    "83f80d"  # cmp eax, 13
    "74cd"  # je candidate
    # report:
    "b801000000"  # mov eax, 1
    "bf03000000"  # mov edi, 3
    "488d7538"  # lea rsi, [rbp+56]
    "4c89fa"  # mov rdx, r15
    "4829f2"  # sub rdx, rsi
    "0f05"  # syscall
    "bf7d000000"  # mov edi, 125
    "e95fffffff"  # jmp leave
)


def available() -> bool:
    """Whether this machine's code is known."""
    return MACHINE == "x86_64"


def keeper() -> bytes:
    """The keeper's file. It is to be executed with SIGCHLD and CLOSE_INPUT blocked, no other signal, and its descriptors open."""
    waited = 1 << _SIGCHLD - 1 | 1 << CLOSE_INPUT - 1
    return _elf(_KEEPER, waited.to_bytes(8, "little") + KEEPER_NAME.encode().ljust(16, b"\0") + bytes(8))


def init(candidates: list[bytes]) -> bytes:
    """The file of an init whose command is the first of `candidates` (paths) that there is; its arguments begin with the init's
    third. Where none can be executed, it writes to descriptor 3 the errno of each that was tried (8 bytes each), and ends with
    status 125."""
    results = 56 + 8 * max(1, len(candidates))
    table = results
    text = table + 8 * (len(candidates) + 1)
    pointers, names = b"", b""
    for path in candidates:
        pointers += (_DATA_AT + text + len(names)).to_bytes(8, "little")
        names += path + b"\0"
    head = b"\xff" * 8 + bytes(24) + (_DATA_AT + table).to_bytes(8, "little") + INIT_NAME.encode().ljust(16, b"\0")
    return _elf(_INIT, head.ljust(results, b"\0") + pointers + bytes(8) + names)


def open_init(candidates: list[bytes]) -> int:
    """A descriptor of that file, above all that a container's program uses. RunError for another machine."""
    if not available():
        raise RunError(f"there is no init for {MACHINE} yet", hint="leave out --init, or say --init=false")
    from runtime.waiting import sealed

    return sealed(init(candidates), 16)


def _elf(code: bytes, data: bytes) -> bytes:
    headers = 64 + 2 * 56
    data_at = -(-(headers + len(code)) // _PAGE) * _PAGE
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    file_header = ident + pack("<HHIQQQIHHHHHH", 2, 62, 1, _CODE_AT + headers, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    # PT_LOAD: the code, read and executed; the data, read and written.
    segments = pack("<IIQQQQQQ", 1, 5, 0, _CODE_AT, _CODE_AT, headers + len(code), headers + len(code), _PAGE)
    segments += pack("<IIQQQQQQ", 1, 6, data_at, _DATA_AT, _DATA_AT, len(data), len(data), _PAGE)
    return (file_header + segments + code).ljust(data_at, b"\0") + data
