"""`box top`: the processes of a container."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from boxcli import listing
from boxcli.table import OPTIONS_FIRST, Argument, Values, Verb
from store.errors import BoxError, UsageError

if TYPE_CHECKING:
    from runtime.id_maps import IdMaps

VERB = Verb(
    "top",
    "Show the processes of a container",
    Argument("CONTAINER", completes="container"),
    Argument("OPTIONS", required=False, many=True),
    description="With options of ps, such as 'box top web -o pid,rss,args' or 'box top web aux', what this machine's ps says of "
    "them. Process ids are those of this machine, and so are users then.",
    options_anywhere=OPTIONS_FIRST,
)
_HEADS = ("UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD")


def main(values: Values) -> int:
    """Print them as `ps -ef` does, or as the options say."""
    from runtime.cgroups import Cgroup
    from runtime.lifecycle import not_running
    from runtime.roots import maps_of
    from runtime.state import Containers

    container = Containers(values.root).find(values.text("container"))
    if container.status != "running":
        raise not_running(container)
    pids = Cgroup(container.id).processes()
    options = values.all("options", str)
    if options:
        _by_ps(pids, options)
    else:
        listing.print_table(_HEADS, _rows(pids, maps_of(container)))
    return 0


def _rows(pids: list[int], maps: IdMaps | None) -> list[tuple[str, ...]]:
    from runtime.process_table import running

    rows: list[tuple[str, ...]] = []
    for one in running(pids):
        minutes, seconds = divmod(int(one.cpu), 60)
        rows.append((
            _user(one.uid, maps), str(one.pid), str(one.parent), str(one.percent), _start(one.started), one.terminal,
            f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}", one.command,
        ))  # fmt: skip
    return rows


def _user(uid: int, maps: IdMaps | None) -> str:
    """The user's name, or number where it has none; of a container with users of its own, who it is there."""
    import pwd

    if maps is not None:
        inside, _ = maps.inside(uid, 0)
        return str(inside) if inside else "root"
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _start(when: float) -> str:
    """The time of today, else the day, else the year: as ps has it."""
    started, now = time.localtime(when), time.localtime()
    form = "%H:%M" if started[:3] == now[:3] else "%b%d" if started.tm_year == now.tm_year else "%Y"
    return time.strftime(form, started)


def _by_ps(pids: list[int], options: list[str]) -> None:
    """Print what ps says, the container's processes of it."""
    import subprocess

    from boxcli import escapes

    try:
        # ps is asked for all, as some options (-A, aux) would have it anyway: what is not the container's is left out here.
        done = subprocess.run(["ps", *_everything(options)], capture_output=True, check=False)
    except FileNotFoundError as err:
        raise BoxError("there is no ps on this machine", hint="without options, 'box top' needs none") from err
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    if done.returncode and not lines:
        raise UsageError("ps: " + done.stderr.decode("utf-8", "replace").strip().splitlines()[0].removeprefix("error: "))
    heads = lines[0].split() if lines else []
    if "PID" not in heads:
        raise UsageError("these options of ps show no PID", hint="add one: -o pid,...")
    place = heads.index("PID")
    print(escapes.one_line(lines[0]))
    wanted = {str(pid) for pid in pids}
    for line in lines[1:]:
        words = line.split(None, place + 1)
        if len(words) > place and words[place] in wanted:
            print(escapes.one_line(line))


def _everything(options: list[str]) -> list[str]:
    """The options, and -e where they choose no processes themselves; one of BSD's, which have no dash, takes x for it."""
    first = options[0]
    if first.startswith("-"):
        return ["-e", *options]
    return [first + "".join(each for each in "ax" if each not in first), *options[1:]] if first.isalpha() else options
