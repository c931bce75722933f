"""What is on disk of a container before anything else of it exists, so that whoever comes next can clear up after the dead.

    containers/ID/          flocked by the process that looks after the container, for as long as it does
      journal               what was asked for, written first; then a line for what became of it (a JSON object a line)
      exit                  how it ended (JSON), or that it was only created; nothing of it is left but this directory
      before                the `exit` of one that is being started again, until it runs
      upper, work, log

A directory that nobody holds and that has no `exit` belonged to a process that was killed: `reap` ends what still runs,
removes its cgroups, and then the directory (`--rm`, or never started) or records the end. Mounts need no clearing up: they
live in the container's own mount namespace and go with it. Hot: `reap` costs a listing where there is nothing to do.

What others add to a directory that they do not hold (`amend`, a new name, more groups) makes its removal take the slow way,
which looks for all of it.
"""

import posix as os
import time
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock

from runtime.records import encode, write
from runtime.spec import Spec
from store.errors import RunError
from store.syscalls import exists

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.records import Value

_OF_OVERLAY = ("upper", "work/work", "work")
_VOLATILE = "work/work/incompat"
RENAMED = "renamed"  # an empty file: the container has claimed a name since it was made
REGROUPED = "regrouped"  # an empty file: it has been given control groups since it was started
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW


