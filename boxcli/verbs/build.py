"""`box build`: from a Boxfile to an image."""

from __future__ import annotations

import os
import sys
from _signal import SIGHUP, SIGTERM
from _signal import signal as set_handler

from boxcli import readers
from boxcli.main import variable
from boxcli.table import Argument, Option, Values, Verb
from store.errors import StepFailed, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn


def _kind(text: str) -> str:
    from boxcli.progress import KINDS

    if text not in KINDS:
        raise ValueError(f"{text!r} is not one of {', '.join(KINDS)}")
    return text


def _argument(text: str) -> str:
    if text.find("=") < 1:
        raise ValueError(f"{text!r} is not NAME=VALUE")
    return text


VERB = Verb(
    "build",
    "Build an image from a Boxfile",
    Option(
        "-t",
        "--tag",
        metavar="NAME[:TAG]",
        many=True,
        read=readers.image_name,
        about="Name the image (else the Boxfile's own 'name').",
    ),
    Option("-f", "--file", metavar="FILE", completes="file", about="The Boxfile, where it is not in PATH."),
    Option("--arg", metavar="NAME=VALUE", many=True, read=_argument, about="Set one of the Boxfile's args."),
    Option("--no-cache", about="Do every step again."),
    Option("--progress", metavar="auto|plain|tty", read=_kind, about="A live view, or plain lines."),
    Option("-q", "--quiet", about="Print nothing but the image's id."),
    Option(
        "--userns",
        metavar="auto|host",
        read=readers.userns,
        about="Users of its own for each step, which is the default, or this machine's.",
    ),
    Option("--iidfile", metavar="FILE", completes="file", about="Write the image's id to a file."),
    Argument("PATH", required=False, completes="file"),
    description="PATH is a directory with a Boxfile, or a Boxfile, or - for one on standard input; else this directory. "
    "What its steps copy is looked for in that directory (with -: in this one).",
)


def main(values: Values) -> int:
    """Build it; print the image's id."""
    import boxfile
    from boxcli.progress import Plain, view
    from builder.build import STDIN, build
    from builder.progress import Silent
    from store.layout import Store

    path, context = _places(values)
    arguments = dict(entry.split("=", 1) for entry in values.all("arg", str))
    shown = STDIN if path == "-" else path
    plan = boxfile.parse(boxfile.decode(_read(path), shown), path=shown, args=arguments)
    tags = values.all("tag", str)
    id_file = values.text("iidfile")
    if id_file:
        _check_writable(id_file)
    store = Store.open(values.root, values.driver)
    for number in (SIGHUP, SIGTERM):
        set_handler(number, _end)
    watched = None if values.flag("quiet") else view(values.text("progress", "auto"), sys.stderr)
    try:
        with store.leased():  # until it has the last of its names
            built = build(
                store,
                plan,
                context=context,
                tag=tags[0] if tags else None,
                progress=watched or Silent(),
                no_cache=values.flag("no_cache"),
                userns=values.text("userns") or variable("BOX_USERNS") or "",
            )
            for tag in tags[1:]:
                store.references.set(tag, built.descriptor)
            identity = str(store.images.load(built.descriptor).id)
    except StepFailed as error:
        if isinstance(watched, Plain):
            error.tail = ""  # it was printed as it came
        raise
    finally:
        if watched is not None:
            watched.close()
    if id_file:
        try:
            with open(id_file, "w", encoding="utf-8") as file:
                file.write(identity)
        except OSError as err:
            raise _unwritable(id_file, err) from err
    print(identity)
    return 0


def _check_writable(path: str) -> None:
    """Raise UsageError, before anything is done, where the id could not be written."""
    try:
        if os.path.lexists(path):
            os.close(os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK))
        else:
            with open(path, "xb"):
                pass
            os.unlink(path)
    except OSError as err:
        raise _unwritable(path, err) from err


def _unwritable(path: str, err: OSError) -> UsageError:
    return UsageError(
        f"cannot write the id to {path}: {os.strerror(err.errno or 0).lower()}", hint="name another file with --iidfile"
    )


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """As after Ctrl-C: what is unfinished goes before the command does."""
    raise SystemExit(128 + number)


def _places(values: Values) -> tuple[str, str]:
    """The Boxfile (or -) and the directory that its steps copy from."""
    given, file = values.text("path", "."), values.text("file")
    if given == "-":
        if file:
            raise UsageError("a Boxfile from standard input, and another with --file", hint="leave one of them out")
        return "-", "."
    if os.path.isdir(given):
        return file or os.path.normpath(os.path.join(given, "Boxfile")), given
    if file:
        raise UsageError(f"{given} is not a directory", hint="with --file, PATH is the directory that the steps copy from")
    return given, os.path.dirname(given) or "."


def _read(path: str) -> bytes:
    from boxfile.source import SIZE_LIMIT

    try:
        with open(0 if path == "-" else path, "rb", closefd=path != "-") as file:
            return file.read(SIZE_LIMIT + 1)
    except FileNotFoundError as err:
        hint = "make one, or name another: box build PATH" if os.path.basename(path) == "Boxfile" else ""
        if hint and os.path.exists(path.removesuffix("Boxfile") + "Dockerfile"):
            hint = "there is a Dockerfile, which box does not read: write its steps as a Boxfile (the README has them all)"
        raise UsageError(f"there is no {path}", hint=hint) from err
    except (IsADirectoryError, PermissionError) as err:
        raise UsageError(f"cannot read {path}: {(err.strerror or '').lower()}") from err
