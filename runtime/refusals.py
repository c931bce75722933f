"""What the kernel says of system calls that a filter refused, for "why did it die?". Imported only when something ended badly.

What there is to know, measured on Linux 6.18:

- A process that its filter killed ends by SIGSYS, as does one that a trap killed. Until it is reaped its /proc/PID/status tells
  the two apart: `Seccomp: 3` is "dead by the filter", 2 is a process that had a filter.
- The kernel's log has a line (audit type 1326) for every kill and every SCMP_ACT_LOG, with the pid, the call's number and its
  architecture; for an errno and a trap only of filters installed with SECCOMP_FILTER_FLAG_LOG, and for a trap's SIGSYS nothing.
  With an audit daemon the lines go there instead. Without it they are at most some ten in five seconds (printk_ratelimit).
- siginfo of the parent says SIGSYS and nothing of the call; /proc/PID/syscall of a zombie is empty.

So a kill is told with its call, and a refusal with an errno only where somebody asked for the flag: it costs a line in the log of
the whole machine for every refused call.

Sources: kernel/auditsc.c (audit_seccomp), Documentation/ABI/testing/dev-kmsg.
"""

import posix as os

from runtime.seccomp import ARCHITECTURES, X32_BIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from runtime.seccomp_policy import Policy

KILLED, HAD_FILTER = 3, 2
_SIGSYS = 31
_RECORD = 8192  # CONSOLE_EXT_LOG_MAX


class Refusal:
    """A line of the log: process `pid` (as the host counts) of the program `command` made call `number` of `way`, at `time`.

    `action` is SECCOMP_RET_* without an errno; `signal` is what the process died of, or 0.
    """

    __slots__ = ("action", "command", "number", "pid", "signal", "time", "way")

    def __init__(self, pid: int, command: str, way: str, number: int, action: int, signal: int, time: float) -> None:
        self.pid = pid
        self.command = command
        self.way = way
        self.number = number
        self.action = action
        self.signal = signal
        self.time = time

    @property
    def name(self) -> str:
        """The call's name, with its way where that is not this machine's own; a number without a name as it is."""
        from runtime.syscall_tables import NUMBERS

        numbers = NUMBERS.get(self.way, {})
        name = next((name for name, number in numbers.items() if number == self.number), f"system call {self.number}")
        return name if self.way in ("x86_64", "aarch64") else f"{name} ({self.way})"


def state_of(pid: int) -> int:
    """KILLED, HAD_FILTER or 0, of a process that has not been reaped; -1 where there is none."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            for line in file:
                if line.startswith(b"Seccomp:"):
                    return int(line.split()[1])
    except OSError:
        return -1
    return 0


def refusals(since: float, pids: "Iterable[int] | None" = None) -> "list[Refusal]":
    """What filters refused from `since` on (seconds of the epoch), by processes of `pids` or by any; the oldest first.

    Empty where the log cannot be read: not root, no audit in the kernel, a daemon that takes the lines.
    """
    try:
        log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    wanted = None if pids is None else set(pids)
    found = []
    try:
        while True:
            try:
                record = os.read(log, _RECORD)
            except BrokenPipeError:
                continue  # overwritten meanwhile: the next read is of the oldest there is
            except OSError:
                break  # EAGAIN: that was all
            refusal = parse(record)
            if refusal and refusal.time >= since and (wanted is None or refusal.pid in wanted):
                found.append(refusal)
    finally:
        os.close(log)
    return found


def parse(record: bytes) -> "Refusal | None":
    """One record of /dev/kmsg, if it is one of these and the kernel's own."""
    head, separator, body = record.partition(b";")
    priority = head.partition(b",")[0]
    # A process that writes to /dev/kmsg is given another facility than the kernel's, which is 0.
    if not separator or not priority.isdigit() or int(priority) > 7 or not body.startswith(b"audit: type=1326 audit("):
        return None
    stamp, _, rest = body.partition(b"audit(")[2].partition(b")")
    fields = dict(word.split(b"=", 1) for word in rest.split(b"\n")[0].split() if b"=" in word)
    try:
        number = int(fields[b"syscall"])
        way = _way(int(fields[b"arch"], 16), number)
        return Refusal(
            int(fields[b"pid"]), _untrusted(fields[b"comm"]), way, number,
            int(fields[b"code"], 16) & 0xFFFF0000, int(fields[b"sig"]), float(stamp.partition(b":")[0]),
        )  # fmt: skip
    except (KeyError, ValueError):
        return None


def explained(refusal: Refusal, policy: "Policy | None" = None, machine: str = "") -> str:
    """A clause for the user: what was called and what forbids it; with a profile, which of its lines."""
    from runtime.seccomp_oci import explain

    done = "was killed for" if refusal.signal == _SIGSYS else "was refused"
    said = f"{refusal.command} {done} {refusal.name} by its system call filter"
    if policy is None:
        return said
    verdict = explain(policy, machine, refusal.way, refusal.number)
    return f"{said} ({verdict.why})" if verdict.why else said  # the log has no arguments


def _way(architecture: int, number: int) -> str:
    if architecture == ARCHITECTURES["x86_64"] and number & X32_BIT:
        return "x32"
    return next((name for name, value in ARCHITECTURES.items() if value == architecture), f"architecture {architecture:#x}")


def _untrusted(value: bytes) -> str:
    """A name as audit writes it: in quotes, or in hexadecimal where it holds what could deceive."""
    if value[:1] == b'"':
        return value.strip(b'"').decode("ascii", "replace")
    text = bytes.fromhex(value.decode("ascii")).decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "?" for character in text)
