"""The values of `linux.resources`, each checked where it is read, and what becomes of them: writes, to be shown or done."""

from store.errors import RunError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

U32, I64, U64 = (1 << 32) - 1, (1 << 63) - 1, (1 << 64) - 1


class Write:
    """`text` for the file `file` of a group in the hierarchy of `controller`; `field` is the place in the config that says so."""

    __slots__ = ("controller", "field", "file", "text")

    def __init__(self, controller: str, file: str, text: str, field: str) -> None:
        self.controller = controller
        self.file = file
        self.text = text
        self.field = field

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Write) and str(self) == str(other) and self.field == other.field

    def __hash__(self) -> int:
        return hash(str(self))

    def __str__(self) -> str:
        return f"{self.controller}: {self.file} = {self.text}"

    __repr__ = __str__


class Fields:
    """An object of the config at `path`, such as linux.resources.memory. A field that is missing or null is None, empty, or
    without items; one of the wrong type or range raises RunError with its path. Unknown ones are nobody's."""

    __slots__ = ("path", "values")

    def __init__(self, path: str, values: "Mapping[str, Any] | None") -> None:
        if values is not None and not isinstance(values, dict):
            raise RunError(f"{path}: not an object")
        self.path = path
        self.values: Mapping[str, Any] = values or {}

    def integer(self, name: str, least: int, most: int) -> int | None:
        value = self.values.get(name)
        if value is None:
            return None
        if type(value) is not int:
            raise RunError(f"{self.path}.{name}: not a whole number")
        if not least <= value <= most:
            raise RunError(f"{self.path}.{name}: {value} is not between {least} and {most}")
        return value

    def boolean(self, name: str) -> bool | None:
        value = self.values.get(name)
        if value is not None and type(value) is not bool:
            raise RunError(f"{self.path}.{name}: neither true nor false")
        return value

    def text(self, name: str) -> str | None:
        value = self.values.get(name)
        if value is not None and type(value) is not str:
            raise RunError(f"{self.path}.{name}: not a text")
        return value

    def object(self, name: str) -> "Fields":
        return Fields(f"{self.path}.{name}", self.values.get(name))

    def items(self, name: str) -> "list[Fields]":
        value = self.values.get(name)
        if value is None:
            return []
        if type(value) is not list:
            raise RunError(f"{self.path}.{name}: not a list")
        found = []
        for place, each in enumerate(value):
            path = f"{self.path}.{name}[{place}]"
            if each is None:
                raise RunError(f"{path}: not an object")
            found.append(Fields(path, each))
        return found

    def __contains__(self, name: str) -> bool:
        return self.values.get(name) is not None
