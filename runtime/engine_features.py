"""What the runtime can do, in the form of the runtime-spec's features.md; and an example of a config.json."""

from runtime.bundle import HOOKS, NAMESPACES
from runtime.bundle_mounts import known_options
from runtime.capabilities import NAMES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_DEFAULT = ("AUDIT_WRITE", "KILL", "NET_BIND_SERVICE")


def features() -> "dict[str, Any]":
    """OCI runtime-spec, features.md and features-linux.md."""
    from runtime.bundle_scheduling import MEMORY_FLAGS, MEMORY_MODES, POLICIES

    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.2.0",
        "hooks": list(HOOKS),
        "mountOptions": known_options(),
        "linux": {
            "namespaces": list(NAMESPACES),
            "capabilities": ["CAP_" + name for name in NAMES],
            "cgroup": {"v1": True, "v2": True, "systemd": False, "systemdUser": False, "rdma": True},
            "seccomp": _seccomp(),
            "apparmor": {"enabled": False},
            "selinux": {"enabled": False},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": True}},
            "memoryPolicy": {"modes": list(MEMORY_MODES), "flags": list(MEMORY_FLAGS)},
            "netDevices": {"enabled": False},
        },
        "annotations": {"box.schedulers": ",".join(POLICIES)},
    }


def _seccomp() -> "dict[str, Any]":
    from runtime import seccomp_policy

    return {
        "enabled": True,
        "actions": sorted(seccomp_policy.ACTIONS),
        "operators": sorted(seccomp_policy.OPERATORS),
        "archs": sorted(name for name, known in seccomp_policy.ARCHITECTURES.items() if known),
        "knownFlags": sorted(seccomp_policy.FLAGS),
        "supportedFlags": sorted(seccomp_policy.FLAGS),
    }


def example() -> str:
    """A config.json for a shell in the directory `rootfs`, as `runc spec` writes one."""
    import json

    from runtime.rootfs import MASKED_DIRECTORIES, MASKED_FILES, READ_ONLY

    capabilities = ["CAP_" + name for name in _DEFAULT]
    document = {
        "ociVersion": "1.2.0",
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "box",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
            },
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            },
            {
                "destination": "/dev/shm",
                "type": "tmpfs",
                "source": "shm",
                "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
            },
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {
                "destination": "/sys/fs/cgroup",
                "type": "cgroup",
                "source": "cgroup",
                "options": ["nosuid", "noexec", "nodev", "relatime", "ro"],
            },
        ],
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": name} for name in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
            "maskedPaths": sorted(MASKED_DIRECTORIES + MASKED_FILES),
            "readonlyPaths": list(READ_ONLY),
        },
    }
    return json.dumps(document, indent="\t") + "\n"
