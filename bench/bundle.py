"""An OCI bundle equal to what `box run` makes: for runc and crun."""

import json
import os
import tarfile
from typing import Any

from bench.place import run
from runtime.capabilities import RUN_DEFAULT, names_of
from runtime.rootfs import MASKED_DIRECTORIES, MASKED_FILES, READ_ONLY
from runtime.seccomp import ALLOW
from runtime.seccomp_profile import default

_ERRNO, _EPERM, _ENOSYS = "SCMP_ACT_ERRNO", 1, 38


def make_bundle(directory: str, saved: str, argv: list[str]) -> None:
    """Lay out a bundle of a saved image's files: box's namespaces, masked paths, capabilities, filter and pids limit.

    Its root file system is a plain directory: an overlay mount less than box's.
    """
    extract(saved, f"{directory}/rootfs")
    run(["runc", "spec", "--bundle", directory])
    path = f"{directory}/config.json"
    with open(path) as file:
        config: dict[str, Any] = json.load(file)
    capabilities = [f"CAP_{name}" for name in names_of(RUN_DEFAULT)]
    config["process"].update(
        terminal=False,
        args=argv,
        noNewPrivileges=True,
        capabilities=dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
    )
    config["root"]["readonly"] = False
    linux = config["linux"]
    linux["namespaces"] = [{"type": each} for each in ("pid", "network", "ipc", "uts", "mount", "cgroup")]
    linux["resources"] = {"pids": {"limit": 1024}}
    linux["maskedPaths"] = [*MASKED_DIRECTORIES, *MASKED_FILES]
    linux["readonlyPaths"] = list(READ_ONLY)
    linux["seccomp"] = seccomp(RUN_DEFAULT)
    with open(path, "w") as file:
        json.dump(config, file)


def seccomp(capabilities: int) -> dict[str, Any]:
    """Box's default filter in the form of the OCI's runtime specification.

    What box refuses by an argument in a call that is allowed otherwise (ioctl, socket) is allowed: that form cannot say it.
    """
    allowed: list[str] = []
    syscalls: list[dict[str, Any]] = []
    for name, rules in sorted(default(capabilities).rules.items()):
        if any(rule.action == ALLOW and not rule.when for rule in rules):
            allowed.append(name)
            continue
        for rule in rules:
            action = {"action": "SCMP_ACT_ALLOW"} if rule.action == ALLOW else {"action": _ERRNO, "errnoRet": _ENOSYS}
            conditions = [
                {"index": each.argument, "value": each.mask, "valueTwo": each.value, "op": "SCMP_CMP_MASKED_EQ"}
                for each in rule.when
            ]
            syscalls.append({"names": [name], **action, "args": conditions})
    return {
        "defaultAction": _ERRNO,
        "defaultErrnoRet": _EPERM,
        "architectures": ["SCMP_ARCH_X86_64" if os.uname().machine == "x86_64" else "SCMP_ARCH_AARCH64"],
        "syscalls": [{"names": allowed, "action": "SCMP_ACT_ALLOW"}, *syscalls],
    }


def extract(saved: str, directory: str) -> None:
    """The files of an image of one layer, from an archive that `box save` made."""
    os.makedirs(directory)
    with tarfile.open(saved) as archive:
        manifest = archive.extractfile("manifest.json")
        assert manifest is not None
        (layer,) = json.load(manifest)[0]["Layers"]
        archive.extract(layer, f"{directory}.layers")
    run(["tar", "--extract", "--numeric-owner", "--file", f"{directory}.layers/{layer}", "--directory", directory])
