"""Loop devices that last as long as somebody uses them: loop(4). For kernels and places where EROFS takes no files."""

import fcntl
import os

from store.errors import StoreError

_CTL_GET_FREE = 0x4C82
_CONFIGURE = 0x4C0A  # Linux 5.8
_READ_ONLY, _AUTOCLEAR = 1, 4
_CONFIG_SIZE = 8 + 232 + 64  # struct loop_config: fd, block_size; struct loop_info64; reserved
_FLAGS_AT = 8 + 52
_TRIES = 64


def attach(descriptor: int) -> int:
    """A descriptor of a read-only loop device over the open file; the device is free again when nobody has it open or mounted.

    OSError when the kernel has no loop devices, StoreError when others take every free one first.
    """
    config = bytearray(_CONFIG_SIZE)
    config[0:4] = descriptor.to_bytes(4, "little")
    config[4:8] = (512).to_bytes(4, "little")
    config[_FLAGS_AT : _FLAGS_AT + 4] = (_READ_ONLY | _AUTOCLEAR).to_bytes(4, "little")
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_TRIES):
            number = fcntl.ioctl(control, _CTL_GET_FREE)
            device = os.open(f"/dev/loop{number}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, _CONFIGURE, bytes(config))
            except OSError as err:
                os.close(device)
                if err.errno != 16:  # EBUSY: somebody else took it between the two calls
                    raise
            else:
                return device
    finally:
        os.close(control)
    raise StoreError("no loop device stays free long enough to be taken", hint="try again, or use --driver overlay")
