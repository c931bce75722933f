"""The profiles that docker and podman give to their containers: our filter answers every call as the one that runc makes."""

import io
import json
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.docker import Docker
from bench.podman import LIMITS, Podman
from bench.timing import Failed
from runtime.seccomp import X32_BIT
from runtime.seccomp_oci import compile_policy
from runtime.seccomp_policy import ERRNO, read
from runtime.syscall_tables import NUMBERS
from store.syscalls import MACHINE
from tests.conftest import need
from tests.peers.conftest import refuse
from tests.runtime import libseccomp
from tests.runtime.bpf import AUDIT_ARCH, LIBSECCOMP, run
from tests.runtime.child import install, result_of, status

pytestmark = [
    pytest.mark.needs("root"),
    pytest.mark.skipif(LIBSECCOMP is None, reason="libseccomp is not installed"),
]
ENOSYS = ERRNO | 38
AUDIT = {**AUDIT_ARCH, "x32": AUDIT_ARCH["x86_64"]}
WAYS = {"x86_64": ("x86_64", "x32", "i386"), "aarch64": ("aarch64", "arm")}[MACHINE]
# At the values that these profiles ask about: personalities, namespaces, socket families, an audit socket.
ARGUMENTS = [
    *[(value,) * 6 for value in (0, 1, 8, 9, 16, 40, 0x20000, 0x20008, 0x7E020000, 0x10000000, 0x3D0F00, 0xFFFFFFFF, 2**64 - 1)],
    *[(16, 3, 9, 0, 0, 0), (16, 3, 8, 0, 0, 0), (3, 16, 9, 0, 0, 0), (0x11, 0x20000, 0, 0, 0, 0), (1 << 32, 1 << 32, 0, 0, 0, 0)],
    *[(operation, 9, 9, 9, 9, 9) for operation in range(1, 25)],  # of socketcall and ipc
]
# An OCI runtime that keeps the configuration and refuses to create anything.
SAVING = """\
#!/bin/sh
while [ $# -gt 0 ]; do
    case $1 in
    --bundle | -b) cp "$2/config.json" "{directory}/config.json" ;;
    esac
    shift
done
exit 1
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runtime `saving` is, and keeps config.json."""
    directory = tmp_path_factory.mktemp("saving")
    program = directory / "saving"
    program.write_text(SAVING.format(directory=directory))
    program.chmod(0o755)
    return directory


@pytest.fixture(scope="module")
def docker(_short: Path, saved: Path) -> Iterator[Callable[..., list[str]]]:
    need("dockerd")
    try:
        daemon = Docker(f"{_short}/saving", f"--add-runtime=saving={saved}/saving", "--default-runtime=saving")
    except Failed as reason:
        refuse("dockerd", reason)
        raise
    yield daemon.command
    daemon.close()


@pytest.fixture(scope="module")
def podman(_short: Path, saved: Path) -> Iterator[Callable[..., list[str]]]:
    need("podman")
    store = Podman(f"{_short}/saving-podman", isolated=False)
    store.runtime = f"{saved}/saving"
    yield store.command
    store.close()


def profile_of(command: Callable[..., list[str]], saved: Path, *options: str) -> dict[str, Any]:
    """The `linux.seccomp` that the engine makes."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("empty"))
    done = subprocess.run(command("import", "-", "empty"), input=archive.getvalue(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    config = saved / "config.json"
    config.unlink(missing_ok=True)
    limits = LIMITS if "podman" in command("version") else ()
    done = subprocess.run(
        command("run", "--rm", "--network", "none", *limits, *options, "empty", "/none"), capture_output=True, check=False
    )
    assert config.exists(), done.stderr
    seccomp: dict[str, Any] = json.loads(config.read_text())["linux"]["seccomp"]
    return seccomp


@pytest.mark.parametrize("engine", ["docker", "podman"])
@pytest.mark.parametrize("options", [(), ("--cap-add", "SYS_ADMIN"), ("--cap-add", "ALL"), ("--cap-drop", "ALL")])
def test_an_engines_profile_is_libseccomps_on_every_call(
    engine: str, options: tuple[str, ...], saved: Path, request: pytest.FixtureRequest
) -> None:
    profile = profile_of(request.getfixturevalue(engine), saved, *options)
    names = {name for entry in profile["syscalls"] for name in entry["names"]}
    assert len(names) > 300
    policy = read(profile)
    ours, theirs = compile_policy(policy, MACHINE), libseccomp.program(profile, MACHINE)
    assert theirs is not None
    assert len(ours) < len(theirs) / 2
    assert result_of(lambda: [install(ours), status()["Seccomp"]][1]) == "2"
    for way in WAYS:
        base = X32_BIT if way == "x32" else 0
        last = max(number for name, number in NUMBERS[way].items() if name in names and number < 0xF0000 + base)
        for number in [*range(base, base + 600), base | 0x3FFFFFFF]:
            for arguments in ARGUMENTS:
                given = [value & 0xFFFFFFFF for value in arguments] if way in ("i386", "arm") else arguments
                expected = run(theirs, AUDIT[way], number, given)
                if number > last and expected == policy.default:
                    expected = ENOSYS  # what runc puts in front
                steps = 0 if way == "i386" and number in (102, 117) else 40
                assert run(ours, AUDIT[way], number, given, longest=steps) == expected, (way, number, given)
