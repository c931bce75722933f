"""`box-runtime run`: a container of a bundle from its creation to its end, in one command."""

import posix as os
from _signal import signal as set_handler

from runtime.container import FORWARDED
from runtime.engine import Options, create
from runtime.engine_operations import delete, start
from runtime.engine_state import EngineContainer
from store.errors import RunError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType


def run(root: str, identity: str, directory: str, options: Options, *, detach: bool, keep: bool) -> tuple[int, list[str]]:
    """Create and start it; unless `detach`, wait for its end, pass on signals meanwhile, and (without `keep`) delete it.

    Returns the command's exit status (0 when detached) and warnings.
    """
    if not options.console_socket:
        options.terminal = "container" if detach else "caller"
    warnings = create(root, identity, directory, options)
    try:
        warnings += start(root, identity)
        if detach:
            return 0, warnings
        with EngineContainer.open(root, identity) as container:
            pid = container.state["pid"]
        status = wait_for(pid, options.master)
    except BaseException:
        delete(root, identity, force=True)
        raise
    if not keep:
        warnings += delete(root, identity, force=True)
    return status, warnings


def wait_for(pid: int, master: int) -> int:
    """The exit status of a child that is a container's process: signals are passed on meanwhile, and with the `master` of a
    terminal its input and output are this command's."""

    def pass_on(number: int, frame: "FrameType | None") -> None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass

    former = [(number, set_handler(number, pass_on)) for number in FORWARDED]
    try:
        if master >= 0:
            from runtime.attach import Copies

            copies = Copies(True, 0, 1, 2)
            try:
                copies.begin(master)
                copies.until_end(pid)
            finally:
                copies.close()
        _, status = os.waitpid(pid, 0)
    except ChildProcessError as err:
        raise RunError("the container's process is not this command's child") from err
    finally:
        for number, handler in former:
            set_handler(number, handler)
    return 128 + (status & 0x7F) if status & 0x7F else status >> 8
