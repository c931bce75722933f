"""`box run`: a new container, to its end or into the background. Hot: what it imports is held by a test."""

import posix as os
import time
from fcntl import LOCK_SH, flock

from boxcli import readers
from boxcli.main import variable
from boxcli.table import OPTIONS_FIRST, Argument, Option, Values, Verb
from runtime.container import require_root, run
from runtime.spec import Bind, Spec, Tmpfs
from store import prepared
from store.errors import RunError, UsageError
from store.syscalls import encode, exists

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.id_maps import Ranges
    from runtime.spec import Outcome
    from store.prepared import Prepared

LEAST_MEMORY = 6 << 20  # docker's
_FURTHER_LIMITS = frozenset(("memory_reservation", "memory_swap", "cpu_shares", "cpuset_cpus", "cpuset_mems"))

VERB = Verb(
    "run",
    "Run a command in a new container",
    Option("-i", "--interactive", about="Pass standard input on to the command."),
    Option("-t", "--tty", about="Give the command a terminal."),
    Option("-d", "--detach", about="Run in the background and print the container's id."),
    Option("--rm", about="Remove the container when it ends."),
    Option(
        "--restart",
        metavar="POLICY",
        read=readers.restart,
        about="With -d, start it again: no, on-failure[:N], always, unless-stopped.",
    ),
    Option("--name", metavar="NAME", read=readers.name, about="Name the container."),
    Option(
        "-e", "--env", metavar="KEY[=VALUE]", many=True, read=readers.variable, about="Set a variable, or pass on this shell's."
    ),
    Option(
        "--env-file", metavar="FILE", many=True, completes="file", about="Read variables from a file, one KEY[=VALUE] a line."
    ),
    Option(
        "-v",
        "--volume",
        metavar="[SRC:]DST[:ro]",
        many=True,
        read=readers.bind,
        about="Show a file or directory of this machine, or a volume by its name, which is made where there is none.",
    ),
    Option(
        "--mount",
        metavar="type=TYPE,...",
        many=True,
        read=readers.mount,
        about="Mount a bind, volume, tmpfs or image: 'box run --help'.",
    ),
    Option("--volumes-from", metavar="CONTAINER[:ro]", many=True, completes="container", about="Mount what it has mounted."),
    Option("-w", "--workdir", metavar="DIR", read=readers.directory, about="The directory to start in."),
    Option("-u", "--user", metavar="USER[:GROUP]", about="Run as this user, by name or number."),
    Option(
        "--net",
        "--network",
        metavar="none|host",
        read=readers.network,
        about="Only loopback, which is the default, or this machine's.",
    ),
    Option(
        "--userns",
        metavar="auto|host",
        read=readers.userns,
        about="Users of its own, which is the default, or this machine's.",
    ),
    Option("--uidmap", metavar="ID:HOST:COUNT", many=True, read=readers.id_range, about="Map users so, instead."),
    Option("--gidmap", metavar="ID:HOST:COUNT", many=True, read=readers.id_range, about="Map groups so (else as --uidmap)."),
    Option("-h", "--hostname", metavar="NAME", read=readers.hostname, about="The container's host name (else its id)."),
    Option("--add-host", metavar="NAME:ADDR", many=True, read=readers.host, about="Add a line to /etc/hosts."),
    Option("--entrypoint", metavar="PROGRAM", about="Replace the image's entrypoint; empty: use none."),
    Option("--read-only", about="Make the root file system read-only."),
    Option("--tmpfs", metavar="DIR[:size=,mode=]", many=True, read=readers.tmpfs, about="Mount an empty file system in memory."),
    Option("--shm-size", metavar="SIZE", read=readers.size, about="Size of /dev/shm (else 64 MiB)."),
    Option("-m", "--memory", metavar="SIZE", read=readers.size, about="Limit the memory, such as 64m or 1GiB."),
    Option("--memory-reservation", metavar="SIZE", read=readers.size, about="Memory that is left to it when others want some."),
    Option("--memory-swap", metavar="SIZE", read=readers.size_or_none, about="Limit memory and swap together; -1: no limit."),
    Option("--cpus", metavar="N", read=readers.cpus, about="Limit the processor time, such as 0.5 (0: no limit)."),
    Option("-c", "--cpu-shares", metavar="N", read=readers.count, about="Its share where processors are scarce (else 1024)."),
    Option("--cpuset-cpus", metavar="LIST", read=readers.processors, about="Run on these processors only, such as 0-3,7."),
    Option("--cpuset-mems", metavar="LIST", read=readers.processors, about="Take memory of these nodes only."),
    Option("--pids-limit", metavar="N", read=readers.limit, about="Limit the number of processes (else 1024; -1: no limit)."),
    Option("--ulimit", metavar="NAME=SOFT[:HARD]", many=True, read=readers.ulimit, about="Set a resource limit."),
    Option("--cap-add", metavar="CAP", many=True, about="Add a capability, or ALL."),
    Option("--cap-drop", metavar="CAP", many=True, about="Drop a capability, or ALL."),
    Option(
        "--security-opt",
        metavar="OPTION",
        many=True,
        read=readers.security,
        about="no-new-privileges=false or seccomp=unconfined: opt out of a protection; seccomp=log: have refused calls logged.",
    ),
    Option("--stop-signal", metavar="SIGNAL", read=readers.signal, about="What 'box stop' sends (else the image's, else TERM)."),
    Option("--health-cmd", metavar="COMMAND", about="With -d, check by this, in a shell, that it is well."),
    Option("--health-interval", metavar="TIME", read=readers.duration, about="Time between two checks (30s)."),
    Option("--health-timeout", metavar="TIME", read=readers.duration, about="Time that a check may take (30s)."),
    Option("--health-start-period", metavar="TIME", read=readers.duration, about="Time at the start when failures do not count."),
    Option("--health-retries", metavar="N", read=readers.count, about="Failures in a row that make it unhealthy (3)."),
    Option(
        "--health-on-failure",
        metavar="none|kill|restart|stop",
        read=readers.health_action,
        about="What is done when it becomes unhealthy.",
    ),
    Option("--no-healthcheck", about="Make none of the image's checks."),
    Option(
        "--log-opt",
        metavar="OPTION",
        many=True,
        read=readers.log_option,
        about="max-size=SIZE or max-file=N: when the log is rotated (16m), and how many files there are (4).",
    ),
    Option("--init", about="Let box's own init be the first process, which reaps others (the default with -d; --init=false)."),
    Option("-l", "--label", metavar="KEY=VALUE", many=True, read=readers.label, about="Label the container."),
    Option("--rootfs", about="IMAGE is a directory: it is the root itself, or with :O after it what that is laid over."),
    Option("--cidfile", metavar="FILE", completes="file", about="Write the container's id to a new file."),
    Option("--pidfile", metavar="FILE", completes="file", about="Write the pid of the container's first process to a file."),
    Option("--replace", about="Remove a container that has the same name before."),
    Option("--detach-keys", metavar="KEYS", read=readers.keys, about="What to type to leave it running (else ctrl-p,ctrl-q)."),
    Argument("IMAGE", completes="image"),
    Argument("COMMAND", required=False, many=True),
    description="--mount has docker's keys: type=bind,src=DIR,dst=DIR[,ro][,bind-propagation=rslave][,bind-nonrecursive]; "
    "type=volume[,src=NAME],dst=DIR[,ro][,volume-nocopy][,volume-subpath=DIR]; "
    "type=tmpfs,dst=DIR[,tmpfs-size=64m][,tmpfs-mode=1777]; type=image,src=IMAGE,dst=DIR[,image-subpath=DIR].",
    options_anywhere=OPTIONS_FIRST,
    failure=RunError.exit_status,
)


