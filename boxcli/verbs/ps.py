"""`box ps`: what containers there are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from boxcli import amounts, listing, readers
from boxcli.table import Option, Values, Verb

if TYPE_CHECKING:
    from runtime.state import Container

_FILTERS = ("id", "name", "label", "status", "ancestor", "exited")


def _filter(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or key not in _FILTERS:
        raise ValueError(f"{text!r} is not FIELD=VALUE with one of {', '.join(_FILTERS)}")
    return key, value


VERB = Verb(
    "ps",
    "List containers",
    Option("-a", "--all", about="Show those that have ended, too."),
    Option("-n", "--last", metavar="N", read=readers.whole, about="Show the N newest, whether they run or not."),
    Option("-l", "--latest", about="Show the newest, whether it runs or not."),
    listing.QUIET,
    listing.NO_TRUNC,
    Option(
        "-f",
        "--filter",
        metavar="FIELD=VALUE",
        many=True,
        read=_filter,
        about="Show those with this id, name, label, status, ...",
    ),
    listing.FORMAT,
    description="Filters: id=, name= (a part of it), label=KEY or label=KEY=VALUE, status=created|running|paused|exited, "
    "ancestor=IMAGE, exited=STATUS. Those of one field are alternatives, those of several must all hold.",
)

_COLUMNS = (
    ("CONTAINER ID", "ID"), ("IMAGE", "Image"), ("COMMAND", "Command"), ("CREATED", "RunningFor"), ("STATUS", "Status"),
    ("NAMES", "Names"),
)  # fmt: skip
_WIDEST = 20


def main(values: Values) -> int:
    """Print the running ones, or all with -a, the newest first."""
    from runtime.state import Containers

    filters = values.all("filter", tuple)
    last = 1 if values.flag("latest") else values.one("last", int)
    everything = values.flag("all") or last is not None or any(key in ("status", "exited") for key, _ in filters)
    found = [
        one
        for one in Containers(values.root).all()
        if (everything or one.status == "running" or one.restarting) and _fits(one, filters)
    ]
    listing.show(values, _rows(found[:last], values.flag("no_trunc")), _COLUMNS)
    return 0


def _rows(found: list[Container], whole: bool) -> Iterator[dict[str, object]]:
    for one in found:
        command = " ".join(one.argv)
        yield {
            "ID": one.id if whole else one.id[:12],
            "Image": one.image,
            "Command": f'"{command if whole or len(command) <= _WIDEST else command[: _WIDEST - 1] + "…"}"',
            "CreatedAt": amounts.local(one.created),
            "RunningFor": amounts.ago(one.created),
            "State": word(one),
            "Status": status(one),
            "Names": one.name,
            "Labels": ",".join(f"{key}={value}" for key, value in one.labels.items()),
        }


def word(container: Container) -> str:
    """The container's status in docker's words."""
    if container.paused:
        return "paused"
    if container.restarting:
        return "restarting"
    return "exited" if container.status == "stopped" else container.status


def status(container: Container) -> str:
    """The container's status as a sentence: "Up 5 minutes", "Exited (0) 3 minutes ago"."""
    import time

    if container.status == "running":
        health = container.health.get("status", "")
        health = f" (health: {health})" if health == "starting" else f" ({health})" if health else ""
        paused = " (Paused)" if container.paused else ""
        return f"Up {amounts.age(max(0.0, time.time() - container.started))}{health}{paused}"
    if container.restarting:
        return f"Restarting ({container.exit_status}) {amounts.ago(container.finished)}"
    if container.status == "stopped":
        return f"Exited ({container.exit_status}) {amounts.ago(container.finished)}"
    return "Created"


def _fits(container: Container, filters: list[tuple[str, str]]) -> bool:
    fields = {key for key, _ in filters}
    return all(any(_has(container, key, value) for key, value in filters if key == field) for field in fields)


def _has(container: Container, key: str, value: str) -> bool:
    if key == "label":
        label, equals, wanted = value.partition("=")
        return label in container.labels and (not equals or container.labels[label] == wanted)
    if key == "ancestor":
        full_name = value if ":" in value.rpartition("/")[2] else f"{value}:latest"
        return container.image in (value, full_name) or container.image_digest.removeprefix("sha256:").startswith(value)
    if key == "exited":
        return container.status == "stopped" and str(container.exit_status) == value
    if key == "status":
        return value == word(container) or value == container.status == "stopped"
    return container.id.startswith(value) if key == "id" else value in container.name
