"""Copies that share their blocks with what they are copies of, where the file system can do that: ioctl_ficlone(2)."""

import errno
import fcntl

_FICLONE = 0x40049409
_CANNOT = frozenset({errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.EPERM, errno.ENOSYS})


def clones(source: int, target: int) -> bool:
    """Make the empty file open as `target` a clone of `source`; False when the file system cannot."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as err:
        if err.errno in _CANNOT:
            return False
        raise
    return True
