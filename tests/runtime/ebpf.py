"""The few instructions of eBPF that a device filter is made of, run on paper; anything else is an
error."""

import struct

_MASK = (1 << 32) - 1


def run(program: bytes, kind: int, access: int, major: int, minor: int) -> int:
    """What the program answers (1: allowed) for a device of `kind` (1 block, 2 character)."""
    context = struct.pack("<III", kind | access << 16, major, minor)
    instructions = list(struct.iter_unpack("<BBhI", program))
    registers: dict[int, int] = {}
    at = 0
    while True:
        opcode, both, offset, value = instructions[at]
        target, source = both & 15, both >> 4
        at += 1
        if opcode == 0x61:  # LDX MEM W
            assert source == 1 and 0 <= offset <= 8 and offset % 4 == 0
            registers[target] = struct.unpack_from("<I", context, offset)[0]
        elif opcode == 0xBC:  # MOV32 X
            registers[target] = registers[source]
        elif opcode == 0xB4:  # MOV32 K
            registers[target] = value
        elif opcode == 0x54:  # AND32 K
            registers[target] &= value
        elif opcode == 0x74:  # RSH32 K
            registers[target] = (registers[target] & _MASK) >> value
        elif opcode == 0x56:  # JNE32 K
            at += offset if registers[target] != value else 0
        elif opcode == 0x46:  # JSET32 K
            at += offset if registers[target] & value else 0
        elif opcode == 0x05:  # JA
            at += offset
        elif opcode == 0x95:  # EXIT
            return registers[0]
        else:
            raise AssertionError(f"instruction {opcode:#x}")
