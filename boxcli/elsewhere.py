"""What users of docker and podman type that box has not, or not yet, and what to do instead. Asked only for what is unknown."""

from __future__ import annotations

_REGISTRY = "registries are not supported yet: "
_FETCH = _REGISTRY + "skopeo copy docker://NAME oci-archive:FILE, then box load -i FILE"
_SEND = _REGISTRY + "box save -o FILE NAME, then skopeo copy oci-archive:FILE docker://NAME"
_PORTS = "ports are not published yet; with --network host a container has this machine's"
_NETWORKS = "networks between containers are not supported yet; there is --network host"
_DEVICES = "devices of this machine are not given to containers yet"
_NAMES = "with --network host a container has this machine's; or bind a file: -v FILE:/etc/resolv.conf:ro"
_OWN = "a container has a namespace of its own, always"
_PLATFORM = "box builds and runs for this machine's own platform"
_LATER = "not supported yet"
_STEP = "a step says it: run: {command: ..., network: none}"

COMMANDS = {
    "pull": _FETCH,
    "push": _SEND,
    "login": _REGISTRY + "skopeo login serves skopeo",
    "logout": _REGISTRY + "skopeo logout serves skopeo",
    "search": "registries are not supported yet",
    "manifest": "registries are not supported yet",
    "network": _NETWORKS,
    "port": _PORTS,
    "compose": "each container is started by a command of its own: box run -d --name NAME IMAGE",
    "image": "images have commands of their own: images, tag, rmi, history, save, load, inspect",
    "container": "containers have commands of their own: ps, run, start, stop, rm, inspect",
    "system": "it is 'box df', 'box prune' and 'box info'",
    "buildx": "it is 'box build'",
    "builder": "it is 'box build'; 'box prune' forgets its cache",
    "ls": "it is 'box ps' for containers and 'box images' for images",
    "list": "it is 'box ps' for containers and 'box images' for images",
    "delete": "it is 'box rm' for containers and 'box rmi' for images",
    "remove": "it is 'box rm' for containers and 'box rmi' for images",
    "shell": "it is 'box run -it IMAGE sh', or 'box exec -it CONTAINER sh'",
    "lock": _LATER,
    "why": "not supported yet; 'box build' says of each step why it was done",
    "convert": "not supported yet; 'box help build' and the README have the Boxfile's steps",
    "init": "not supported yet; the README has a Boxfile to begin with",
}

# By the option, or by the command and the option where it means something else elsewhere.
OPTIONS = {
    "-p": _PORTS,
    "-P": _PORTS,
    "--publish": _PORTS,
    "--publish-all": _PORTS,
    "--expose": _PORTS,
    "--privileged": "name what it needs: --cap-add, --security-opt, -v",
    "--device": _DEVICES,
    "--gpus": _DEVICES,
    "--dns": _NAMES,
    "--dns-search": _NAMES,
    "--dns-option": _NAMES,
    "--link": _NETWORKS,
    "--ip": _NETWORKS,
    "--ip6": _NETWORKS,
    "--mac-address": _NETWORKS,
    "--network-alias": _NETWORKS,
    "--platform": _PLATFORM,
    "--group-add": "not supported yet; -u USER:GROUP names the one group",
    "--pid": _OWN,
    "--ipc": _OWN,
    "--uts": _OWN,
    "--cgroupns": _OWN,
    "--sysctl": _LATER,
    "--runtime": "a container is run by box itself",
    "--pull": _FETCH,
    "--push": _SEND,
    "build --build-arg": "it is --arg NAME=VALUE, of the Boxfile's args",
    "build --target": "stages are not supported yet",
    "build --secret": "secrets are not supported yet",
    "build --ssh": "secrets are not supported yet",
    "build --network": _STEP,
    "build --label": "the Boxfile says it: config: {labels: {NAME: value}}",
    "build --add-host": _LATER,
    "build -o": "the image goes into the store: then box save -o FILE NAME",
    "build --output": "the image goes into the store: then box save -o FILE NAME",
    "build --check": _LATER,
    "build --dry-run": _LATER,
    "build --explain": "each step says why it is done, with --progress plain",
    "build --offline": _LATER,
    "build --locked": _LATER,
    "build --cache-from": "the cache is the store's own",
    "build --cache-to": "the cache is the store's own",
    "build --squash": "each step that changes files makes a layer",
    "build --rm": "nothing of a build is left but the image and its cache",
    "build --force-rm": "nothing of a build is left but the image and its cache",
}
