"""Device rules on cgroup v2: an eBPF program that the kernel runs for each opening and making of a device.

The program is assembled here, a few instructions an exception, and attached beside others (BPF_F_ALLOW_MULTI: all of them have to
agree); an update replaces it. Sources: linux/bpf.h (struct bpf_cgroup_dev_ctx, union bpf_attr), bpf(2),
Documentation/bpf/standardization/instruction-set.rst.
"""

import posix as os
from _struct import pack, unpack, unpack_from

from runtime.device_rules import ANY, MKNOD, READ, WRITE, DeviceRules
from store.syscalls import MACHINE, address_of, buffer, libc, syscall

_BPF = {"x86_64": 321}.get(MACHINE, 280)
_PROG_LOAD, _PROG_ATTACH, _PROG_DETACH, _PROG_GET_FD_BY_ID, _PROG_QUERY = 5, 8, 9, 13, 16
_TYPE_CGROUP_DEVICE, _ATTACH_DEVICE = 15, 6
_ALLOW_MULTI, _REPLACE = 2, 4
_MOST = 64  # programs on one group, as the kernel limits them
_LICENSE = b"Apache-2.0\0"

_TYPES = {"b": 1, "c": 2}  # BPF_DEVCG_DEV_*
_EVERY = READ | WRITE | MKNOD
# Opcodes: BPF_LDX|MEM|W, BPF_ALU|MOV|X, |MOV|K, |AND|K, |RSH|K, BPF_JMP32|JNE|K, BPF_JMP32|JSET|K, BPF_JMP|JA, BPF_JMP|EXIT
_LOAD, _COPY, _SET, _AND, _SHIFT, _UNEQUAL, _ANY_BIT, _JUMP, _EXIT = 0x61, 0xBC, 0xB4, 0x54, 0x74, 0x56, 0x46, 0x05, 0x95
_KIND, _ACCESS, _MAJOR, _MINOR = 2, 3, 4, 5  # registers


def assemble(rules: DeviceRules) -> bytes:
    """The program: 1 in r0 allows, 0 denies.

    An exception to deny has to grant all that is asked for by itself; an exception to allow denies if it has any of it: as in v1.
    """
    code = [
        _instruction(_LOAD, _KIND, source=1, offset=0),  # access_type: the kind in the lower half, the access in the upper
        _instruction(_COPY, _ACCESS, source=_KIND),
        _instruction(_AND, _KIND, value=0xFFFF),
        _instruction(_SHIFT, _ACCESS, value=16),
        _instruction(_LOAD, _MAJOR, source=1, offset=4),
        _instruction(_LOAD, _MINOR, source=1, offset=8),
    ]
    for (kind, major, minor), access in rules.exceptions.items():
        tests = [(_UNEQUAL, _KIND, _TYPES[kind])]
        if major != ANY:
            tests.append((_UNEQUAL, _MAJOR, major))
        if minor != ANY:
            tests.append((_UNEQUAL, _MINOR, minor))
        if not rules.allowing and access != _EVERY:
            tests.append((_ANY_BIT, _ACCESS, _EVERY & ~access))
        hit = [*_answer(not rules.allowing)]
        if rules.allowing and access != _EVERY:
            hit = [_instruction(_ANY_BIT, _ACCESS, offset=1, value=access), _instruction(_JUMP, 0, offset=2), *hit]
        beyond = len(hit)  # from the last test to the next exception
        for place, (opcode, register, value) in enumerate(tests):
            code.append(_instruction(opcode, register, offset=len(tests) - 1 - place + beyond, value=value))
        code += hit
    code += _answer(rules.allowing)
    return b"".join(code)


def _instruction(opcode: int, register: int, *, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    return pack("<BBhI", opcode, register | source << 4, offset, value)


def _answer(allow: bool) -> list[bytes]:
    return [_instruction(_SET, 0, value=int(allow)), _instruction(_EXIT, 0)]


def attach(group: int, rules: DeviceRules) -> None:
    """Let `rules` hold in the group whose directory is the descriptor `group`, instead of what was attached to it before.

    There is no moment without a program. Raises OSError.
    """
    former = attached(group)
    program = _load(assemble(rules))
    try:
        if len(former) == 1:
            held = _by_id(former[0])
            try:
                _call("bpf(PROG_ATTACH)", _PROG_ATTACH, "<5I", group, program, _ATTACH_DEVICE, _ALLOW_MULTI | _REPLACE, held)
            finally:
                os.close(held)
            return
        _call("bpf(PROG_ATTACH)", _PROG_ATTACH, "<5I", group, program, _ATTACH_DEVICE, _ALLOW_MULTI, 0)
    finally:
        os.close(program)
    for identity in former:
        held = _by_id(identity)
        try:
            _call("bpf(PROG_DETACH)", _PROG_DETACH, "<3I", group, held, _ATTACH_DEVICE)
        finally:
            os.close(held)


def attached(group: int) -> list[int]:
    """The ids of the device programs attached to the group itself."""
    identities, identities_at = buffer(4 * _MOST)
    head = pack("<4IQII", group, _ATTACH_DEVICE, 0, 0, identities_at, _MOST, 0)
    attributes, at = buffer(len(head))
    libc("memcpy", at, head, len(head))
    syscall("bpf(PROG_QUERY)", _BPF, _PROG_QUERY, attributes, len(head))
    (count,) = unpack_from("<I", attributes, 24)
    return list(unpack(f"<{_MOST}I", identities)[:count])


def _load(code: bytes) -> int:
    attributes = pack(
        "<IIQQIIQII16sII", _TYPE_CGROUP_DEVICE, len(code) // 8, address_of(code), address_of(_LICENSE),
        0, 0, 0, 0, 0, b"box_devices", 0, _ATTACH_DEVICE,
    )  # fmt: skip
    return syscall("bpf(PROG_LOAD)", _BPF, _PROG_LOAD, attributes, len(attributes))


def _by_id(identity: int) -> int:
    return _call("bpf(PROG_GET_FD_BY_ID)", _PROG_GET_FD_BY_ID, "<3I", identity, 0, 0)


def _call(name: str, command: int, layout: str, *values: int) -> int:
    attributes = pack(layout, *values)
    return syscall(name, _BPF, command, attributes, len(attributes))
