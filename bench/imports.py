"""What `box run` imports, and what each module costs: the interpreter's own account (-X importtime)."""

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence

from bench import tables
from bench.place import BOX, Place
from bench.timing import ENVIRONMENT, Failed

ROUNDS = 11
_MOST = 12


def measure(place: Place, rounds: int) -> Iterator[str]:
    """One table: the dearest modules of `box run`, and the sums with and without those of a bare interpreter."""
    python = [sys.executable, "-I", "-S", "-X", "utf8", "-X", "importtime"]
    bare = _medians([*python, "-c", "pass"], rounds)
    hot = _medians(
        [*python, f"{os.path.dirname(BOX)}/box-python", "box", "--root", place.root, "run", "--rm", place.image, "true"], rounds
    )
    own = {name: cost for name, cost in hot.items() if name not in bare}
    dearest = sorted(own.items(), key=lambda item: -item[1])[:_MOST]
    rows = [(f"{cost} us", name) for name, cost in dearest]
    rows.append((f"{sum(own.values())} us", f"all {len(own)} modules that a bare interpreter has not"))
    rows.append((f"{sum(cost for name, cost in hot.items() if name in bare)} us", f"the bare interpreter's {len(bare)} modules"))
    yield tables.listing(f"imports: what `box run` imports, itself, medians of {rounds} (the account itself slows it)", rows)


def _medians(argv: Sequence[str], rounds: int) -> dict[str, int]:
    """Each module's own microseconds, the median over the rounds."""
    costs: dict[str, list[int]] = {}
    for number in range(rounds + 1):
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=ENVIRONMENT,
        )
        if done.returncode:
            raise Failed(f"box run ended with {done.returncode}: {done.stderr.strip().splitlines()[-1]}")
        if number == 0:
            continue  # it may have compiled
        for line in done.stderr.splitlines():
            # import time:       130 |        130 |   zipimport
            own, _, rest = line.removeprefix("import time:").partition("|")
            if line.startswith("import time:") and own.strip().isdecimal():
                costs.setdefault(rest.rpartition("|")[2].strip(), []).append(int(own))
    return {name: int(statistics.median(each)) for name, each in costs.items()}
