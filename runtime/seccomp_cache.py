"""The compiled system call filters, kept in the store by what they depend on. Hot: `box run` imports it.

A filter depends on the profile, the machine and those of the container's capabilities that open a gate in the profile. The file
is derived data, never synced: it says by itself whether it is whole, and one that is not is compiled again.
"""

import posix as os

from store.errors import RunError
from store.syscalls import MACHINE, exists

# seccomp_profile.digest(): a test holds it to the tables.
PROFILE = "1bed22424ca8235c"
# The capabilities that the profile asks for; the others make no difference to the filter.
GATES = 0xC406FF0004

_MAGIC = b"boxbpf1\n"
_PRIME = (1 << 61) - 1
_LARGEST = 8 * 4096  # BPF_MAXINSNS


def filter_bytes(root: str, capability_mask: int) -> bytes:
    """The filter of the default profile for a container with these capabilities: a program of 8-byte instructions.

    `root` is the store's. Called before the container's root is entered: without a kept file it imports the compiler.
    """
    gates = capability_mask & GATES
    directory = f"{root}/prepared"
    path = f"{directory}/seccomp-{PROFILE}-{gates:x}-{MACHINE}.bpf"
    return kept_body(path) or _compile(directory, path, gates)


def kept_body(path: str) -> bytes:
    """What a kept file holds; nothing if it is not there or not whole (power may have failed before its blocks were written)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return b""
    try:
        data = os.read(fd, _LARGEST + 25)
    finally:
        os.close(fd)
    body = data[16:]
    if len(body) % 8 or data[:16] != _header(body):
        return b""
    return body


def _header(body: bytes) -> bytes:
    # A remainder by a Mersenne prime finds every accident and needs no import; nobody but root can write here on purpose. The 1
    # on top makes zeros at the end count.
    return _MAGIC + (int.from_bytes(body + b"\1", "little") % _PRIME).to_bytes(8, "little")


def _compile(directory: str, path: str, gates: int) -> bytes:
    from runtime.seccomp import assemble, machines
    from runtime.seccomp_profile import default

    if MACHINE not in machines():
        raise RunError(f"box has no system call filter for {MACHINE}", hint="--security-opt seccomp=unconfined runs without one")
    program = assemble(default(gates), MACHINE)
    keep_body(directory, path, program)
    return program


def keep_body(directory: str, path: str, body: bytes) -> None:
    """Make the file appear whole under its name, or not at all. Where that fails, the next run compiles again: nothing worse."""
    data = _header(body) + body
    try:
        if not exists(directory):
            os.mkdir(directory, 0o700)
        fd = os.open(directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError:
        return
    try:
        if os.write(fd, data) == len(data):
            if exists(path):
                os.unlink(path)  # it is damaged
            os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)
    except OSError:
        return  # the disk is full, or another box was faster with the same bytes
    finally:
        os.close(fd)
