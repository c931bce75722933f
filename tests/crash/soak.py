"""The long form of the crash tests, with figures: `make soak`, or `python -m tests.crash.soak [SECONDS of the crowd]`.

Every action is killed at each call that changes something and refused something at every call, from inside and by strace; the
power is cut at every sync, link, rename, unlink and write; gc comes between any two calls of whoever makes something; a crowd of
builders and collectors is let loose; and each mutant has to be noticed. The exit status is 1 when there was any damage.
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["BOX_SOAK"] = "1"

from tests.crash import test_beside, test_disk, test_every_call, test_power, test_strace
from tests.crash.crowd import crowd
from tests.crash.injection import CAUSES
from tests.crash.power_cut import copy_of, cut, make_disk
from tests.crash.scenes import ACTIONS, OF_THE_BEST_DRIVER, Scene, quick

REPAIR = "the next command failed"

Figures = tuple[int, list[str]]


def kills(top: Path) -> Figures:
    """Killed at every call, from inside."""
    return _sum(test_every_call.killed_at_every_call(Scene(top / action, action)) for action in (*ACTIONS, *OF_THE_BEST_DRIVER))


def refusals(top: Path, error: int) -> Figures:
    """The same, refused with an error."""
    return _sum(
        test_every_call.starved_at_every_call(Scene(top / action, action), error, 1) for action in (*ACTIONS, *OF_THE_BEST_DRIVER)
    )


def kills_by_the_kernel(top: Path) -> Figures:
    """Killed by strace as the call is entered."""

    def each() -> Iterator[Figures]:
        for action in ACTIONS:
            if action in test_strace.FROM_OUTSIDE:
                continue
            scene = Scene(top / action, action)
            for call in test_strace.CALLS:
                for number, _ in enumerate(test_strace.attempts(scene, call, "signal=KILL"), 1):
                    yield 1, [f"{action} killed at {call} {number}: {what}" for what in scene.wrong()]

    return _sum(each())


def power_cuts(top: Path) -> Figures:
    """The power cut at every call that puts something on the disk."""
    disk = make_disk(top)

    def each() -> Iterator[Figures]:
        for action in ("new", "delete", "gc", "prune", "tree"):
            before = cut(copy_of(disk), "", "gc")["names"]
            after = cut(copy_of(disk), "", action)["names"]
            for call in test_power.CALLS:
                for number in itertools.count(1):
                    result = cut(copy_of(disk), f"{call}:signal=KILL:when={number}", action)
                    wrong = [f"{action} cut at {call} {number}: {result['damage']}"] if result["damage"] else []
                    if result["names"] not in (before, after):
                        wrong.append(f"{action} cut at {call} {number}: names {result['names']}")
                    if result["status"] == 0:
                        break
                    yield 1, wrong

    return _sum(each())


def between(top: Path) -> Figures:
    """gc between any two calls of whoever makes something, and the other way round."""

    def each() -> Iterator[Figures]:
        for maker, (one, wanted) in test_beside.MAKERS.items():
            scene = Scene(top / maker, "gc")
            for first, second in ((one, test_beside.collected), (test_beside.collected, one)):
                beside = test_beside.Beside(
                    scene, first, second, lambda store, wanted=wanted: test_beside.whole(store, "kept:latest", *wanted)
                )
                wrong = beside.run()
                yield beside.points, wrong
        beside_run = test_beside.run_beside_rmi(top / "run")
        yield beside_run.points, beside_run.wrong

    return _sum(each())


def mutants(top: Path) -> Figures:
    """Mutants: a point is one that was noticed, damage is one that was not."""

    def each() -> Iterator[Figures]:
        for mutant, action in map(_values, test_every_call.MUTANTS):
            _, wrong = test_every_call.killed_at_every_call(Scene(top / mutant, action), mutant)
            yield int(bool(wrong)), [] if wrong else [f"nobody noticed that {mutant}"]
        for mutant, gc_comes_in_between in test_beside.MUTANTS:
            wrong = test_beside.with_mutant(top / mutant, mutant, gc_comes_in_between)
            yield int(bool(wrong)), [] if wrong else [f"nobody noticed that {mutant}"]
        for action in ("new", "load", "build", "tag"):
            scene = Scene(top / f"sync-{action}", action)
            for site in sorted(test_disk.lost(scene)[0] - test_disk.SPARE):
                wrong = test_disk.lost(scene, site)[1]
                yield int(bool(wrong)), [] if wrong else [f"nobody noticed that {site} does not sync in {action}"]

    return _sum(each())


def _values(parameters: Any) -> tuple[str, str]:
    """The values of a test's parameters, marked or not."""
    mutant, action = getattr(parameters, "values", parameters)
    return mutant, action


def _sum(each: Iterator[Figures]) -> Figures:
    points = 0
    wrong: list[str] = []
    for number, found in each:
        points += number
        wrong += found
    return points, wrong


def main() -> int:
    """Do all of it; print a table."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    test_beside.collect.PATIENCE = 0.2
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        top = Path(directory)
        memory = quick(top)
        kinds: list[tuple[str, Callable[[], Figures]]] = [
            ("killed at a call", lambda: kills(memory / "kills")),
            *(
                (f"refused with {errno.errorcode[error]}", lambda error=error: refusals(memory / str(error), error))
                for error in CAUSES
            ),
            ("killed by the kernel", lambda: kills_by_the_kernel(memory / "kernel")),
            ("power cut", lambda: power_cuts(top)),
            ("gc between two calls", lambda: between(memory / "between")),
            ("mutants noticed", lambda: mutants(memory / "mutants")),
        ]
        failed = False
        sys.stdout.write(f"{'':24}{'points':>8}{'damage':>8}{'manual repairs':>16}{'seconds':>9}\n")
        for name, do in kinds:
            start = time.monotonic()
            points, wrong = do()
            repairs = sum(REPAIR in what for what in wrong)
            sys.stdout.write(f"{name:24}{points:8}{len(wrong):8}{repairs:16}{time.monotonic() - start:9.0f}\n")
            sys.stdout.write("".join(f"    {what}\n" for what in wrong[:20]))
            sys.stdout.flush()
            failed |= bool(wrong)
        report = crowd(str(memory / "crowd/store"), seconds)
        sys.stdout.write(
            f"a crowd for {seconds:.0f} s: {report.builds} builds beside {report.collections} collections of {report.deleted} "
            f"objects; damage {len(report.damaged)}; digests of one build {len(report.digests)}\n"
        )
        if memory != top:
            shutil.rmtree(memory)
    return int(failed or bool(report.damaged) or len(report.digests) > 1)


if __name__ == "__main__":
    sys.exit(main())