def main(values: Values) -> int:
    """Run it; the command's exit status, or 0 once it runs in the background."""
    require_root()
    detached = values.flag("detach")
    interactive = values.flag("interactive")
    at_terminal = values.flag("tty") and interactive and not detached
    if at_terminal and not os.isatty(0):
        raise UsageError("standard input is not a terminal", hint="leave out -t, or -i")
    if values.text("restart", "no") != "no" and not detached:
        raise UsageError("--restart goes with -d", hint="add -d, and see its output by 'box logs -f'")
    spec = wanted(values)
    try:
        if detached:
            from runtime.detached import run_detached

            run_detached(spec)
            print(spec.id)
            return 0
        if at_terminal:
            from boxcli.attached import run_attached

            return run_attached(values, spec)
        stdin = 0 if interactive else _no_input(spec)
        try:
            outcome = run(spec, stdin=stdin, forward=True)
        finally:
            if stdin > 0:
                os.close(stdin)
    except BaseException:
        forget_id(values)
        raise
    explain(outcome)
    return outcome.status


def explain(outcome: "Outcome") -> None:
    """Say why it ended badly, where that is known."""
    if outcome.reason:
        os.write(2, f"box: {outcome.reason}\n".encode())


def wanted(values: Values) -> Spec:
    """What the command line asks for; its id is in the file that was named for it. A container to be replaced is gone."""
    reference = values.text("image")
    guard = _keep_images(values.root)
    # What was prepared is of the best driver, whichever one is asked for.
    image = None if values.driver or values.flag("rootfs") else prepared.lookup(values.root, reference)
    if values.flag("rootfs"):
        from boxcli.bare import bare

        image = bare(values)
    elif image is None:
        if guard >= 0:
            os.close(guard)
        image, guard = _prepare(values.root, reference, values.driver)
    spec = specification(values, image)
    spec.guard = guard
    if values.flag("replace"):
        _replace(values.root, spec.name)
    id_file = values.text("cidfile")
    if id_file:
        spec.id = os.urandom(32).hex()
        _write_id(id_file, spec.id)
    return spec


