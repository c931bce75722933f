"""What writers who come from other build files probably mean by a key that the language does not have, or not here.

A word is the key that was meant; a sentence is a hint of its own.
"""

from __future__ import annotations

_A_STEP = "this is a step: put it under 'steps:', after '- '"

DOCUMENT = {
    "from": "base",
    "image": "base",
    "version": "box",
    "arg": "args",
    "tag": "name",
    "build": "steps",
    "script": "steps",
    **dict.fromkeys(("run", "copy", "write", "mkdir", "symlink", "remove", "workdir", "user", "fetch"), _A_STEP),
    **dict.fromkeys(("env", "label"), _A_STEP + ", or set it in 'config'"),
    **{key: f"'{key}' belongs to 'config'" for key in ("entrypoint", "cmd", "expose", "volumes", "labels", "healthcheck")},
    "stop_signal": "'stop_signal' belongs to 'config'",
}
STEPS = {
    "add": "copy",
    "cp": "copy",
    "file": "write",
    "rm": "remove",
    "delete": "remove",
    "ln": "symlink",
    "link": "symlink",
    "labels": "label",
    "environment": "env",
    "cmd": "run",
    "command": "run",
    "script": "run",
    "shell": "run",
    "dir": "mkdir",
    "cd": "workdir",
    "cwd": "workdir",
    "from": "'base' comes before the steps",
    "arg": "'args' comes before the steps",
    "entrypoint": "'entrypoint' belongs to 'config'",
    "expose": "'expose' belongs to 'config'",
    "volume": "'volumes' belongs to 'config'",
    "volumes": "'volumes' belongs to 'config'",
    "healthcheck": "'healthcheck' belongs to 'config'",
}
STEP_KEYS = {
    "dest": "to",
    "source": "from",
    "src": "from",
    "content": "text",
    "cwd": "workdir",
    "environment": "env",
    "chown": "owner",
    "chmod": "mode",
}
CONFIG = {"command": "cmd", "environment": "env", "ports": "expose", "label": "labels", "volume": "volumes", "cwd": "workdir"}
HEALTHCHECK = {"test": "command", "cmd": "command"}
BASE = dict.fromkeys(
    ("tar", "tarball", "image", "from", "file", "path", "url", "scratch"),
    "write the tarball, image or 'scratch' as the value itself: 'base: ./debian.tar'",
)
