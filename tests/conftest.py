"""What every test stands on: an environment of its own, and the machine's capabilities said at the top of the report."""

import os
import platform
import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import machine

if TYPE_CHECKING:
    from tests.containers import Site

# What the caller's environment may change of box, of Python, or of a peer.
_STRAY = (
    "SOURCE_DATE_EPOCH",
    "NO_COLOR",
    "FORCE_COLOR",
    "CLICOLOR_FORCE",
    "DOCKER_HOST",
    "DOCKER_CONFIG",
    "CONTAINERS_CONF",
    "ENV",
    "BASH_ENV",
)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "needs(*capabilities): skipped where the machine lacks one of tests/machine.py's capabilities"
    )


def pytest_report_header() -> list[str]:
    lacking = {name: machine.lacking(name) for name in machine.PROBES}
    there = [name for name, reason in lacking.items() if not reason]
    missing = [f"{name} ({reason})" for name, reason in lacking.items() if reason]
    return [
        f"machine: Linux {platform.release()} {platform.machine()}, {os.cpu_count()} cores, cgroup v{machine.cgroup_version()}",
        "machine has: " + " ".join(there),
        "machine lacks: " + (", ".join(missing) or "nothing"),
        "skips that are failures (BOX_REQUIRE): " + (" ".join(sorted(machine.required())) or "none"),
    ]


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        for name in mark.args:
            need(name)


def need(name: str) -> None:
    """Skip the test where the machine lacks `name`, or fail it where BOX_REQUIRE names it."""
    reason = machine.lacking(name)
    if not reason:
        return
    if machine.required() & {name, "all"}:
        pytest.fail(f"BOX_REQUIRE asks for {name}, and this machine lacks it: {reason}", pytrace=False)
    pytest.skip(f"needs {name}: {reason}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With BOX_REQUIRE=all, any skip is a failure."""
    report = yield
    if report.skipped and "all" in machine.required() and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = (
            f"skipped, and BOX_REQUIRE=all: {report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr}"
        )
    return report


@pytest.fixture(autouse=True)
def _own_environment(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """HOME, the XDG directories and BOX_ROOT are this test's own; no locale, no colours, nothing of the caller's."""
    top: Path = tmp_path_factory.mktemp("home")
    for name, directory in (("HOME", "."), ("XDG_DATA_HOME", "data"), ("XDG_CONFIG_HOME", "config"), ("XDG_CACHE_HOME", "cache")):
        (top / directory).mkdir(exist_ok=True)
        monkeypatch.setenv(name, str((top / directory).resolve()))
    (top / "runtime").mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(top / "runtime"))
    monkeypatch.setenv("BOX_ROOT", str(top / "box"))
    for name in _STRAY:
        monkeypatch.delenv(name, raising=False)
    for name in list(os.environ):
        if name.startswith(("LC_", "LANG", "BOX_", "PYTHON")) and name not in ("BOX_ROOT", "BOX_REQUIRE"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    """A test leaves no signal blocked: the next would hand the mask down to its children."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    after = signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert after == before


@pytest.fixture(scope="session")
def _site(tmp_path_factory: pytest.TempPathFactory) -> "Site":
    from tests import containers

    return containers.make_site(tmp_path_factory.mktemp("site"))


@pytest.fixture
def site(_site: "Site", monkeypatch: pytest.MonkeyPatch) -> Iterator["Site"]:
    """A store with the image `probe`, of which nothing but the image is left when the test is over."""
    from tests import containers

    monkeypatch.setenv("BOX_ROOT", _site.root)
    with containers.traceless(_site):
        yield _site