def forget_id(values: Values) -> None:
    """There is no container: nor shall there be a file with its id."""
    if values.text("cidfile"):
        os.unlink(values.text("cidfile"))


def _replace(root: str, name: str) -> None:
    if not name:
        raise UsageError("--replace goes with --name", hint="say whose place it takes")
    from runtime.lifecycle import remove
    from runtime.state import Containers

    for one in Containers(root).all():
        if one.name == name:
            remove(one, force=True)


def _keep_images(root: str) -> int:
    """A lock's descriptor: while it is open, nobody deletes a layer of this store (store/locks.py). -1 where there is no store
    yet."""
    try:
        fd = os.open(root + "/blobs", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return -1
    flock(fd, LOCK_SH)
    return fd


def _prepare(root: str, reference: str, driver: str) -> "tuple[Prepared, int]":
    """What `lookup` reads, made again, and the guard of it: while that is done a lease keeps the image, so nobody waits."""
    from store.layout import Store
    from store.prepare import prepare

    store = Store.open(root, driver, make=False)
    with store.leased():
        return prepare(store, reference), _keep_images(root)


def specification(values: Values, image: "Prepared") -> Spec:
    """What the command line makes of the image. Raises UsageError where the two do not fit."""
    command = values.all("command", str)
    entrypoint = image.entrypoint
    if values.flag("entrypoint"):
        entrypoint = [values.text("entrypoint")] if values.text("entrypoint") else []
    elif not command:
        command = image.cmd
    if not entrypoint and not command:
        raise UsageError("the image names no command", hint=f"say one: box run {values.text('image')} COMMAND")
    spec = Spec(values.root, [*entrypoint, *command], image.trees)
    if values.flag("rootfs") and not image.trees:
        spec.rootfs = image.reference
    spec.image = image.reference or values.text("image")
    spec.image_digest = image.config_digest
    spec.manifest_digest = image.manifest_digest
    spec.name = values.text("name")
    spec.created = time.time()
    spec.env = environment(image.env, values.all("env_file", str), values.all("env", str))
    spec.cwd = values.text("workdir") or image.workdir or "/"
    spec.user = values.text("user") or image.user
    spec.hostname = values.text("hostname")
    spec.add_hosts = values.all("add_host", str)
    spec.network = values.text("network", "none")
    spec.warn = _warn
    spec.userns = values.text("userns") or variable("BOX_USERNS") or ""
    spec.id_maps = _id_maps(values)
    spec.read_only = values.flag("read_only")
    binds = list(map(_existing, values.all("volume", Bind)))
    spec.mounts = [*values.all("tmpfs", Tmpfs), *binds]
    if len(spec.mounts) > 1 or image.volumes or values.flag("mount") or values.flag("volumes_from") or any(map(_volume, binds)):
        from boxcli.mount_options import settle

        spec.mounts = settle(values, spec.mounts, image.volumes)
    spec.memory = values.one("memory", int) or None
    if spec.memory is not None and spec.memory < LEAST_MEMORY:
        raise UsageError("a memory limit below 6 MiB lets no program start", hint="say more, such as --memory 64m")
    spec.cpus = values.one("cpus", float) or None
    if not _FURTHER_LIMITS.isdisjoint(values.given):
        from boxcli.limits import for_new

        spec.resources = for_new(values)
    spec.pids_limit = values.one("pids_limit", int) or spec.pids_limit
    spec.shm_size = values.one("shm_size", int) or spec.shm_size
    spec.ulimits = values.all("ulimit", tuple)
    spec.labels = {**image.labels, **_labels(values.all("label", str))}
    spec.terminal = values.flag("tty")
    spec.removed = values.flag("rm")
    spec.restart = values.text("restart", "no")
    if spec.removed and spec.restart != "no":
        raise UsageError("--rm does not go with --restart", hint="what is removed when it ends cannot be started again")
    spec.interactive = values.flag("interactive")
    if values.flag("pidfile"):
        spec.pid_file = _absolute(values.text("pidfile"))
    spec.init = _has_init(values)
    if image.healthcheck or values.given.keys() & _OF_HEALTH:
        spec.health = _health(values, image)
    spec.log_options = dict(values.all("log_opt", tuple))
    spec.stop_signal = values.one("stop_signal", int) or _stop_signal(image.stop_signal) or spec.stop_signal
    added = [name for text in values.all("cap_add", str) for name in text.split(",")]
    dropped = [name for text in values.all("cap_drop", str) for name in text.split(",")]
    if added or dropped:
        from runtime.capabilities import RUN_DEFAULT, adjust, permitted

        spec.capabilities = adjust(RUN_DEFAULT, added, dropped, held=permitted())
    for option in values.all("security_opt", str):
        if option == "seccomp=unconfined":
            spec.seccomp = False
        elif option == "seccomp=log":
            spec.log_refusals = True
        else:
            spec.no_new_privileges = option == "no-new-privileges=true"
    return spec


def environment(base: list[str], files: list[str], given: list[str]) -> list[str]:
    """`base` overlaid with the files' variables and then the given ones; KEY alone takes this process' value, or is left out."""
    variables = {entry.partition("=")[0]: entry for entry in base}
    entries: list[str] = []
    for path in files:
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                lines = file.read().splitlines()
        except OSError as err:
            raise UsageError(f"cannot read the variables in {path}: {(err.strerror or str(err)).lower()}") from err
        for number, line in enumerate(lines, 1):
            entry = line.lstrip()
            if not entry or entry[0] in "#=":
                continue
            if len(entry.partition("=")[0].split()) > 1:
                raise UsageError(
                    f"{path}:{number}: a blank in a variable's name: {entry!r}", hint="write NAME=VALUE, or NAME alone"
                )
            entries.append(entry)
    for entry in (*entries, *given):
        key, equals, _ = entry.partition("=")
        if equals:
            variables[key] = entry
        elif (value := variable(key)) is not None:
            variables[key] = f"{key}={value}"
    return list(variables.values())


_OF_HEALTH = {
    "health_cmd", "health_interval", "health_timeout", "health_start_period", "health_retries", "health_on_failure",
    "no_healthcheck",
}  # fmt: skip


def _health(values: Values, image: "Prepared") -> "dict[str, Any]":
    from runtime.health import of_image, settle

    if values.flag("no_healthcheck"):
        if len(values.given.keys() & _OF_HEALTH) > 1:
            raise UsageError("--no-healthcheck does not go with other options of health checks", hint="leave one of them out")
        return {}
    command = values.text("health_cmd")
    checks = settle(["CMD-SHELL", command]) if command and command != "none" else {} if command else of_image(image.healthcheck)
    if not checks:
        if values.given.keys() & _OF_HEALTH - {"health_cmd"}:
            raise UsageError("there is no health check to be changed", hint="say one: --health-cmd COMMAND")
        return {}
    given = {name: values.given["health_" + name] for name in (*checks, "on_failure") if "health_" + name in values.given}
    return {**checks, **given}


def _has_init(values: Values) -> bool:
    asked = values.one("init", bool)
    if asked is not None or not values.flag("detach"):
        return bool(asked)
    from runtime.stubs import available

    return available()


def _no_input(spec: Spec) -> int:
    return -1 if spec.terminal else os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)


