"""Wall times: one sample of a process, and many samples in paired rounds."""

import gc
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

# After a sample, before the next: what a peer leaves to its daemon, or to the kernel, should not be the next one's time.
REST = 0.03

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": os.environ.get("HOME", "/root"),
    "LANG": "C.UTF-8",
}


class Failed(Exception):
    """Something that was to be timed did not work: the reason, in a line."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """What is timed: `sample` does it once and returns its seconds, and `before` prepares, untimed, each time."""

    name: str
    sample: Callable[[], float]
    before: Callable[[], object] = lambda: None


@dataclass(frozen=True, slots=True)
class Samples:
    """A contestant's seconds, a round each."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def least(self) -> float:
        return min(self.seconds)

    def ratio(self, other: "Samples") -> float:
        """How many times the other's time this takes: the median over the rounds, so that a slow minute counts for both."""
        return statistics.median(mine / its for mine, its in zip(self.seconds, other.seconds, strict=True))


Result = Samples | Failed


def process(argv: list[str], environment: Mapping[str, str] = ENVIRONMENT, *, status: int = 0) -> Callable[[], float]:
    """A sample of a whole process: from its spawning (vfork and execve) until it was waited for. Raises Failed."""
    program = _find(argv[0], environment)

    def sample() -> float:
        with tempfile.TemporaryFile() as errors:
            actions = [
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, errors.fileno(), 2),
            ]
            began = time.perf_counter_ns()
            # Python ignores SIGPIPE, which a child would inherit.
            pid = os.posix_spawn(program, argv, environment, file_actions=actions, setsigdef=[signal.SIGPIPE])
            _, waited, _ = os.wait4(pid, 0)
            ended = time.perf_counter_ns()
            found = os.waitstatus_to_exitcode(waited)
            if found != status:
                errors.seek(0)
                lines = errors.read().decode(errors="replace").strip().splitlines() or ["no message"]
                raise Failed(f"{os.path.basename(program)} ended with {found}: {lines[-1][:200]}")
        return (ended - began) / 1e9

    return sample


def calls(action: Callable[[], object]) -> Callable[[], float]:
    """A sample of a call in this process."""

    def sample() -> float:
        began = time.perf_counter_ns()
        action()
        return (time.perf_counter_ns() - began) / 1e9

    return sample


def paired(contestants: Sequence[Contestant], rounds: int, *, warm_up: int = 2, rest: float = REST) -> dict[str, Result]:
    """Each contestant once a round, each round begun by another one. Who fails while warming up is out, with the reason."""
    results: dict[str, Result] = {}
    running: list[Contestant] = []
    for contestant in contestants:
        try:
            for _ in range(max(warm_up, 1)):
                contestant.before()
                contestant.sample()
            running.append(contestant)
        except Failed as reason:
            results[contestant.name] = reason
    seconds: dict[str, list[float]] = {contestant.name: [] for contestant in running}
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            for place in range(len(running)):
                contestant = running[(number + place) % len(running)]
                contestant.before()
                time.sleep(rest)
                seconds[contestant.name].append(contestant.sample())
    finally:
        gc.enable()
    return results | {name: Samples(tuple(each)) for name, each in seconds.items()}


def _find(name: str, environment: Mapping[str, str]) -> str:
    if "/" in name:
        return name
    for directory in environment.get("PATH", os.defpath).split(":"):
        if os.access(f"{directory}/{name}", os.X_OK):
            return f"{directory}/{name}"
    raise Failed(f"{name} is not installed")
