"""The one process that looks after all containers in the background of a store.

It starts with the first and leaves with the last. Whoever starts a container (runtime.detached) hands it over at the socket
`monitor/socket`, which only the store's owner can reach; `monitor/lock` is flocked as long as it lives. Every container has a
keeper (runtime.stubs), which holds what the monitor needs: when the monitor is killed, containers live on, and the next command
starts another, which takes over. It reads nothing of an image: what has to (a restart, a health check) is done by a child of its
own. One thread; each turn serves each descriptor that is ready once, and no turn waits for anybody.
"""

import os
import select
import time
from _socket import AF_UNIX, SCM_RIGHTS, SOCK_SEQPACKET, SOL_SOCKET, socket
from fcntl import LOCK_EX, LOCK_NB, flock

from runtime import linux, stubs
from runtime.charge import Charge
from runtime.clients import Client
from runtime.journal import Journal
from runtime.monitoring import ACCEPTED, MESSAGE, SOCKET, born, connect, lock_path, open_directory
from runtime.records import read
from runtime.restarts import pause, start_again
from store.syscalls import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Handler = Callable[[int], None]

_GRACE = 2.0  # seconds from its start within which the first container is handed over
_BUSY = 0.1  # seconds without new connections when too many files are open
_PR_SET_NAME = 15
_ANCILLARY = 256  # bytes, for the descriptors that come with one message
_CMSG_CLOEXEC = 0x40000000
_INT = 4
_ORDER = (stubs.DIRECTORY, stubs.STATUS, stubs.OUTPUT, stubs.ERRORS, stubs.INPUT)