class Journal:
    """A container's directory, held by this process. Close it by `close`, or by ending."""

    __slots__ = ("_named", "fd", "path", "woken")

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd
        self.woken = False  # there was a record before this run, and there will be one after it
        self._named = True  # it may have claimed a name

    @classmethod
    def create(cls, spec: Spec) -> "Journal":
        """Make the directory of the container `spec.id`, with its config. Raises RunError when the id or the name is taken."""
        containers = spec.root + "/containers"
        path = f"{containers}/{spec.id}"
        journal = None
        for _ in range(1000):
            try:
                os.mkdir(path, 0o700)
                journal = cls.hold(path)
            except FileNotFoundError:
                make_directories(containers)
            except FileExistsError:
                # A reaper found the directory before it was held, took it for a dead one's, and is about to remove it.
                time.sleep(0.001)
            if journal is not None:
                break
        else:
            raise RunError(f"the id {spec.id[:12]} is taken by another container")
        try:
            if spec.name:
                claim_name(spec.root, spec.id, spec.name)
            else:
                journal._named = False
                spec.name = chosen_name(spec.id)
            journal._append(_asked(spec))
        except BaseException:
            journal.remove()
            raise
        return journal

    @classmethod
    def hold(cls, path: str) -> "Journal | None":
        """Take over the directory of a container that nobody looks after; None when somebody does, or it is gone."""
        try:
            fd = os.open(path, _OPEN_DIRECTORY)
        except FileNotFoundError:
            return None
        try:
            flock(fd, LOCK_EX | LOCK_NB)
            if os.fstat(fd).st_nlink:
                return cls(path, fd)
        except BlockingIOError:
            pass
        os.close(fd)
        return None

    def rest(self) -> None:
        """Leave a container that is only created: all of it is this directory, which nobody needs to look after."""
        self._write_end({"status": None})
        self.close()

    def wake(self, restarts: int = 0) -> None:
        """A container that rests is to be started; until it is, whoever finds it killed puts it back to rest. `restarts` counts
        how often it was, by its policy."""
        self._append({"pid": 0, "error": "", "restarting": False, "restarts": restarts})
        os.rename(self.path + "/exit", self.path + "/before")
        self.woken = True

    def put_back(self) -> bool:
        """Let a container rest as it did before `wake`; False when it was started since, or never rested."""
        try:
            os.rename(self.path + "/before", self.path + "/exit")
        except FileNotFoundError:
            return False
        self.close()
        return True

    def failed(self, error: str) -> None:
        """Record why one that rests could not be started."""
        if self.woken:
            self._append({"error": error})

    def started(self, pid: int, when: float, ticks: int = 0) -> None:
        """Record the running process; `ticks`, when it was born as the kernel counts, where no control group tells it from a
        later one."""
        self._append({"pid": pid, "started": when, "ticks": ticks} if ticks else {"pid": pid, "started": when})
        if self.woken:
            os.unlink(self.path + "/before")

    def kept_by(self, pid: int, born: int) -> None:
        """Record the keeper that holds what is open of the running container, and when it was born, in the kernel's ticks."""
        self._append({"keeper": pid, "keeper_born": born})

    def ended(self, status: int, signal: int | None, when: float, oom: bool, error: str = "", *, reason: str = "") -> None:
        """Record the end: from here on nothing of the container is left but its directory."""
        self._write_end({"status": status, "signal": signal, "finished": when, "oom": oom, "error": error, "reason": reason})

    def _write_end(self, record: "dict[str, Value]") -> None:
        write(self.path + "/exit", record)

    def _append(self, record: "dict[str, Value]") -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open("journal", flags, 0o600, dir_fd=self.fd)
        try:
            os.write(fd, encode(record).encode("utf-8", "surrogateescape") + b"\n")
        finally:
            os.close(fd)

    def abandon(self) -> None:
        """Nothing of the container runs, and its start or its run counts as not having been: remove it, or where there was a
        record before, keep one."""
        if not self.woken:
            self.remove()
        elif not self.put_back():
            self.ended(137, 9, time.time(), False, "what looked after it was interrupted")
            self.close()

    def remove(self) -> None:
        """Delete the directory and the container's claim to its name, and let go."""
        if self._named:
            root, _, identity = self.path.rpartition("/containers/")
            release_name(root, identity)
        self._remove_directory()
        self.close()

    def trim(self) -> None:
        """While the container runs: delete what overlayfs has left for its next mount of this upper, since there will be none."""
        try:
            os.unlink(_VOLATILE + "/volatile/dirty", dir_fd=self.fd)
            os.rmdir(_VOLATILE + "/volatile", dir_fd=self.fd)
            os.rmdir(_VOLATILE, dir_fd=self.fd)
        except OSError:
            return  # `remove` takes away whatever there is

    def remove_quickly(self) -> bool:
        """Do what `remove` does but for letting go, if that takes few calls; False when `remove` is still to be called."""
        if self._named:
            root, _, identity = self.path.rpartition("/containers/")
            release_name(root, identity)
        try:
            self._remove_known()
        except OSError:
            return False
        return True

    def _remove_known(self) -> None:
        """Most containers change no file: what they leave is known, and gone in five calls."""
        os.unlink("journal", dir_fd=self.fd)
        for known in _OF_OVERLAY:
            os.rmdir(known, dir_fd=self.fd)
        os.rmdir(self.path)

    def _remove_directory(self) -> None:
        try:
            self._remove_known()
        except OSError:
            from store.trees import delete_tree

            root, _, identity = self.path.rpartition("/containers/")
            if exists(self.path + "/" + RENAMED):
                release_name(root, identity)
            delete_tree(self.path)

    def close(self) -> None:
        """Let go: the directory is somebody else's to look after."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def reap(root: str) -> None:
    """Clear up after every process of box that was killed while it looked after a container, or made something."""
    if monitor_died(root):
        from runtime.monitoring import revive

        revive(root)
    try:
        identities = os.listdir(root + "/containers")
    except FileNotFoundError:
        return
    for identity in identities:
        path = f"{root}/containers/{identity}"
        if exists(path + "/exit") and exists(path + "/journal"):  # without the one, its removal was under way
            continue
        journal = Journal.hold(path)
        if journal is None:
            continue
        if exists(path + "/exit") and exists(path + "/journal"):  # it ended, and was let go of, just now
            journal.close()
            continue
        from runtime.reaping import bury

        bury(journal, identity)
    _reap_drafts(root + "/drafts")


def monitor_died(root: str) -> bool:
    """Whether the monitor of the store (runtime.monitor) was killed: it takes its socket with it when it leaves, and holds a lock
    while it lives."""
    if not exists(root + "/monitor/socket"):
        return False
    try:
        fd = os.open(root + "/monitor/lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        flock(fd, LOCK_SH | LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return exists(root + "/monitor/socket")  # it may have left just now


def _reap_drafts(directory: str) -> None:
    """The same for what a killed build or gc had not finished: as Store.open does, and for as little where there is nothing."""
    try:
        held = [looked_after(f"{directory}/{name}", os.O_RDONLY) for name in os.listdir(directory)]
    except OSError:  # no store yet; or something that nobody of box has put there
        return
    if not all(held):
        from store.drafts import Drafts

        Drafts(directory).sweep()


def looked_after(path: str, flags: int = os.O_RDONLY | os.O_DIRECTORY) -> bool:
    """Whether a process holds the container's directory, or the draft, `path`."""
    try:
        fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        flock(fd, LOCK_SH | LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def amend(path: str, record: "dict[str, Value]") -> None:
    """Add a line to the journal of the container at `path`, whoever looks after it."""
    fd = os.open(path + "/journal", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.write(fd, encode(record).encode("utf-8", "surrogateescape") + b"\n")
    finally:
        os.close(fd)


def mark(path: str, name: str) -> None:
    """Make the empty file `name` in the directory of the container at `path`: RENAMED, ..."""
    os.close(os.open(f"{path}/{name}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))


def claim_name(root: str, identity: str, name: str) -> None:
    """Take the name for the container, as nobody else can then. Raises RunError when another has it."""
    names = root + "/names"
    for _ in range(3):
        try:
            os.symlink(identity, f"{names}/{name}")
            return
        except FileNotFoundError:
            make_directories(names)
        except FileExistsError:
            try:
                holder = os.readlink(f"{names}/{name}")
            except FileNotFoundError:
                continue  # just given up
            if exists(f"{root}/containers/{holder}"):
                raise RunError(
                    f"the name {name!r} is taken by container {holder[:12]}",
                    hint=f"remove it with 'box rm {name}', or choose another name",
                ) from None
            os.unlink(f"{names}/{name}")  # its container is gone
    raise RunError(f"the name {name!r} could not be taken", hint="try again")


def release_name(root: str, identity: str, but: str = "") -> None:
    """Give up the names that container `identity` claimed, all `but` one."""
    try:
        names = os.listdir(root + "/names")
    except FileNotFoundError:
        return
    for name in names:
        link = f"{root}/names/{name}"
        try:
            if name != but and os.readlink(link) == identity:
                os.unlink(link)
        except OSError:
            continue


_FIRST = (
    "amber", "bold", "brisk", "calm", "clever", "cosy", "deft", "eager", "fair", "fleet", "gentle", "glad", "golden",
    "keen", "kind", "light", "lively", "lucid", "mellow", "merry", "neat", "nimble", "patient", "plain", "quick",
    "quiet", "sharp", "silver", "steady", "swift", "tidy", "warm",
)  # fmt: skip
_SECOND = (
    "acorn", "barge", "beam", "birch", "brook", "cairn", "cedar", "chest", "cliff", "cove", "crane", "crate", "creek",
    "dune", "fern", "finch", "fjord", "harbour", "heron", "hull", "keel", "larch", "linnet", "maple", "otter", "pebble",
    "pier", "quay", "reed", "sparrow", "tern", "willow",
)  # fmt: skip


def chosen_name(identity: str) -> str:
    """A name to say aloud for a container that was given none, from its id: as unique as 20 of its bits."""
    number = int(identity[:5], 16)
    return f"{_FIRST[number & 31]}_{_SECOND[number >> 5 & 31]}_{identity[:4]}"


def _asked(spec: Spec) -> "dict[str, Value]":
    mounts = [{"kind": mount.kind, **{name: getattr(mount, name) for name in mount.__slots__}} for mount in spec.mounts]
    fields = {name: getattr(spec, name) for name in Spec.__slots__ if name not in ("mounts", "root", "id", "guard", "warn")}
    return {"id": spec.id, **fields, "mounts": mounts}


def make_directories(path: str) -> None:
    """Make `path`, a directory of the store, with its parents; nobody else may look into them."""
    from os import makedirs

    makedirs(path, 0o700, exist_ok=True)
