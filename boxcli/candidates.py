"""What a shell may complete: the names of images and containers. Never an error: a completion that fails offers nothing."""

from __future__ import annotations

from store.errors import BoxError


def of(kind: str, root: str) -> list[str]:
    """The names of this kind (image, container, `any` of both, volume, mount, `end` of a copy) that are in `root`, sorted."""
    import os

    if not os.path.isdir(root):
        return []  # completion makes no store
    try:
        if kind == "any":
            return [*of("container", root), *of("image", root)]
        if kind == "end":
            return [name + ":" for name in of("any", root)]
        if kind == "volume action":
            from boxcli.volumes import VERBS

            return list(VERBS)
        if kind == "volume":
            from runtime.volumes import all_volumes

            return [volume.name for volume in all_volumes(root)]
        if kind == "mount":
            from store.mounts import all_mounts

            return [mounted.target for mounted in all_mounts(root)]
        if kind == "image":
            from store.layout import Store

            return [named.name for named in Store.open(root, make=False).references.all() if named.name]
        if kind == "container":
            from runtime.state import Containers

            return sorted(container.name for container in Containers(root).all())
    except (BoxError, OSError):
        pass
    return []
