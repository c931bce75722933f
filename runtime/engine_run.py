"""`box-runtime run`: a container of a bundle from its creation to its end, in one command."""

import posix as os

from runtime.container import Forwarding
from runtime.engine import Options, create
from runtime.engine_operations import delete, start
from runtime.engine_state import EngineContainer
from runtime.spec import Outcome
from store.errors import RunError


def run(root: str, identity: str, directory: str, options: Options, *, detach: bool, keep: bool) -> tuple[int, list[str]]:
    """Create and start it; unless `detach`, wait for its end, pass on signals meanwhile, and (without `keep`) delete it.

    Returns the command's exit status (0 when detached) and warnings.
    """
    if not options.console_socket:
        options.terminal = "container" if detach else "caller"
    warnings = create(root, identity, directory, options)
    forwarding = None if detach else Forwarding(patience=0)
    try:
        warnings += start(root, identity)
        if forwarding is None:
            return 0, warnings
        with EngineContainer.open(root, identity) as container:
            pid = container.state["pid"]
        status = wait_for(pid, options.master, forwarding)
    except BaseException:
        delete(root, identity, force=True)
        raise
    finally:
        if forwarding is not None:
            forwarding.stop()
    if not keep:
        warnings += delete(root, identity, force=True)
    return status, warnings


def wait_for(pid: int, master: int, forwarding: Forwarding) -> int:
    """The exit status of a child that is a container's process: signals are passed on meanwhile, and with the `master` of a
    terminal its input and output are this command's."""
    forwarding.to(pid)
    try:
        if master >= 0:
            from runtime.attach import Copies

            copies = Copies(True, 0, 1, 2)
            try:
                copies.begin(master)
                copies.until_end(pid)
            finally:
                copies.close()
        return Outcome(os.waitpid(pid, 0)[1]).status
    except ChildProcessError as err:
        raise RunError("the container's process is not this command's child") from err
