"""Health checks of a container in the monitor's charge: a command in it, again and again, and what follows when it fails.

Each is run by a child of the monitor, as `box exec` would. What came of the last five is in the file `health` of the container's
directory. Imported for a container that has checks.
"""

import os
import select
import time
from _signal import signal as set_handler

from runtime import linux, records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from runtime.charge import Charge

STARTING, HEALTHY, UNHEALTHY = "starting", "healthy", "unhealthy"
NONE, KILL, RESTART, STOP = "none", "kill", "restart", "stop"  # what follows when it becomes unhealthy
# Docker's, in seconds.
INTERVAL, TIMEOUT, RETRIES, START_PERIOD = 30.0, 30.0, 3, 0.0
_KEPT_RESULTS = 5
_KEPT_OUTPUT = 4096
_PIECE = 1 << 15
_PAUSED = 253  # of the child: there is nothing to be said
_UNTIL_KILLED = 10.0
_SIGTERM = 15


def of_image(fields: list[str]) -> "dict[str, Any]":
    """The checks of an image, from what store.prepared keeps of them: interval, timeout and start period in nanoseconds,
    retries, and the test's words; none where that is empty. What is 0 there is the default."""
    if not fields:
        return {}
    interval, timeout, start_period, retries = (int(field) for field in fields[:4])
    return settle(fields[4:], interval / 1e9, timeout / 1e9, start_period / 1e9, retries)


def settle(
    test: list[str], interval: float = 0, timeout: float = 0, start_period: float = 0, retries: int = 0
) -> "dict[str, Any]":
    """The checks as a container's record has them; empty for none. `test` begins with CMD, CMD-SHELL or NONE."""
    if len(test) < 2 or test[0] not in ("CMD", "CMD-SHELL"):
        return {}
    return {
        "test": test,
        "interval": interval or INTERVAL,
        "timeout": timeout or TIMEOUT,
        "start_period": start_period or START_PERIOD,
        "retries": retries or RETRIES,
        "on_failure": NONE,
    }


class Health:
    """The checks of one container. `settings` is what `settle` gives."""

    def __init__(self, charge: "Charge", settings: "Mapping[str, Any]") -> None:
        self.charge = charge
        self.settings = settings
        self.status = STARTING
        self.streak = 0
        self.results: list[dict[str, Any]] = []
        self._write()
        self._later()

    def _later(self) -> None:
        self.charge.monitor.later(self.settings["interval"], self._check, self.charge)

    def _check(self) -> None:
        charge = self.charge
        if charge.over:
            return
        begun = time.time()
        output = bytearray()
        late = False
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(writer, True)

        def read(events: int) -> None:
            try:
                data = os.read(reader, _PIECE)
            except BlockingIOError:
                return
            if not data:
                charge.monitor.off(reader)
            output.extend(data[: _KEPT_OUTPUT - len(output)])

        def done(status: int) -> None:
            read(0)
            charge.monitor.off(reader)
            os.close(reader)
            if charge.over:
                return
            if status != _PAUSED:
                text = (
                    f"Health check exceeded timeout ({self.settings['timeout']:g}s)"
                    if late
                    else output.decode("utf-8", "replace")
                )
                self._judge(begun, -1 if late else status, text)
            self._later()

        def give_up() -> None:
            nonlocal late
            late = True
            os.kill(handle, _SIGTERM)  # at which it ends what it has started, and waits for it

        charge.monitor.on(reader, select.EPOLLIN, read, charge)
        try:
            handle = charge.monitor.task(
                lambda: run_check(charge.monitor.root, charge.id, self.settings["test"], writer), done, (writer,), charge
            )
        finally:
            os.close(writer)
        self._limit(handle, give_up)

    def _limit(self, pid: int, give_up: "Callable[[], None]") -> None:
        def due() -> None:
            if pid in self.charge.monitor.children:
                give_up()

        self.charge.monitor.later(self.settings["timeout"], due, self.charge)

    def _judge(self, begun: float, status: int, text: str) -> None:
        self.results = [
            *self.results[1 - _KEPT_RESULTS :],
            {"start": begun, "end": time.time(), "status": status, "output": text},
        ]
        former = self.status
        if status == 0:
            self.status, self.streak = HEALTHY, 0
        elif self.status != STARTING or begun - float(self.charge.record["started"]) >= self.settings["start_period"]:
            self.streak += 1
            if self.streak >= self.settings["retries"]:
                self.status = UNHEALTHY
        self._write()
        if self.status == UNHEALTHY != former:
            self._follow()

    def _follow(self) -> None:
        charge, action = self.charge, self.settings["on_failure"]
        if action == NONE:
            return
        charge.stopped = action == STOP
        charge.forced = action == RESTART
        charge.signal(linux.SIGKILL if action == KILL else int(charge.record.get("stop_signal") or 15))
        charge.monitor.later(_UNTIL_KILLED, lambda: None if charge.over else charge.signal(linux.SIGKILL), charge)

    def _write(self) -> None:
        records.write(
            self.charge.journal.path + "/health", {"status": self.status, "streak": self.streak, "results": self.results}
        )


def _interrupted(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def run_check(root: str, identity: str, test: list[str], output: int) -> int:
    """In a child of the monitor: its exit status is the check's."""
    from runtime.join import run
    from runtime.state import Containers
    from store.errors import BoxError

    set_handler(_SIGTERM, _interrupted)
    container = Containers(root).read(identity)
    if container is None or container.status != "running" or container.paused:
        return _PAUSED
    argv = test[1:] if test[0] == "CMD" else ["/bin/sh", "-c", test[1]]
    try:
        return run(container, argv, env=[], stdin=0, stdout=output, stderr=output, forward=False).status
    except BoxError as err:
        os.write(output, err.message.encode("utf-8", "surrogateescape"))
        return err.exit_status
