"""The `run` step: a command in a container on top of the layers so far, its output captured, its changes in `upper`.

Its network is by default the machine's, so that it can fetch packages; `network: none` gives it loopback alone. It has podman's
eleven capabilities, the default system call filter, no_new_privs, and at most PIDS processes at a time.
"""

import os
import posixpath

from builder.keys import Parts
from builder.layers import Chain
from builder.logs import Lines, Log
from builder.progress import Progress
from builder.settings import Settings
from store.erofs_mount import root_of
from store.errors import StepFailed
from store.layout import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from boxfile import RunStep
    from runtime.spec import Outcome, Spec

HOSTNAME = "box"  # the same everywhere: some programs write it into files
PIDS = 2048


class Surroundings:
    """What a command is run with, from the step and the settings in force: all of it is part of the step's key."""

    __slots__ = ("env", "user", "workdir")

    def __init__(self, step: "RunStep", settings: Settings) -> None:
        self.env = {**settings.env, **dict(step.env)}
        self.workdir = posixpath.join("/", settings.workdir, step.workdir or "")
        self.user = step.user if step.user is not None else settings.user

    def parts(self, base: Parts) -> Parts:
        """`base` with all of it."""
        return Parts(base.parent, base.text, base.epoch, self.env, self.workdir, self.user)


def run(
    step: "RunStep",
    surroundings: Surroundings,
    store: Store,
    chain: Chain,
    directory: str,
    *,
    epoch: int,
    number: int,
    shown: str,
    log: Log,
    progress: Progress,
    userns: str = "",
) -> str:
    """Run the command to its end; returns the directory (below `directory`) that has its changes.

    Programs that write the time into files take it from SOURCE_DATE_EPOCH: `epoch`, unless the environment says another.
    Each line it writes goes to `progress` and, as it is, into `log`. StepFailed when it does not end with status 0. On any
    exception the container is gone.
    """
    from runtime.capabilities import BUILD_DEFAULT
    from runtime.spec import Spec

    upper, work = f"{directory}/upper", f"{directory}/work"
    trees = store.snapshots.trees(chain)
    _make_upper(upper, trees[0])
    os.mkdir(work, 0o700)
    spec = Spec(
        store.root,
        list(step.argv),
        trees,
        env=[f"SOURCE_DATE_EPOCH={epoch}", *(f"{name}={value}" for name, value in surroundings.env.items())],
        cwd=surroundings.workdir,
        user=surroundings.user,
        hostname=HOSTNAME,
        network="none" if step.network == "none" else "host",
        userns=userns,
        capabilities=BUILD_DEFAULT,
        pids_limit=PIDS,
        upper=upper,
        work=work,
        removed=True,
        warn=lambda text: progress.output(number, f"warning: {text}"),
    )
    log.start(shown)
    outcome = _follow(spec, number, log, progress)
    if outcome.status:
        raise _failed(step, outcome, shown, log)
    return upper


def _make_upper(upper: str, tree: str) -> None:
    """An empty directory with the owner and mode of the tree below: the merged root shows those of the topmost."""
    mode, uid, gid = root_of(tree)
    os.mkdir(upper, 0o700)
    os.chown(upper, uid, gid)
    os.chmod(upper, mode)


def _follow(spec: "Spec", number: int, log: Log, progress: Progress) -> "Outcome":
    from runtime.container import launch, prepare

    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        try:
            process = launch(spec, prepare(spec), (null, writer, writer))
        finally:
            os.close(null)
            os.close(writer)
        try:
            lines = Lines()
            while data := os.read(reader, 65536):  # the end comes with the container's: its processes hold the other side
                log.write(data)
                for line in lines.feed(data):
                    log.note(line)
                    progress.output(number, line)
            for line in lines.end():
                log.note(line)
                progress.output(number, line)
            return process.finish()
        except BaseException:
            process.abandon()
            raise
    finally:
        os.close(reader)


def _signal_of(status: int) -> str:
    """The signal that a shell means by a status over 128."""
    from signal import Signals

    try:
        return f" ({Signals(status - 128).name})" if status > 128 else ""
    except ValueError:
        return ""


def _failed(step: "RunStep", outcome: "Outcome", shown: str, log: Log) -> StepFailed:
    if outcome.oom:
        message = "the command was killed: it ran out of memory"
    elif outcome.signal is not None:
        from signal import Signals

        message = f"the command was killed by {Signals(outcome.signal).name}"
    else:
        message = f"the command exited with status {outcome.status}{_signal_of(outcome.status)}"
    hint = f"its whole output is in {log.path}"
    if outcome.pids_refused:
        hint = f"it was refused more than {PIDS} processes at a time; {hint}"
    elif outcome.status == 127 and isinstance(step.command, str):
        hint = f"127 is the shell's word for a command that is not in the image; {hint}"
    return StepFailed(message, step=shown, exit_status=outcome.status, log_path=log.path, tail=log.tail, hint=hint)
