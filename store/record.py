"""Frozen values with named fields: what `dataclass(frozen=True, slots=True)` gives, made in microseconds.

Importing `dataclasses` and making the twenty types of a plan with it takes 24 ms, more than all the rest of parsing a Boxfile,
and every build does that, also one that finds everything cached; these take 0.3 ms. Type checkers see them as frozen
dataclasses (PEP 681). A module with records says `from __future__ import annotations`: the names of the fields are read from
the annotations.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self, dataclass_transform
else:

    def dataclass_transform(**_promises):
        return lambda decorated: decorated


_set = object.__setattr__


@dataclass_transform(frozen_default=True, eq_default=True)
class RecordType(type):
    """Turns the annotations of a class into its slots, the parameters of its `__init__` and its `__match_args__`, in order."""

    _fields: tuple[str, ...]
    _defaults: dict[str, Any]

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> RecordType:
        own = tuple(field for field in namespace.get("__annotations__", ()) if not field.startswith("_"))
        defaults: dict[str, Any] = {}
        fields: tuple[str, ...] = ()
        for base in bases:
            if isinstance(base, RecordType):
                fields += base._fields
                defaults.update(base._defaults)
        defaults.update((field, namespace.pop(field)) for field in own if field in namespace)
        namespace["__slots__"] = own
        made = super().__new__(mcs, name, bases, namespace)
        made._fields = fields + own
        made._defaults = defaults
        type.__setattr__(made, "__match_args__", made._fields)
        return made


class Record(metaclass=RecordType):
    """A frozen value: equal to another of its type with equal fields, hashable when its fields are, shown as it is made."""

    def __init__(self, *values: Any, **named: Any) -> None:
        cls = type(self)
        fields = cls._fields
        if len(values) > len(fields):
            raise TypeError(f"{cls.__name__} takes {len(fields)} values, not {len(values)}")
        for field, value in zip(fields, values, strict=False):
            if field in named:
                raise TypeError(f"{cls.__name__} got {field!r} twice")
            _set(self, field, value)
        for field in fields[len(values) :]:
            if field in named:
                _set(self, field, named.pop(field))
            elif field in cls._defaults:
                _set(self, field, cls._defaults[field])
            else:
                raise TypeError(f"{cls.__name__} needs {field!r}")
        if named:
            raise TypeError(f"{cls.__name__} has no {next(iter(named))!r}")

    def __setattr__(self, field: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: cannot set {field!r}")

    def __delattr__(self, field: str) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: cannot delete {field!r}")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, field) == getattr(other, field) for field in type(self)._fields)

    def __hash__(self) -> int:
        return hash((type(self), *(getattr(self, field) for field in type(self)._fields)))

    def __repr__(self) -> str:
        shown = ", ".join(f"{field}={getattr(self, field)!r}" for field in type(self)._fields)
        return f"{type(self).__name__}({shown})"

    def __reduce__(self) -> tuple[type[Self], tuple[Any, ...]]:
        return type(self), tuple(getattr(self, field) for field in type(self)._fields)


def fields_of(record: Record) -> dict[str, Any]:
    """The fields of a record and their values, in the order of its type."""
    return {field: getattr(record, field) for field in type(record)._fields}
