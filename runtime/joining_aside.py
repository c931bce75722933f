"""Bearing a child in namespaces that its parent could not come back from: a copy of the parent goes there, and its child becomes
the parent's own.

Who has entered another user namespace has no rights to its former one any more; and who is root in one only has none to return
to the pid namespace that the machine's root owns.
"""

import posix as os

from runtime import linux
from runtime.id_maps import tell_kernel
from runtime.program import Failure, Program
from runtime.spawn import spawn
from store.errors import BoxError, RunError, SetupFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

_SEPARATOR = "\0"


def spawn_aside(
    namespaces: "list[tuple[int, int, str]]",
    program: Program,
    flags: int,
    *,
    group: str = "",
    score: "int | None" = None,
    ready: "Callable[[int], object] | None" = None,
) -> "tuple[int, Failure | None]":
    """As runtime.joining.spawn_in; `group` is the v2 directory to be born in, or empty, and `score` what oom_score_adj becomes
    before the rights to that are gone."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    helper = os.fork()
    if helper == 0:
        _serve(writer, namespaces, program, flags, group, score, ready)
    os.close(writer)
    message = b""
    while piece := os.read(reader, 65536):
        message += piece
    os.close(reader)
    os.waitpid(helper, 0)
    kind, *said = message.decode("utf-8", "replace").split(_SEPARATOR)
    if kind == "born":
        return int(said[0]), None
    if kind == "failed":
        pid, index, errno, *executions = map(int, said)
        return pid, Failure(program.calls[index] if index >= 0 else None, errno, executions)
    if kind == "step":
        raise SetupFailed(said[0], int(said[1]), os.strerror(int(said[1])), path=said[2])
    raise RunError(said[0] if said else "box-runtime's helper was killed")


def _serve(
    writer: int,
    namespaces: "list[tuple[int, int, str]]",
    program: Program,
    flags: int,
    group: str,
    score: "int | None",
    ready: "Callable[[int], object] | None",
) -> "NoReturn":
    try:
        try:
            if score is not None:
                tell_kernel("/proc/self/oom_score_adj", str(score), f"set process.oomScoreAdj to {score}")
            if group:
                tell_kernel(f"{group}/cgroup.procs", "0", "join the control group")
            for namespace, kind, path in namespaces:
                try:
                    linux.setns(namespace, kind)
                except OSError as err:
                    raise _failed("join the namespace", err, path) from err
            pid, failure = spawn(program, flags | linux.CLONE_PARENT, None, ready)
            if failure is None:
                said = ["born", str(pid)]
            else:
                index = program.calls.index(failure.call) if failure.call else -1
                said = ["failed", *map(str, (pid, index, failure.errno, *failure.executions))]
        except SetupFailed as err:
            said = ["step", err.action, str(err.errno), err.path]
        except (BoxError, OSError) as err:
            said = ["refused", str(err)]
        os.write(writer, _SEPARATOR.join(said).encode("utf-8", "replace"))
    finally:
        os._exit(0)


def _failed(action: str, err: OSError, path: str) -> SetupFailed:
    return SetupFailed(action, err.errno or 0, os.strerror(err.errno or 0), path=path)
