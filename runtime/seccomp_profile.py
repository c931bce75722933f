"""The default system call filter, as data: docker's list, less what a container has no use for.

A call is allowed, allowed under conditions, refused with EPERM (known, and here without a rule), or answered with ENOSYS (a
number that the tables do not have, so that a program tries the older call). Beyond docker's list: no vmsplice (writes to pipes
that others share), no statmount and listmount (tell of mounts outside), no memfd_secret (memory that nobody can inspect); never
TIOCSTI and TIOCLINUX (type on the caller's terminal), AF_ALG and AF_VSOCK (kernel attack surface; the hypervisor's sockets are
not separated by namespaces).
"""

from runtime.capabilities import mask_of
from runtime.seccomp import ALLOW, Compare, Profile, Rule, assemble, errno, machines

EPERM, ENOSYS = 1, 38

_FILES = """
    access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64 fallocate fchdir
    fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstatfs
    fsync ftruncate futimesat getcwd getdents getdents64 getxattr getxattrat lchown lgetxattr link linkat listxattr listxattrat
    llistxattr lremovexattr lseek lsetxattr lstat mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat openat2
    pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv removexattr removexattrat rename
    renameat renameat2 rmdir sendfile setxattr setxattrat splice stat statfs statx symlink symlinkat sync sync_file_range syncfs
    tee truncate umask unlink unlinkat utime utimensat utimes write writev
"""
_EVENTS = """
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2
    fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents
    io_setup io_submit pipe pipe2 poll ppoll pselect6 select signalfd signalfd4
"""
_MEMORY = """
    brk cachestat madvise map_shadow_stack membarrier memfd_create mincore mlock mlock2 mlockall mmap mprotect mremap mseal msync
    munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect remap_file_pages
"""
_PROCESSES = """
    capget capset execve execveat exit exit_group fork get_robust_list get_thread_area getcpu getegid geteuid getgid getgroups
    getpgid getpgrp getpid getppid getpriority getresgid getresuid getrlimit getrusage getsid gettid getuid ioprio_get
    ioprio_set kill landlock_add_rule landlock_create_ruleset landlock_restrict_self pidfd_open pidfd_send_signal prctl
    prlimit64 process_mrelease process_vm_readv process_vm_writev ptrace restart_syscall rseq rt_sigaction rt_sigpending
    rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max
    sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
    sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp set_robust_list set_thread_area
    set_tid_address setfsgid setfsuid setgid setgroups setpgid setpriority setregid setresgid setresuid setreuid setrlimit
    setsid setuid sigaltstack sysinfo tgkill tkill uname uretprobe vfork wait4 waitid
"""
_SHARING = """
    futex futex_requeue futex_wait futex_waitv futex_wake mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink
    msgctl msgget msgrcv msgsnd semctl semget semop semtimedop shmat shmctl shmdt shmget
"""
_SOCKETS = """
    accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg sendmmsg sendmsg sendto
    setsockopt shutdown socketpair
"""
_TIME = """
    adjtimex alarm clock_adjtime clock_getres clock_gettime clock_nanosleep getitimer getrandom gettimeofday nanosleep pause
    setitimer time timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime
    timerfd_settime times
"""
_X86 = "arch_prctl modify_ldt"

ALLOWED = frozenset(" ".join((_FILES, _EVENTS, _MEMORY, _PROCESSES, _SHARING, _SOCKETS, _TIME, _X86)).split())

# Allowed where the container has the capability: the kernel asks for it in most of them, and then asks again.
WITH_CAPABILITY = {
    "DAC_READ_SEARCH": "open_by_handle_at",
    "SYS_ADMIN": """
        bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr lsm_list_modules
        lsm_set_self_attr mount mount_setattr move_mount open_tree open_tree_attr perf_event_open quotactl quotactl_fd
        setdomainname sethostname setns syslog umount2 unshare
    """,
    "SYS_BOOT": "reboot",
    "SYS_CHROOT": "chroot",
    "SYS_MODULE": "delete_module finit_module init_module",
    "SYS_PACCT": "acct",
    "SYS_PTRACE": "kcmp pidfd_getfd process_madvise",
    "SYS_RAWIO": "ioperm iopl",
    "SYS_TIME": "clock_settime settimeofday",
    "SYS_TTY_CONFIG": "vhangup",
    "SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "SYSLOG": "syslog",
    "BPF": "bpf",
    "PERFMON": "perf_event_open",
}
GATES = mask_of(WITH_CAPABILITY)

# Known, and yet answered as if they were not: EPERM would end a program that has another way. glibc falls back from clone3,
# whose flags lie in memory where no filter can look, to clone, whose flags it can; the last two are ioctls in a new form.
FALLING_BACK = ("clone3", "file_getattr", "file_setattr")

_CLONE_NEW = 0x7E020000  # mount, cgroup, UTS, IPC, user, PID and network namespaces; clone(2) cannot ask for a time namespace
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_AF_ALG, _AF_VSOCK = 38, 40
# PER_LINUX, PER_LINUX32, each also with UNAME26, and the question for the present one.
_PERSONALITIES = (0, 8, 0x20000, 0x20008, 0xFFFFFFFF)
# The kernel takes these arguments as 32-bit numbers, so the upper half is noise that must not lead past the filter.
_INT = 0xFFFFFFFF


def default(capability_mask: int) -> Profile:
    """The profile for a container with these capabilities; only those in GATES make a difference."""
    rules: dict[str, tuple[Rule, ...]] = {name: (Rule(errno(ENOSYS)),) for name in FALLING_BACK}
    rules["clone"] = (Rule(ALLOW, Compare(0, "==", 0, mask=_CLONE_NEW)),)
    rules["ioctl"] = (
        Rule(errno(EPERM), Compare(1, "==", _TIOCSTI, mask=_INT)),
        Rule(errno(EPERM), Compare(1, "==", _TIOCLINUX, mask=_INT)),
        Rule(ALLOW),
    )
    rules["personality"] = tuple(Rule(ALLOW, Compare(0, "==", value, mask=_INT)) for value in _PERSONALITIES)
    rules["socket"] = (
        Rule(errno(EPERM), Compare(0, "==", _AF_ALG, mask=_INT)),
        Rule(errno(EPERM), Compare(0, "==", _AF_VSOCK, mask=_INT)),
        Rule(ALLOW),
    )
    allowed = set(ALLOWED)
    for capability, names in WITH_CAPABILITY.items():
        if capability_mask & mask_of((capability,)):
            allowed.update(names.split())
    rules.update((name, (Rule(ALLOW),)) for name in allowed)
    return Profile(rules, refused=errno(EPERM), unknown=errno(ENOSYS), foreign=errno(ENOSYS))


def digest() -> str:
    """What seccomp_cache.PROFILE has to be: it changes with every filter that these tables and the compiler make."""
    import hashlib

    masks = [0, GATES] + [mask_of((name,)) for name in WITH_CAPABILITY]
    filters = b"".join(assemble(default(mask), machine) for machine in sorted(machines()) for mask in masks)
    return hashlib.sha256(filters).hexdigest()[:16]
