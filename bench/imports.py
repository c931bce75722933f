"""What `box run` imports, and what each module costs: the interpreter's own account (-X importtime)."""

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence

import boxcli
from bench import tables
from bench.place import BOX, Place
from bench.timing import ENVIRONMENT, Failed

ROUNDS = 11
_MOST = 12


# The same command without the file that has its modules ready: each is imported, and so accounted for, by itself.
_APART = """
import sys
directory, *argv = sys.argv[1:]
sys.path.append(directory)
from boxcli.main import main
from posix import _exit
_exit(main(argv))
"""
_AT_ONCE = """
import gc, sys
from time import perf_counter
gc.disable()
sys.path.append(sys.argv[1])
begun = perf_counter()
from boxcli import preload
kept = preload.Preload(sys.argv[2])
kept.load()
print(int((perf_counter() - begun) * 1e6), len(kept.kept))
"""


def measure(place: Place, rounds: int) -> Iterator[str]:
    """One table: the dearest modules of `box run`, and the sums with and without those of a bare interpreter."""
    python = [sys.executable, "-I", "-S", "-X", "utf8"]
    directory = os.path.dirname(os.path.dirname(boxcli.__file__))
    run = ["--root", place.root, "run", "--rm", place.image, "true"]
    bare = _medians([*python, "-X", "importtime", "-c", "pass"], rounds)
    hot = _medians([*python, "-X", "importtime", "-c", _APART, directory, *run], rounds)
    own = {name: cost for name, cost in hot.items() if name not in bare}
    dearest = sorted(own.items(), key=lambda item: -item[1])[:_MOST]
    rows = [(f"{cost} us", name) for name, cost in dearest]
    rows.append((f"{sum(own.values())} us", f"all {len(own)} modules that a bare interpreter has not, imported one by one"))
    subprocess.run([BOX, *run], check=True, env=ENVIRONMENT)  # makes the file of them, if need be
    kept = f"{os.path.dirname(boxcli.__file__)}/__pycache__/hot.{sys.implementation.cache_tag}.bin"
    once = [
        subprocess.run([*python, "-c", _AT_ONCE, directory, kept], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(rounds)
    ]
    rows.append(
        (f"{int(statistics.median(int(each[0]) for each in once))} us", f"{once[0][1]} of them made at once, as `box run` does")
    )
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
