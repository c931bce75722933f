"""`box-runtime` against runc and crun: the same bundle, as engines call them; and docker on each."""

import os
import subprocess
from collections.abc import Callable, Iterator

from bench import tables
from bench.bundle import make_bundle
from bench.docker import Docker
from bench.place import BOX, Place
from bench.timing import ENVIRONMENT, Contestant, Failed, Result, paired, process

ROUNDS = 21
ARGV = ["/bin/true"]
BOX_RUNTIME = f"{os.path.dirname(BOX)}/box-runtime"
_RUNTIMES = {"box-runtime": BOX_RUNTIME, "runc": "runc", "crun": "crun"}


def measure(place: Place, rounds: int) -> Iterator[str]:
    """Three tables: `run`; create, start and delete, which are a process each; and `docker run`."""
    bundle = f"{place.scratch}/engine-bundle"
    make_bundle(bundle, place.saved, ARGV)
    whole = {name: process(_command(place, name, "run", "--bundle", bundle, "bench")) for name in _installed()}
    yield _compared("run: one command from the bundle to its exit", whole, rounds, {"runc": 0.6})
    parts = {name: _life(place, name, bundle) for name in _installed()}
    yield _compared("create, start, delete --force: three commands", parts, rounds, {"runc": 0.6})
    yield _docker(place, rounds)


def _installed() -> list[str]:
    return [name for name, program in _RUNTIMES.items() if name == "box-runtime" or _find(program)]


def _find(program: str) -> bool:
    return any(os.access(f"{directory}/{program}", os.X_OK) for directory in ENVIRONMENT["PATH"].split(":"))


def _command(place: Place, name: str, *words: str) -> list[str]:
    return [_RUNTIMES[name], "--root", f"{place.scratch}/engine-{name}", *words]


def _life(place: Place, name: str, bundle: str) -> Callable[[], float]:
    steps = [
        process(_command(place, name, *words))
        for words in (("create", "--bundle", bundle, "bench"), ("start", "bench"), ("delete", "--force", "bench"))
    ]
    return lambda: sum(step() for step in steps)


def _compared(title: str, samples: dict[str, Callable[[], float]], rounds: int, goals: dict[str, float]) -> str:
    results = paired([Contestant(name, sample) for name, sample in samples.items()], rounds)
    return tables.comparison(f"engine: {title}", "box-runtime", results, goals, ["The same bundle, an empty environment."])


def _docker(place: Place, rounds: int) -> str:
    """One daemon, both runtimes."""
    title, ours = "engine: docker run --rm, one daemon", "docker with box-runtime"
    try:
        daemon = Docker(f"{place.scratch}/engine-docker", f"--add-runtime=box={BOX_RUNTIME}")
    except Failed as reason:
        return f"\n{title}: {reason}"
    try:
        done = subprocess.run(daemon.command("load", "--input", place.saved), capture_output=True, text=True, check=False)
        if done.returncode:
            return f"\n{title}: {done.stderr.strip()}"
        contestants = [
            Contestant(
                name, process(daemon.command("run", "--rm", "--network", "none", "--runtime", runtime, place.image, *ARGV))
            )
            for name, runtime in ((ours, "box"), ("docker with runc", "runc"))
        ]
        results: dict[str, Result] = paired(contestants, rounds)
        return tables.comparison(title, ours, results, {"docker with runc": 1.0})
    finally:
        daemon.close()
