"""JSON that came from elsewhere, read with suspicion; and JSON of our own, always spelt the same way.

Two readers of one document must never see two meanings of it (GHSA-mc8v-mgrf-8f4m): a key that stands twice, a number that is not
finite, or bytes that are not UTF-8 make the whole document unusable. `what` names the document in every error.
"""

import json
from collections.abc import Callable, Mapping
from typing import NoReturn

from store.digest import Descriptor, Digest, Platform
from store.errors import StoreError

DOCUMENT_LIMIT = 4 << 20
DEPTH_LIMIT = 64


def canonical(value: object) -> bytes:
    """The one spelling of `value`: sorted keys, no spaces, UTF-8 as it is."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def parse_object(data: bytes, what: str, *, limit: int = DOCUMENT_LIMIT) -> dict[str, object]:
    """The JSON object in `data`, or StoreError."""
    value = parse(data, what, limit=limit)
    if not isinstance(value, dict):
        raise StoreError(f"{what} is not a JSON object")
    return value


def parse(data: bytes, what: str, *, limit: int = DOCUMENT_LIMIT) -> object:
    """The JSON value in `data`: at most `limit` bytes, 64 deep, no key twice, no NaN, no text that has no UTF-8 form."""
    if len(data) > limit:
        raise StoreError(f"{what} is too large: {len(data)} bytes, the limit is {limit}")
    try:
        value: object = json.loads(
            data.decode(), object_pairs_hook=_pairs(what), parse_constant=_constant(what), parse_int=_integer(what)
        )
    except UnicodeDecodeError as err:
        raise StoreError(f"{what} is not UTF-8") from err
    except RecursionError as err:
        raise StoreError(f"{what} is nested too deeply") from err
    except ValueError as err:
        raise StoreError(f"{what} is not JSON: {err}") from err
    _check(value, what)
    return value


def _pairs(what: str) -> Callable[[list[tuple[str, object]]], dict[str, object]]:
    def make(pairs: list[tuple[str, object]]) -> dict[str, object]:
        made = dict(pairs)
        if len(made) != len(pairs):
            seen: set[str] = set()
            for key, _ in pairs:
                if key in seen:
                    raise StoreError(f"{what} has the key {key!r} twice")
                seen.add(key)
        return made

    return make


def _constant(what: str) -> Callable[[str], NoReturn]:
    def refuse(text: str) -> NoReturn:
        raise StoreError(f"{what} has a number that is not finite: {text}")

    return refuse


def _integer(what: str) -> Callable[[str], int]:
    def parse_integer(text: str) -> int:
        if len(text) > 20:  # int() of a long text is quadratic
            raise StoreError(f"{what} has a number of {len(text)} digits")
        return int(text)

    return parse_integer


def _check(value: object, what: str) -> None:
    level: list[object] = [value]
    depth = 0
    while level:
        depth += 1
        if depth > DEPTH_LIMIT:
            raise StoreError(f"{what} is nested too deeply")
        below: list[object] = []
        for item in level:
            if isinstance(item, str):
                _check_text(item, what)
            elif isinstance(item, dict):
                for key in item:
                    _check_text(key, what)
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
        level = below


def _check_text(text: str, what: str) -> None:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as err:
            raise StoreError(f"{what} has text with half of a surrogate pair") from err


def text_at(value: Mapping[str, object], key: str, what: str, default: str | None = None) -> str:
    """The string under `key`; null and missing mean `default`, where there is one."""
    found = value.get(key)
    if found is None and default is not None:
        return default
    if not isinstance(found, str):
        raise StoreError(f"{what}: {key!r} is not a string")
    return found


def object_at(value: Mapping[str, object], key: str, what: str) -> dict[str, object]:
    """The object under `key`; null and missing mean an empty one."""
    found = value.get(key)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise StoreError(f"{what}: {key!r} is not an object")
    return found


def list_at(value: Mapping[str, object], key: str, what: str) -> list[object]:
    """The list under `key`; null and missing mean an empty one."""
    found = value.get(key)
    if found is None:
        return []
    if not isinstance(found, list):
        raise StoreError(f"{what}: {key!r} is not a list")
    return found


def texts_at(value: Mapping[str, object], key: str, what: str) -> list[str]:
    """The list of strings under `key`; null and missing mean an empty one."""
    found = list_at(value, key, what)
    texts = [item for item in found if isinstance(item, str)]
    if len(texts) != len(found):
        raise StoreError(f"{what}: {key!r} has an item that is not a string")
    return texts


def mapping_at(value: Mapping[str, object], key: str, what: str) -> dict[str, str]:
    """The object of strings under `key`; null and missing mean an empty one."""
    found = object_at(value, key, what)
    texts = {name: item for name, item in found.items() if isinstance(item, str)}
    if len(texts) != len(found):
        raise StoreError(f"{what}: {key!r} has a value that is not a string")
    return texts


def descriptor(value: object, what: str) -> Descriptor:
    """The descriptor that `value` writes. Its `urls` are not looked at: box fetches nothing on an image's word."""
    if not isinstance(value, dict):
        raise StoreError(f"{what}: a descriptor is not an object")
    size = value.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 63:
        raise StoreError(f"{what}: a descriptor's size is {size!r}")
    platform = None
    if value.get("platform") is not None:
        spelt = object_at(value, "platform", what)
        platform = Platform(
            text_at(spelt, "os", what, ""), text_at(spelt, "architecture", what, ""), text_at(spelt, "variant", what, "")
        )
    return Descriptor(
        text_at(value, "mediaType", what, ""),
        Digest.parse(text_at(value, "digest", what)),
        size,
        mapping_at(value, "annotations", what),
        platform,
    )