class Monitor:
    """Looks after the containers of the store at `root`; `run` returns when there are none."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.watch = select.epoll()
        self.handlers: dict[int, tuple[Handler, Charge | None]] = {}
        self.timers: list[tuple[float, Callable[[], None], Charge | None]] = []
        self.charges: dict[str, Charge] = {}
        self.visitors: set[socket] = set()
        self.children: set[int] = set()
        self.pauses: dict[str, float] = {}  # of those that are started again and again
        self.returning: set[str] = set()
        self.listener: socket | None = None
        self.leaving = False
        self.files = _raise_file_limit()

    def run(self) -> None:
        """Look after them to the end of the last."""
        self._adopt()
        self._listen()
        self.later(_GRACE, self.leave_if_done)
        while not self.leaving:
            self._turn()
        self._unlisten()

    # --- the loop -----------------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        patience = -1.0
        if self.timers:
            patience = max(0.0, min(when for when, _, _ in self.timers) - time.monotonic())
        for fd, events in self.watch.poll(patience):
            found = self.handlers.get(fd)
            if found is not None:
                handler, owner = found
                self._guarded(lambda handler=handler, events=events: handler(events), owner)  # type: ignore[misc]
        now = time.monotonic()
        due = [timer for timer in self.timers if timer[0] <= now]
        if due:
            self.timers = [timer for timer in self.timers if timer[0] > now]
            for _, action, owner in due:
                self._guarded(action, owner)

    def _guarded(self, action: "Callable[[], None]", owner: Charge | None) -> None:
        """Do it; what it raises is the affair of its container alone."""
        try:
            action()
        except Exception as err:
            if owner is None:
                return
            try:
                owner.fail(err)
            except Exception:  # not even that, with its disk full, say: the next command clears up
                self.charges.pop(owner.id, None)

    def on(self, fd: int, events: int, handler: "Handler", owner: Charge | None = None) -> None:
        """Have `handler` called with what of `events` happens to `fd`; a former handler is replaced."""
        if fd in self.handlers:
            self.watch.modify(fd, events)
        else:
            self.watch.register(fd, events)
        self.handlers[fd] = (handler, owner)

    def off(self, fd: int) -> None:
        """Look at `fd` no more."""
        if self.handlers.pop(fd, None) is not None:
            self.watch.unregister(fd)

    def later(self, seconds: float, action: "Callable[[], None]", owner: Charge | None = None) -> None:
        """Have it done in so many seconds."""
        self.timers.append((time.monotonic() + seconds, action, owner))

    def task(
        self,
        action: "Callable[[], int | None]",
        done: "Callable[[int], None]",
        kept: tuple[int, ...] = (),
        owner: Charge | None = None,
    ) -> int:
        """Have `action` done by a child that has no other descriptor than those `kept`, and then `done` be called with its exit
        status: what the action returned (None: 0), 1 when it raised. Returns the child's pid."""
        pid = os.fork()
        if pid == 0:
            _only(kept)
            status = 1
            try:
                _set_file_limit(self.files)
                status = action() or 0
            finally:
                os._exit(status)
        handle = linux.pidfd_open(pid)
        self.children.add(pid)

        def over(events: int) -> None:
            self.off(handle)
            os.close(handle)
            _, status = os.waitpid(pid, 0)
            self.children.discard(pid)
            try:
                done(os.waitstatus_to_exitcode(status))
            finally:
                self.leave_if_done()

        self.on(handle, select.EPOLLIN, over, owner)
        return pid

    # --- coming and going ---------------------------------------------------------------------------------------------------

    def forget(self, charge: Charge) -> None:
        """The container is nobody's any more."""
        if self.charges.get(charge.id) is charge:
            del self.charges[charge.id]
        self.leave_if_done()

    def leave_if_done(self) -> None:
        """Leave, unless there is something left to do."""
        if self.charges or self.visitors or self.children or self.returning or self.timers_of_containers():
            return
        self._unlisten()
        self.leaving = True

    def restart(self, identity: str, lived: float) -> None:
        """Have the container, which lived so many seconds, started again after a while."""
        self.pauses[identity] = pause(self.pauses.get(identity, 0.0), lived)
        self.returning.add(identity)

        def due() -> None:
            self.task(lambda: start_again(self.root, identity), done)
            self.returning.discard(identity)  # not later: it may have ended again by then

        def done(status: int) -> None:
            record = read(f"{self.root}/containers/{identity}/journal") if status else None
            if record is not None and record.get("restarting"):
                self.restart(identity, 0.0)

        self.later(self.pauses[identity], due)

    def timers_of_containers(self) -> bool:
        """Whether something is still to be done for a container, such as to give those attached to it what is theirs."""
        return any(owner is not None and owner.clients for _, _, owner in self.timers)

    def _listen(self) -> None:
        directory = open_directory(self.root)
        try:
            path = f"/proc/self/fd/{directory}/{SOCKET}"
            _unlink(path)
            self.listener = socket(AF_UNIX, SOCK_SEQPACKET)
            self.listener.setblocking(False)
            self.listener.bind(path)
            self.listener.listen(128)
        finally:
            os.close(directory)
        self.on(self.listener.fileno(), select.EPOLLIN, self._visited)

    def _unlisten(self) -> None:
        """Nobody finds this monitor any more; who has found it and was not answered tries again."""
        if self.listener is not None:
            self.off(self.listener.fileno())
            _unlink(f"{self.root}/monitor/{SOCKET}")
            self.listener.close()
            self.listener = None

    def accept(self, listener: socket) -> socket | None:
        """Who has come, or None: it went again, or too many files are open."""
        try:
            descriptor, _ = listener._accept()  # type: ignore[attr-defined]  # what socket.accept is made of
        except BlockingIOError:
            return None
        except OSError:
            fd = listener.fileno()
            found = self.handlers.get(fd)
            if found is not None:
                self.off(fd)
                self.later(_BUSY, lambda: self.on(fd, select.EPOLLIN, *found) if listener.fileno() == fd else None)
            return None
        return socket(fileno=descriptor)

    def _visited(self, events: int) -> None:
        visitor = self.accept(self.listener) if self.listener is not None else None
        if visitor is None:
            return
        visitor.setblocking(False)
        self.visitors.add(visitor)
        self.on(visitor.fileno(), select.EPOLLIN, lambda events: self._receive(visitor))

    def _receive(self, visitor: socket) -> None:
        """A container is handed over; the answer is ACCEPTED, or what is wrong."""
        try:
            message, ancillary, _, _ = visitor.recvmsg(MESSAGE, _ANCILLARY, _CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            message, ancillary = b"", []
        descriptors = _descriptors(ancillary)
        if message:
            try:
                self._take(message.decode(), descriptors)
                answer = ACCEPTED
            except Exception as err:  # a full disk, or a bug: whoever started it says so
                answer = f"{type(err).__name__}: {err}".encode()
            try:
                visitor.send(answer)
            except OSError:  # it was killed, and its container is being so
                pass
        self.off(visitor.fileno())
        self.visitors.discard(visitor)
        visitor.close()
        self.leave_if_done()

    def _take(self, message: str, descriptors: list[int]) -> None:
        """The message: the id, the keeper's pid, the numbers by which it knows the descriptors, and whether the container's life
        hangs on the client whose descriptor is the last, where there is one more."""
        identity, keeper, numbers, lifeline = message.split(" ")
        held = dict(zip(map(int, numbers.split(",")), descriptors, strict=False))
        rest = descriptors[len(held) :]
        charge = self.charges.get(identity)
        if charge is not None and charge.keeper_pid == int(keeper):  # taken over a moment ago, from the keeper itself
            for fd in held.values():
                os.close(fd)
        else:
            charge = self._begin(identity, int(keeper), held)
            charge.journal.kept_by(int(keeper), born(int(keeper)))  # not before: what is recorded may be taken over
        if rest:
            charge.add(Client(socket(fileno=rest[0]), first=True, lifeline=lifeline == "lifeline"))

    def _begin(self, identity: str, keeper: int, held: dict[int, int]) -> Charge:
        path = f"{self.root}/containers/{identity}"
        record = read(path + "/journal")
        if record is None or held.keys() < {stubs.DIRECTORY, stubs.STATUS}:
            for fd in held.values():
                os.close(fd)
            raise ValueError(f"container {identity} is not there")
        charge = Charge(self, Journal(path, held[stubs.DIRECTORY]), record, keeper, held)
        self.charges[identity] = charge
        return charge

    # --- after one that was killed ------------------------------------------------------------------------------------------

    def _adopt(self) -> None:
        """Take over what the keepers of a monitor that was killed hold."""
        try:
            identities = os.listdir(self.root + "/containers")
        except FileNotFoundError:
            return
        for identity in identities:
            record = read(f"{self.root}/containers/{identity}/journal")
            if record is not None and record.get("restarting"):
                self.restart(identity, 0.0)
            if record is not None and record.get("keeper"):
                try:
                    self._adopt_one(identity, record)
                except (OSError, ValueError):  # it has just ended; the next command clears up
                    continue

    def _adopt_one(self, identity: str, record: "dict[str, Any]") -> None:
        pid = record["keeper"]
        handle = linux.pidfd_open(pid)
        try:
            if born(pid) != record["keeper_born"]:
                return
            end = read(f"{self.root}/containers/{identity}/exit")
            if end is not None:
                linux.pidfd_send_signal(handle, linux.SIGKILL)  # all was done but this
                return
            held = {}
            for number in _ORDER:
                try:
                    held[number] = linux.pidfd_getfd(handle, number)
                except OSError as err:
                    if err.errno != 9:  # EBADF: it has no such stream
                        raise
            self._begin(identity, pid, held)
        finally:
            os.close(handle)


def main(root: str) -> None:
    """Be the monitor of the store at `root`, unless there is one. To be called in a process made for it; never returns."""
    try:
        _only(())
        libc("prctl", linux.PR_SET_DUMPABLE, 0, 0, 0, 0)
        libc("prctl", _PR_SET_NAME, b"box-monitor\0", 0, 0, 0)
        lock = os.open(lock_path(root), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        for _ in range(100):
            try:
                flock(lock, LOCK_EX | LOCK_NB)
            except BlockingIOError:  # by another monitor; or for a moment, by somebody who looks for one
                found = connect(root)
                if found is not None:
                    break
                time.sleep(0.005)
                continue
            Monitor(root).run()
            break
    finally:
        os._exit(0)


def _only(kept: tuple[int, ...]) -> None:
    """Close every descriptor above 2 but those."""
    first = 3
    for fd in sorted(kept):
        os.closerange(first, fd)
        first = fd + 1
    linux.close_from(first)


def _descriptors(ancillary: "list[tuple[int, int, bytes]]") -> list[int]:
    found = []
    for level, kind, data in ancillary:
        if (level, kind) == (SOL_SOCKET, SCM_RIGHTS):
            whole = data[: len(data) // _INT * _INT]
            found += [int.from_bytes(whole[at : at + _INT], "little") for at in range(0, len(whole), _INT)]
    return found


def _raise_file_limit() -> tuple[int, int]:
    """Allow as many open files as may be: a container needs ten. What it was before."""
    from resource import RLIMIT_NOFILE, getrlimit

    former = getrlimit(RLIMIT_NOFILE)
    _set_file_limit((former[1], former[1]))
    return former


def _set_file_limit(limit: tuple[int, int]) -> None:
    from resource import RLIMIT_NOFILE, setrlimit

    try:
        setrlimit(RLIMIT_NOFILE, limit)
    except (OSError, ValueError):
        pass


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
