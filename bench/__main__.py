"""`python -m bench [--rounds N] [--only NAME]...`: the tables on standard output, what is going on on standard error."""

import argparse
import os
import platform
import signal
import sys
from collections.abc import Callable, Iterator

from bench import build, engine, imports, inprocess, layers, load, run, unpack
from bench.place import Place, say
from bench.timing import Failed
from store import syscalls

_CLONE_NEWNS = 0x20000

BENCHMARKS: dict[str, tuple[Callable[[Place, int], Iterator[str]], int]] = {
    "run": (run.measure, run.ROUNDS),
    "engine": (engine.measure, engine.ROUNDS),
    "imports": (imports.measure, imports.ROUNDS),
    "inprocess": (inprocess.measure, inprocess.ROUNDS),
    "build": (build.measure, build.ROUNDS),
    "unpack": (unpack.measure, unpack.ROUNDS),
    "load": (load.measure, load.ROUNDS),
    "layers": (layers.measure, layers.ROUNDS),
}


def main() -> int:
    """Run the benchmarks asked for; 1 if one of them could not be."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Wall times of box and of its peers, in paired rounds.")
    parser.add_argument("--rounds", type=int, metavar="N", help="samples of each contestant (else each benchmark's own number)")
    parser.add_argument(
        "--only", action="append", choices=BENCHMARKS, metavar="NAME", help=f"one of {', '.join(BENCHMARKS)}; repeatable"
    )
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("bench: the peers and fresh file systems take root", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # Whatever ends this, the mounts end with it.
    syscalls.libc("unshare", _CLONE_NEWNS)
    syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)

    print(f"Linux {platform.release()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    status = 0
    place = Place()
    try:
        for name in options.only or BENCHMARKS:
            measure, rounds = BENCHMARKS[name]
            say(name)
            try:
                for table in measure(place, options.rounds or rounds):
                    print(table, flush=True)
            except Failed as reason:
                print(f"\n{name}: {reason}", flush=True)
                status = 1
    except KeyboardInterrupt:
        return 130
    finally:
        place.close()
    return status


if __name__ == "__main__":
    sys.exit(main())
