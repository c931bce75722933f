"""The kernel calls of a container's life: namespaces, processes, hostname, terminals. Hot.

Numbers are those of linux/sched.h, linux/prctl.h, asm/unistd.h; calls from 424 on are numbered alike everywhere.
"""

from store.syscalls import libc, syscall, syscall_keeping_the_lock

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWTIME = 0x10000000, 0x20000000, 0x40000000, 0x80
CLONE_INTO_CGROUP, CLONE_PARENT = 0x200000000, 0x8000

PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4
SIGKILL, SIGCHLD = 9, 17

_CLONE3, _PIDFD_OPEN, _PIDFD_SEND_SIGNAL, _CLOSE_RANGE, _PIDFD_GETFD = 435, 434, 424, 436, 438


def clone(namespaces: int, cgroup: int | None = None) -> int:
    """clone3(2) as a fork into new `namespaces` (CLONE_NEW*) and, on cgroup v2, into the group whose directory is `cgroup`.

    Returns the child's pid, and 0 in the child. The child is a copy of a process that should have one thread, and it must end in
    execve or `os._exit`: none of Python's after-fork work is done.
    """
    arguments = clone_arguments(namespaces, cgroup)
    return syscall_keeping_the_lock("clone3", _CLONE3, arguments, len(arguments))


def clone_arguments(flags: int, cgroup: int | None, child_tid: int = 0) -> bytes:
    """struct clone_args of a child with CLONE_* `flags`, which reports by SIGCHLD (with CLONE_PARENT, as this
    process does), in the group whose directory is `cgroup`;
    `child_tid` is the address that CLONE_CHILD_CLEARTID means."""
    flags |= CLONE_INTO_CGROUP if cgroup is not None else 0
    words = (flags, 0, child_tid, 0, 0 if flags & CLONE_PARENT else SIGCHLD, 0, 0, 0, 0, 0, cgroup or 0)
    return b"".join([word.to_bytes(8, "little") for word in words])


def setns(fd: int, namespaces: int) -> None:
    """setns(2): join the namespaces of the process (a pidfd, Linux 5.8) or the one namespace that `fd` stands for."""
    libc("setns", fd, namespaces)


def pidfd_open(pid: int) -> int:
    """pidfd_open(2): a handle that can never come to mean another process."""
    return syscall("pidfd_open", _PIDFD_OPEN, pid, 0)


def pidfd_send_signal(pidfd: int, number: int) -> None:
    """pidfd_send_signal(2)."""
    syscall("pidfd_send_signal", _PIDFD_SEND_SIGNAL, pidfd, number, None, 0)


def pidfd_getfd(pidfd: int, number: int) -> int:
    """pidfd_getfd(2): a descriptor of our own of what the process has open as `number`."""
    return syscall("pidfd_getfd", _PIDFD_GETFD, pidfd, number, 0)


def ended(pidfd: int) -> bool:
    """Whether the process behind it has ended."""
    from select import POLLIN, poll

    waiting = poll()
    waiting.register(pidfd, POLLIN)
    return bool(waiting.poll(0))


def close_from(first: int) -> None:
    """close_range(2): close every descriptor from `first` on."""
    syscall("close_range", _CLOSE_RANGE, first, 0xFFFFFFFF, 0)
