"""What EROFS has on disk, as far as box writes it: the kernel's fs/erofs/erofs_fs.h and Documentation/filesystems/erofs.rst.

An index is the metadata alone. Its blocks are 512 bytes, so that a file's content can be where it lies in a layer's tar: tars are
the file system's extra devices, mapped one after another into one space of block addresses, the index itself at its beginning.

    0      nothing
    1024   the superblock, 128 bytes
    1152   a slot of 128 bytes for each device
    ...    inodes, 64 bytes each, with their extended attributes and symlinks' targets behind them; the root's is the first
    ...    directories, targets that are too long to stand there: whole blocks
    last   sha256 of all before it, 32 bytes, which the kernel does not know of
"""

from __future__ import annotations

import stat
from struct import Struct

from store.record import Record

BLOCK = 512
BLOCK_BITS = 9
MAGIC = 0xE0F5E1E2
SUPERBLOCK_AT = 1024
DEVICES_AT = 1152
DEVICE_TABLE = 0x8  # feature_incompat
PLAIN, INLINE = 1, 5  # i_format of an extended inode, its data in blocks of its own or behind it
SLOT = 32  # of the space of inodes: a nid is a place in it, divided by this
INODE_SIZE = 64
DIGEST_SIZE = 32
FIRST_BLOCK = 1 << 24  # where devices begin in the space of addresses: behind the largest index that there can be (8 GiB)
LAST_BLOCK = (1 << 32) - 2  # an address has 32 bits, and all ones mean none

# magic, checksum, feature_compat, blkszbits, extension slots, root_nid, inos, build time and ns, blocks, meta_blkaddr,
# xattr_blkaddr, uuid, volume name, feature_incompat, compression, extra_devices, devt_slotoff, dirblkbits, xattr prefixes (2),
# packed_nid, xattr filter
SUPERBLOCK = Struct("<IIIBBHQQIIII16s16sIHHHBBIQB23x")
# tag, blocks, mapped_blkaddr
DEVICE = Struct("<64sII56x")
# i_format, i_xattr_icount, i_mode, i_nb, i_size, i_u, i_ino, i_uid, i_gid, i_mtime, i_mtime_nsec, i_nlink
INODE = Struct("<HHHHQIIIIqII16x")
# nid, nameoff, file_type, reserved
DIRENT = Struct("<QHBB")
DIRENT_SIZE = 12
XATTR_HEADER = Struct("<IB7x")
XATTR_HEADER_SIZE = 12
XATTR_ENTRY = Struct("<BBH")

# Their order matters: a name is matched with the first that fits.
XATTR_PREFIXES: tuple[tuple[bytes, int], ...] = (
    (b"system.posix_acl_access", 2), (b"system.posix_acl_default", 3), (b"user.", 1), (b"trusted.", 4), (b"security.", 6),
)  # fmt: skip

FILE_TYPES = {
    stat.S_IFREG: 1, stat.S_IFDIR: 2, stat.S_IFCHR: 3, stat.S_IFBLK: 4, stat.S_IFIFO: 5, stat.S_IFSOCK: 6, stat.S_IFLNK: 7,
}  # fmt: skip

TAR, ASIDE = b"tar:", b"box:"  # what a device's tag begins with


class Device(Record):
    """What an index maps content from: a layer's tar (`TAR` and its diff_id in 32 bytes), or what one layer's tar could not give
    (`ASIDE` and the chain id). `blocks` is its size, `mapped` its place in the space of addresses, both in blocks."""

    tag: bytes
    blocks: int
    mapped: int
