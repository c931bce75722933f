"""What the containers and the mounts of a store stand on, in the words of whoever deletes (store/marks.py)."""

from __future__ import annotations

from runtime.state import Containers
from store.digest import digest_of_name
from store.marks import InUse
from store.mounts import all_mounts


def in_use(root: str, *, running: bool = False) -> InUse:
    """What the containers of the store at `root` were made of, the ended ones too unless only the `running` are asked for, and
    what `box mount` shows."""
    images: set[str] = set()
    stacks: set[str] = set()
    trees: set[str] = set()
    whose: list[tuple[str, str]] = []
    for container in Containers(root).recorded():
        if running and container.status == "stopped":
            continue
        chains = [chain for path in container.record.get("lowers", []) if (chain := _chain(path))]
        trees.update(chains)
        for mount in container.record.get("mounts", []):
            if mount["kind"] == "image":
                images.add(mount["digest"])
                whose.append((mount["digest"], f"container {container.name}"))
                trees.update(chain for path in mount["trees"] if (chain := _chain(path)))
        if container.image_digest:
            images.add(container.manifest_digest or container.image_digest)
            whose.append((container.manifest_digest or container.image_digest, f"container {container.name}"))
        else:
            stacks.update(chains[:1])
            whose += [(chain, f"container {container.name}") for chain in chains[:1]]
    for mounted in all_mounts(root):
        trees.update(mounted.chains)
        if mounted.image:
            images.add(mounted.image)
            whose.append((mounted.image, f"the mount {mounted.target}"))
    return InUse(frozenset(images), frozenset(stacks), frozenset(trees), tuple(whose))


def _chain(path: str) -> str:
    """The stack whose tree lies at `path`, which ends in HEX/NAME by whatever way the store was reached; else empty."""
    return str(digest_of_name(path.rpartition("/")[0].rpartition("/")[2]) or "")
