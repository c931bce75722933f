"""What `inspect` says of one container or image: the field names are docker's, so that its users' templates work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from boxcli import amounts

if TYPE_CHECKING:
    from runtime.state import Container


def image(root: str, name: str) -> dict[str, Any]:
    """All about the image that `name` means. Raises ReferenceMissing."""
    from store.layout import Store
    from store.usage import on_disk

    store = Store.open(root, make=False)
    named = store.references.resolve(name)
    found = store.images.load(named.descriptor)
    names = [entry.name for entry in store.references.all() if entry.name and entry.descriptor.digest == named.descriptor.digest]
    config = found.config
    return {
        "Id": str(found.id),
        "Digest": str(found.descriptor.digest),
        "RepoTags": names,
        "RepoDigests": sorted({f"{name.rpartition(':')[0]}@{found.descriptor.digest}" for name in names}),
        "Created": config.get("created", ""),
        "Author": config.get("author", ""),
        "Architecture": config.get("architecture", ""),
        "Os": config.get("os", ""),
        "Size": on_disk(store, found.descriptor),
        "Config": config.get("config", {}),
        "RootFS": {"Type": "layers", "Layers": [str(layer.diff_id) for layer in found.layers]},
        "History": config.get("history", []),
    }


def container(root: str, name: str) -> dict[str, Any]:
    """All about the container that `name` means. Raises ContainerMissing."""
    from boxcli.verbs.ps import word
    from runtime.state import Containers

    found = Containers(root).find(name)
    config = found.record
    resources = config.get("resources", {})
    memory, cpu = resources.get("memory", {}), resources.get("cpu", {})
    return {
        "Id": found.id,
        "Name": found.name,
        "Created": amounts.stamp(found.created),
        "Path": found.argv[0] if found.argv else "",
        "Args": found.argv[1:],
        "State": {
            "Status": word(found),
            "Running": found.status == "running",
            "Paused": found.paused,
            "Restarting": found.restarting,
            "Pid": found.pid or 0,
            "ExitCode": found.exit_status or 0,
            "OOMKilled": bool(found.oom),
            "Error": found.error,
            "Reason": found.reason,
            "StartedAt": amounts.stamp(found.started),
            "FinishedAt": amounts.stamp(found.finished),
            **_health(found),
        },
        "Image": found.image_digest,
        "ImageName": found.image,
        "Config": {
            "Hostname": config["hostname"] or found.id[:12],
            "User": config["user"],
            "Env": config["env"],
            "Cmd": found.argv,
            "WorkingDir": config["cwd"],
            "Labels": found.labels,
            "Tty": config["terminal"],
            "StopSignal": config["stop_signal"],
        },
        "HostConfig": {
            "NetworkMode": config["network"],
            "ReadonlyRootfs": config["read_only"],
            "RestartPolicy": _restart_policy(config.get("restart") or "no"),
            "AutoRemove": config["removed"],
            "LogConfig": {"Type": "cri", "Config": {name: str(value) for name, value in config.get("log_options", {}).items()}},
            "Init": bool(config.get("init")),
            "Memory": config["memory"] or 0,
            "MemoryReservation": memory.get("reservation", 0),
            "MemorySwap": memory.get("swap", 0),
            "NanoCpus": int((config["cpus"] or 0) * 1e9),
            "CpuShares": cpu.get("shares", 0),
            "CpusetCpus": cpu.get("cpus", ""),
            "CpusetMems": cpu.get("mems", ""),
            "PidsLimit": config["pids_limit"],
            "ShmSize": config["shm_size"],
            "ExtraHosts": config["add_hosts"],
            "Ulimits": [{"Name": name, "Soft": soft, "Hard": hard} for name, soft, hard in config["ulimits"]],
            "SecurityOpt": _security(config),
        },
        "Mounts": [_mount(mount) for mount in config["mounts"]],
        "RestartCount": config.get("restarts", 0),
        "LogPath": found.log_path,
    }


def _health(found: Container) -> dict[str, Any]:
    health = found.health
    if not health:
        return {}
    log = [
        {
            "Start": amounts.stamp(result["start"]),
            "End": amounts.stamp(result["end"]),
            "ExitCode": result["status"],
            "Output": result["output"],
        }
        for result in health["results"]
    ]
    return {"Health": {"Status": health["status"], "FailingStreak": health["streak"], "Log": log}}


def _restart_policy(text: str) -> dict[str, Any]:
    name, _, most = text.partition(":")
    return {"Name": name, "MaximumRetryCount": int(most or 0)}


def _security(config: Mapping[str, Any]) -> list[str]:
    options = ["no-new-privileges=true" if config["no_new_privileges"] else "no-new-privileges=false"]
    return options if config["seccomp"] else [*options, "seccomp=unconfined"]


def _mount(mount: dict[str, Any]) -> dict[str, Any]:
    if mount["kind"] == "tmpfs":
        writable = not mount.get("read_only")
        return {"Type": "tmpfs", "Destination": mount["target"], "RW": writable, "Size": mount["size"] or 0}
    if mount["kind"] == "image":
        return {"Type": "image", "Source": mount["image"], "Destination": mount["target"], "RW": False}
    shown = {"Source": mount["source"], "Destination": mount["target"], "RW": not mount["read_only"]}
    if mount.get("volume"):
        return {"Type": "volume", "Name": mount["volume"], "Driver": "local", **shown}
    return {"Type": "bind", **shown, "Propagation": mount.get("propagation") or "rprivate"}
