"""`box run --rm IMAGE /bin/true`, from the installed script to its exit, against whatever else runs a container here."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator

from bench import tables
from bench.bundle import make_bundle
from bench.docker import version as docker_version
from bench.place import Place, version
from bench.timing import Contestant, Failed, Result, Samples, paired, process

ROUNDS = 21
ARGV = ["/bin/true"]
_OURS = "box run"
_PYTHON = (sys.executable, "-I", "-S", "-X", "utf8")
_FLOOR = "python3, then bwrap"  # the least that a container started by this interpreter takes here


def measure(place: Place, rounds: int) -> Iterator[str]:
    """One table."""
    ours = Contestant(_OURS, process(place.box("run", "--rm", place.image, *ARGV)))
    bundle = f"{place.scratch}/bundle"
    make: dict[str, Callable[[], list[str]]] = {
        "runc run": lambda: _runtime(place, "runc", bundle),
        "crun run": lambda: _runtime(place, "crun", bundle),
        "bwrap": lambda: bwrap(bundle),
        "podman run": lambda: place.podman.run_command(place.image, *ARGV),
        "docker run": lambda: place.docker.run_command(place.image, *ARGV),
        "python3 -I -S": lambda: [*_PYTHON, "-c", "pass"],
        _FLOOR: lambda: [*_PYTHON, "-c", f"import posix; posix.execv({shutil.which('bwrap')!r}, {bwrap(bundle)!r})"],
    }
    contestants, missing = [ours], dict[str, Result]()
    for name, command in make.items():
        try:
            contestants.append(Contestant(name, process(command())))
        except Failed as reason:
            missing[name] = reason
    results = paired(contestants, rounds) | missing
    goals = {"runc run": 0.5, "bwrap": 2.6, "podman run": 0.08, "docker run": 0.06}
    yield tables.comparison(
        f"run: {' '.join(ours_shown(place))}", _OURS, results, goals, [*_floors(results, goals), *_notes(place)]
    )


def _floors(results: dict[str, Result], goals: dict[str, float]) -> list[str]:
    """What a goal leaves: the ratio of the floor to the peers."""
    floor = results.get(_FLOOR)
    if not isinstance(floor, Samples):
        return []
    shown = [
        f"{name} {floor.ratio(result):.3f} (goal {goals[name]:.2f})"
        for name, result in results.items()
        if name in goals and isinstance(result, Samples)
    ]
    return [f"{_FLOOR}, which does less, is to the others: {', '.join(shown)}"]


def ours_shown(place: Place) -> list[str]:
    """Our command as a user would type it."""
    return ["box", "run", "--rm", place.image, *ARGV]


def bwrap(bundle: str) -> list[str]:
    """bubblewrap with box's namespaces on the bundle's root file system; it sets no limit, no filter and no masks."""
    return [
        *("bwrap", "--bind", f"{bundle}/rootfs", "/", "--proc", "/proc", "--dev", "/dev", "--ro-bind", "/sys", "/sys"),
        *("--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-ipc", "--unshare-cgroup-try", "--hostname", "bench"),
        *("--die-with-parent", "--new-session", *ARGV),
    ]


def _runtime(place: Place, program: str, bundle: str) -> list[str]:
    if not os.path.exists(bundle):
        make_bundle(bundle, place.saved, ARGV)
    return [program, "--root", f"{place.scratch}/{program}", "run", "--bundle", bundle, "bench"]


def _notes(place: Place) -> list[str]:
    def of(say: Callable[[], str]) -> str:
        try:
            return say()
        except Failed:
            return "missing"

    return [
        "runc, crun: the same namespaces, masked paths, capabilities, filter, pids limit; a plain directory, no overlay mount.",
        "bwrap: the same namespaces; no filter, limit, masked path or devpts of its own. All: no network but loopback.",
        f"{version(['runc', '--version'])}; {version(['crun', '--version'])}; {version(['bwrap', '--version'])}; "
        f"{version(['podman', '--version'])} with {of(lambda: place.podman.runtime)}; docker {of(docker_version)}.",
    ]
