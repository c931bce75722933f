"""The options of a verb, written once: `parse` reads them in microseconds for the hot path, and boxcli/click_face.py makes
click's help, usage errors and shell completion of the very same table.

`parse` answers only what is plainly right. For anything else (an unknown option, a missing argument, `--help`, a value that its
reader refuses) it returns None, and click, which agrees with it on all that it accepts, says what is wrong.

This module is on the hot path of `box run`: it imports nothing.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    T = TypeVar("T")
    Reader = Callable[[str], object]

OPTIONS_ANYWHERE = True
OPTIONS_FIRST = False  # run and exec: whatever follows the image or the container belongs to the command


class Option:
    """An option, a flag when it has no `metavar`. `read` turns its text into a value, and raises ValueError(what is wrong)."""

    __slots__ = ("about", "completes", "flags", "key", "many", "metavar", "read")

    def __init__(
        self, *flags: str, about: str, metavar: str = "", many: bool = False, read: "Reader | None" = None, completes: str = ""
    ) -> None:
        self.flags = flags
        self.key = flags[-1].lstrip("-").replace("-", "_")
        self.about = about
        self.metavar = metavar
        self.many = many
        self.read = read
        self.completes = completes


class Argument:
    """A positional argument; `many` takes all that is left, and is the last.

    `completes`: image, container, any (of both), file or nothing.
    """

    __slots__ = ("completes", "key", "many", "metavar", "read", "required")

    def __init__(
        self, metavar: str, *, required: bool = True, many: bool = False, read: "Reader | None" = None, completes: str = ""
    ) -> None:
        self.metavar = metavar
        self.key = metavar.lower()
        self.required = required
        self.many = many
        self.read = read
        self.completes = completes


class Verb:
    """A command of `box`. `failure` is the exit status of box's own errors, where 1 and 2 may be the command's."""

    __slots__ = ("arguments", "by_flag", "description", "failure", "name", "options", "options_anywhere", "summary")

    def __init__(
        self,
        name: str,
        summary: str,
        *parts: Option | Argument,
        description: str = "",
        options_anywhere: bool = OPTIONS_ANYWHERE,
        failure: int = 0,
    ) -> None:
        self.name = name
        self.summary = summary
        self.description = description
        self.options = [part for part in parts if isinstance(part, Option)]
        self.arguments = [part for part in parts if isinstance(part, Argument)]
        self.options_anywhere = options_anywhere
        self.failure = failure
        self.by_flag = {flag: option for option in self.options for flag in option.flags}


class Values:
    """What was given on the command line, by the long option's or the argument's name; `root` is the store's directory,
    `driver` the snapshot driver to be used (empty: the best that works)."""

    __slots__ = ("driver", "given", "root")

    def __init__(self, root: str, given: dict[str, object], driver: str = "") -> None:
        self.root = root
        self.given = given
        self.driver = driver

    def flag(self, key: str) -> bool:
        """Whether the option was given, other than by `=false`."""
        return self.given.get(key, False) is not False

    def one(self, key: str, kind: "type[T]") -> "T | None":
        """The value given last, or None."""
        value = self.given.get(key)
        assert value is None or isinstance(value, kind), (key, value)
        return value

    def text(self, key: str, default: str = "") -> str:
        """The text given last, or `default`."""
        value = self.given.get(key, default)
        assert isinstance(value, str), (key, value)
        return value

    def all(self, key: str, kind: "type[T]") -> "list[T]":
        """Every value given, in order."""
        value = self.given.get(key, [])
        assert isinstance(value, list), (key, value)
        return value


def parse(verb: Verb, argv: "Sequence[str]", root: str) -> "Values | None":
    """The values of `argv`, or None when it is not plainly right."""
    texts: dict[str, list[str]] = {}
    given: dict[str, object] = {}
    positional: list[str] = []
    by_flag = verb.by_flag
    at, end = 0, len(argv)
    while at < end:
        word = argv[at]
        at += 1
        if word == "--":
            positional.extend(argv[at:])
            break
        if len(word) < 2 or word[0] != "-":
            positional.append(word)
            if verb.options_anywhere:
                continue
            positional.extend(argv[at:])
            break
        if word[1] == "-":
            flag, attached, text = word.partition("=")
            rest = ""
        else:
            flag, attached, text = word[:2], "", ""
            rest = word[2:]
        while True:
            option = by_flag.get(flag)
            if option is None:
                return None
            if not option.metavar:
                if attached and text not in ("true", "false"):
                    return None
                given[option.key] = text != "false"
                if not rest:
                    break
                flag, rest = "-" + rest[0], rest[1:]
                continue
            if rest:
                text = rest
            elif not attached:
                if at == end:
                    return None
                text = argv[at]
                at += 1
            texts.setdefault(option.key, []).append(text)
            break
    return _read(verb, texts, given, positional, root)


def _read(verb: Verb, texts: dict[str, list[str]], given: dict[str, object], positional: list[str], root: str) -> "Values | None":
    try:
        for option in verb.options:
            if option.key in texts:
                values = texts[option.key] if option.many else texts[option.key][-1:]
                read = [option.read(text) for text in values] if option.read else values
                given[option.key] = read if option.many else read[0]
        at = 0
        for argument in verb.arguments:
            words = positional[at:] if argument.many else positional[at : at + 1]
            at += len(words)
            if not words:
                if argument.required:
                    return None
                continue
            found = [argument.read(word) for word in words] if argument.read else words
            given[argument.key] = found if argument.many else found[0]
    except ValueError:
        return None
    return Values(root, given) if at == len(positional) else None
