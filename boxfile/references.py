"""Names of images as a Boxfile writes them, checked by their grammar alone; the store says later whether they are there."""

from __future__ import annotations

from itertools import pairwise

from boxfile.kinds import ARGUMENT, Kind, Reader
from boxfile.likeness import quoted
from boxfile.nodes import Node

_LOWER = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_WORD = _LOWER | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ_")
_HEX = frozenset("0123456789abcdef")


def flaw(reference: str) -> tuple[str, str] | None:
    """What is wrong with `[HOST[:PORT]/]NAME[:TAG][@DIGEST]`, and a hint; None for a good one (the distribution's grammar)."""
    rest, at, digest = reference.partition("@")
    if at:
        algorithm, _, digits = digest.partition(":")
        if (
            algorithm not in ("sha256", "sha512")
            or len(digits) != (64 if algorithm == "sha256" else 128)
            or not _HEX.issuperset(digits)
        ):
            return f"{quoted(digest)} is not a digest", "a digest is sha256: and 64 hexadecimal digits"
    host, slash, path = rest.partition("/")
    if not (slash and ("." in host or ":" in host or host == "localhost")):
        host, path = "", rest
    path, colon, tag = path.partition(":")
    if colon and (
        not tag or len(tag) > 128 or tag[0] not in _WORD or not _WORD.issuperset(tag.replace(".", "").replace("-", ""))
    ):
        return f"{quoted(tag)} is not a tag" if tag else "an empty tag", "a tag has letters, digits, '_', '.' and '-'"
    if host and not _is_host(host):
        return f"{quoted(host)} is not a registry's host", "such as registry.example:5000"
    if path != path.lower() and path.isascii():
        return "the name of an image has no capital letters", f"did you mean {quoted(reference.replace(path, path.lower(), 1))}?"
    if len(host) + len(path) > 255 or not all(_is_component(part) for part in path.split("/")):
        return f"{quoted(reference)} is not the name of an image" if reference else "an empty name", "such as shop/api:1.4"
    return None


def _is_component(text: str) -> bool:
    if not text or text[0] not in _LOWER or text[-1] not in _LOWER or not _LOWER.issuperset(text.translate(_JOINTS)):
        return False
    single = text.replace("__", "_") if "___" not in text else text
    return not any(a in "._-" and b in "._-" and not a == b == "-" for a, b in pairwise(single))


_JOINTS = str.maketrans({".": "0", "_": "0", "-": "0"})


def _is_host(text: str) -> bool:
    name, colon, port = text.partition(":")
    labels = name.split(".")
    good = all(
        label and _LOWER.issuperset(label.lower().replace("-", "0")) and "-" not in (label[0], label[-1]) for label in labels
    )
    return good and (not colon or (port.isascii() and port.isdigit() and len(port) <= 5))


def _name(reader: Reader, node: Node) -> str:
    text = reader.text(node, "a name")
    wrong = flaw(text)
    if wrong:
        raise reader.error(node, wrong[0], hint=wrong[1])
    if "@" in text:
        raise reader.error(node, "a name to give has no digest", hint=f"did you mean {quoted(text.partition('@')[0])}?")
    return text


NAME = Kind(_name, {"type": "string", "pattern": f"^[^@\\s]*[a-z0-9][^@\\s]*$|{ARGUMENT}"})
