"""`base:`: what an image starts from."""

from __future__ import annotations

from boxfile import intents
from boxfile.kinds import ARGUMENT, Key, Kind, Reader, describe, fields_schema, list_of, not_yet, read_fields
from boxfile.likeness import quoted
from boxfile.nodes import Mapping, Node, Scalar
from boxfile.plan import Base, HostBase, ImageBase, ScratchBase, TarballBase
from boxfile.references import flaw

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".txz", ".tar.bz2")
"""How the name of a tarball ends; what it is compressed with is read from its bytes."""

_TARBALL = r"\.(tar(\.gz|\.zst|\.xz|\.bz2)?|tgz|txz)$"
_LATER = {
    "https": "a base from https",
    "oci": "a base from an OCI layout (oci:DIR)",
    "oci-archive": "a base from an OCI archive",
    "docker-archive": "a base from a docker archive",
    "docker": "a base from a registry by docker://",
}


def _program(reader: Reader, node: Node) -> str:
    name = reader.line(node, "a program")
    if not name or name.startswith("-") or name in (".", "..") or ".." in name.split("/"):
        raise reader.error(node, f"{quoted(name)} is not a program", hint="a name found in PATH, such as sh, or an absolute path")
    if "/" in name and not name.startswith("/"):
        raise reader.error(
            node, f"{quoted(name)} is neither a name nor an absolute path", hint="'host' takes installed programs; copy your own"
        )
    return name


HOST = list_of(Kind(_program, {"type": "string", "minLength": 1}), "a list of programs", least=1, distinct=True)

TABLE = {
    "host": Key(HOST, "Programs of this machine, with the libraries they need."),
    "stage": Key(None, "A stage of this Boxfile."),
    "digest": Key(None, "The digest that the tarball must have."),
}


def _read(reader: Reader, node: Node) -> Base:
    if isinstance(node, Scalar):
        return _named(reader, node)
    if not isinstance(node, Mapping):
        raise reader.error(
            node, f"expected a base, found {describe(node)}", hint="one base; for programs of this machine write 'host: [...]'"
        )
    values = read_fields(reader, node, TABLE, where="this base", meant=intents.BASE)
    if "host" not in values:
        raise reader.error(node, "this base says nothing", hint="write a tarball, an image, 'scratch' or 'host: [sh, ls]'")
    return HostBase(node.at, values["host"])


def _named(reader: Reader, node: Scalar) -> Base:
    text = reader.line(node, "a base")
    if text == "scratch":
        return ScratchBase(node.at)
    if text == "host":
        raise reader.error(node, "'host' needs its programs", hint="write 'base: {host: [sh, ls]}'")
    scheme, colon, rest = text.partition(":")
    if colon and (rest.startswith("//") or scheme in _LATER):
        if scheme == "http":
            raise reader.error(
                node, "a base from plain http is not trusted", hint="use https with a digest, once that is supported"
            )
        if scheme in _LATER:
            raise not_yet(reader, node, _LATER[scheme])
        raise reader.error(node, f"{quoted(scheme)} is not a kind of base", hint=_FORMS)
    if text.startswith(("./", "../", "/", "~")):
        return _tarball(reader, node, text)
    if text.lower().endswith(SUFFIXES):
        raise reader.error(node, f"{quoted(text)} reads as the name of an image", hint=f"did you mean {quoted('./' + text)}?")
    wrong = flaw(text)
    if wrong:
        raise reader.error(node, wrong[0], hint=wrong[1])
    return ImageBase(node.at, text)


_FORMS = "a base is ./FILE.tar (also .gz .zst .xz .bz2), an image, 'scratch' or 'host: [...]'"


def _tarball(reader: Reader, node: Scalar, path: str) -> Base:
    if path.startswith(("/", "~")) or ".." in path.split("/"):
        hint = "put the tarball, or a hard link to it, into the folder of the Boxfile and write ./NAME"
        raise reader.error(node, f"the base {quoted(path)} is outside of the context", hint=hint)
    if not path.endswith(SUFFIXES):
        hint = "the name of a tarball ends with .tar, .tar.gz, .tar.zst, .tar.xz or .tar.bz2"
        raise reader.error(node, f"{quoted(path)} is not the name of a tarball", hint=hint)
    return TarballBase(node.at, path)


BASE = Kind(
    _read,
    {
        "anyOf": [
            {"const": "scratch"},
            {"type": "string", "pattern": r"^\./(?!(.*/)?\.\.(/|$)).*" + _TARBALL},
            {
                "type": "string",
                "pattern": rf"^(?!host$)(?!({'|'.join(_LATER)}|http):)(?!.*{_TARBALL})[a-z0-9][A-Za-z0-9._:/@-]*$",
            },
            {"type": "string", "pattern": ARGUMENT},
            {**fields_schema(TABLE), "required": ["host"]},
        ]
    },
)
