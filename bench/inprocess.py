"""Containers run in a loop by one Python process, without a `box` command each: what a builder or a server sees."""

import os
from collections.abc import Iterator

from bench import run, tables
from bench.bundle import make_bundle
from bench.place import Place
from bench.timing import Contestant, Failed, Result, calls, paired, process
from runtime.container import run as run_container
from runtime.spec import Spec
from store.layout import Store
from store.prepare import prepare

ROUNDS = 101
_OURS = "runtime.container.run"


def measure(place: Place, rounds: int) -> Iterator[str]:
    """One table."""
    image = prepare(Store.open(place.root), place.image)
    nothing = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)

    def contain() -> None:
        spec = Spec(place.root, run.ARGV, image.trees)
        spec.removed = True
        outcome = run_container(spec, stdin=nothing, stdout=nothing, stderr=nothing)
        if outcome.status:
            raise Failed(f"the container ended with {outcome.status}")

    contestants, missing = [Contestant(_OURS, calls(contain))], dict[str, Result]()
    try:
        bundle = f"{place.scratch}/bundle"
        if not os.path.exists(bundle):
            make_bundle(bundle, place.saved, run.ARGV)
        contestants.append(Contestant("bwrap", process(run.bwrap(bundle))))
    except Failed as reason:
        missing["bwrap"] = reason
    results = paired(contestants, rounds, rest=0) | missing
    os.close(nothing)
    yield tables.comparison("inprocess: a container of /bin/true by one Python process", _OURS, results, {"bwrap": 0.7})
