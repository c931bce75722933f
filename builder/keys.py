"""A step's key: everything that decides its result, and nothing else.

Two steps with one key have the same result; what is left out of a key (times, the machine's umask, user, paths, locale) must not
be able to change it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256

from builder.inputs import shown
from store.record import Record

RULES = b"2"  # counted up when box comes to do a step differently: then old results do not count


_NO_ENV: Mapping[str, str] = {}
_NO_INPUTS: Mapping[bytes, bytes] = {}


class Parts(Record):
    """What a key is made of.

    `parent` is the chain id of what lies below (empty for nothing), `text` the step's canonical form, `epoch` the time that newer
    files are set to. `env`, `workdir` and `user` are those in force, empty where the step does not look at them. `inputs` says of
    each file that is taken in (a path) what counts.
    """

    parent: str
    text: str
    epoch: int
    env: Mapping[str, str] = _NO_ENV
    workdir: str = ""
    user: str = ""
    inputs: Mapping[bytes, bytes] = _NO_INPUTS

    def key(self) -> str:
        """The step's key, 64 hex digits."""
        return sha256(self.encoded()).hexdigest()

    def encoded(self) -> bytes:
        """The parts as bytes from which they can be read again; no two different values have the same."""
        return b"".join(b"%d\n%s" % (len(part), part) for part in self._parts())

    def _parts(self) -> Iterator[bytes]:
        yield RULES
        for text in (self.parent, self.text, str(self.epoch), self.workdir, self.user, str(len(self.env))):
            yield _bytes(text)
        for name in sorted(self.env):
            yield _bytes(name)
            yield _bytes(self.env[name])
        for path in sorted(self.inputs):
            yield path
            yield self.inputs[path]

    @classmethod
    def decode(cls, data: bytes) -> Parts | None:
        """The parts that were encoded; None for anything else, such as those of another RULES."""
        fields: list[bytes] = []
        at = 0
        while at < len(data):
            end = data.find(b"\n", at)
            if end < 0 or not data[at:end].isdigit():
                return None
            start, at = end + 1, end + 1 + int(data[at:end])
            fields.append(data[start:at])
        if len(fields) < 7 or fields[0] != RULES or at != len(data):
            return None
        parent, text, epoch, workdir, user, count = (value.decode("utf-8", "surrogateescape") for value in fields[1:7])
        if not (epoch.isdigit() and count.isdigit()):
            return None
        rest = 7 + 2 * int(count)
        pairs = [value.decode("utf-8", "surrogateescape") for value in fields[7:rest]]
        env = dict(zip(pairs[::2], pairs[1::2], strict=False))
        inputs = dict(zip(fields[rest::2], fields[rest + 1 :: 2], strict=False))
        return cls(parent, text, int(epoch), env, workdir, user, inputs)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _kind(fact: bytes) -> bytes:
    return fact.partition(b" ")[0]


def _input_differences(old: Mapping[bytes, bytes], new: Mapping[bytes, bytes]) -> Iterator[str]:
    for path in sorted(old.keys() | new.keys()):
        before, after = old.get(path), new.get(path)
        if before == after:
            continue
        name = shown(path) or "the directory"
        if before is None:
            yield f"{name} is new"
        elif after is None:
            yield f"{name} is gone"
        elif _kind(before) != _kind(after):
            yield f"{name} became a {_kind(after).decode()}"
        elif before.startswith(b"file") and before[-64:] == after[-64:]:
            yield f"{name} {'became' if after.startswith(b'file x') else 'is no longer'} executable"
        else:
            yield f"{name} changed"


def differences(old: Parts, new: Parts) -> list[str]:
    """What differs, in the words of someone who changed it; the parent is left to the caller, who knows which step it was."""
    found: list[str] = []
    if old.text != new.text:
        found.append("the step's text changed")
    for name in sorted(old.env.keys() | new.env.keys()):
        if name not in old.env:
            found.append(f"env {name} is new")
        elif name not in new.env:
            found.append(f"env {name} is gone")
        elif old.env[name] != new.env[name]:
            found.append(f"env {name} changed")
    if old.workdir != new.workdir:
        found.append(f"the workdir changed from {old.workdir} to {new.workdir}")
    if old.user != new.user:
        found.append(f"the user changed from {old.user or 'root'} to {new.user or 'root'}")
    found.extend(_input_differences(old.inputs, new.inputs))
    if old.epoch != new.epoch:
        found.append("SOURCE_DATE_EPOCH changed")
    return found
