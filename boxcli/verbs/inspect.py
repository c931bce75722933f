"""`box inspect`: all that is known of containers and images, in the shape of docker's answer."""

from __future__ import annotations

import json
from typing import Any

from boxcli.failure import report
from boxcli.table import Argument, Option, Values, Verb
from store.errors import BoxError, ContainerMissing, ReferenceMissing, StoreMissing

_TYPES = ("container", "image")


def _type(text: str) -> str:
    if text not in _TYPES:
        raise ValueError(f"{text!r} is not 'container' or 'image'")
    return text


VERB = Verb(
    "inspect",
    "Show all about containers and images",
    Option("-f", "--format", metavar="json|TEMPLATE", about="Print a template of each, such as '{{.State.ExitCode}}'."),
    Option("--type", metavar="container|image", read=_type, about="Look for one kind only."),
    Argument("NAME", many=True, completes="container"),
)


def main(values: Values) -> int:
    """Print a JSON array of what was found; what was not is said, and makes the exit status 1."""
    from boxcli import templates

    form = values.text("format")
    render = templates.compile_format(form) if form else None
    found: list[dict[str, Any]] = []
    status = 0
    for name in values.all("name", str):
        try:
            found.append(describe(values.root, name, values.text("type")))
        except BoxError as error:
            status = report(error)
    if render is None:
        print(json.dumps(found, indent=4, ensure_ascii=False).encode("utf-8", "backslashreplace").decode())
    else:
        for record in found:
            print(render(record))
    return status


def describe(root: str, name: str, kind: str) -> dict[str, Any]:
    """The container, or else the image, that `name` means. Raises ContainerMissing or ReferenceMissing."""
    if kind != "image":
        from boxcli.inspection import container

        try:
            return container(root, name)
        except ContainerMissing:
            if kind:
                raise
    from boxcli.inspection import image

    try:
        return image(root, name)
    except (ReferenceMissing, StoreMissing) as missing:
        if kind:
            raise
        raise BoxError(f"no container or image named {name!r}", hint="'box ps -a' and 'box images' list them") from missing