def _warn(text: str) -> None:
    os.write(2, b"box: warning: %s\n" % encode(text))


def _id_maps(values: Values) -> "tuple[Ranges, Ranges] | None":
    users, groups = values.all("uidmap", tuple), values.all("gidmap", tuple)
    if not users and not groups:
        return None
    if values.text("userns"):
        raise UsageError("--userns says where the ids come from, and --uidmap which they are", hint="leave one of them out")
    from runtime.id_maps import checked

    return checked(users or groups, "--uidmap"), checked(groups or users, "--gidmap")


def _labels(entries: list[str]) -> dict[str, str]:
    return {key: value for key, _, value in (entry.partition("=") for entry in entries)}


def _absolute(path: str) -> str:
    from os.path import abspath

    return abspath(path)


def _existing(bind: Bind) -> Bind:
    if not bind.volume:
        bind.source = _absolute(bind.source)
        if not exists(bind.source):
            raise UsageError(
                f"there is no {bind.source} to show at {bind.target}",
                hint="box does not make it, since a typing error would go unnoticed",
            )
    return bind


def _volume(bind: Bind) -> bool:
    return bool(bind.volume)


def _stop_signal(text: str) -> int:
    try:
        return readers.signal(text) if text else 0
    except ValueError:
        return 0  # the image's word; TERM is what it gets for nonsense


def _write_id(path: str, identity: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError as err:
        raise UsageError(
            f"{path} exists", hint="another container may be using it; remove it, or name another --cidfile"
        ) from err
    except OSError as err:
        raise UsageError(
            f"cannot write the id to {path}: {os.strerror(err.errno or 0).lower()}", hint="name another file with --cidfile"
        ) from err
    with open(fd, "w") as file:
        file.write(identity)
