"""The table of options: the fast parser, and click fed from the same table, are of one mind on every command line."""

import importlib
import os
import pkgutil
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxcli import click_face, main, moments, verbs
from boxcli.table import OPTIONS_FIRST, Argument, Option, Values, Verb, parse

VERBS: dict[str, Verb] = {name: main.load(name).VERB for name in main.VERBS}

GOOD = (
    "64m", "1GiB", "2", "0.5", "name", "A=b", "A", "status=exited", "reference=a*",
    "image", "/a:/b", "/a:/b:ro", "/dir", "/dir:size=1m",
    "none", "host", "auto", "0:100000:65536", "always", "TERM", "9",
    "a:127.0.0.1", "nofile=1:2", "seccomp=unconfined", "json", "sha256:abc", "img:tag", "ALL", "plain", "bash", "5", "10s", "",
    "true", "type=tmpfs,dst=/t", "name:/v:ro", "0-3,7", "running", "max-size=10m",
)  # fmt: skip
BAD = ("=x", "-5", "../x", "a b", "--", "-", "--rm", "-x", "1:2:3:4", "é", "\udcff", "a\nb", "999999999999999999999", "0", "٣")

COMPLETED = ("", "image", "container", "any", "mount", "end", "file", "dir", "volume", "volume action")


@pytest.fixture(autouse=True, scope="module")
def _one_moment() -> Iterator[None]:
    """What is said to be some time ago is the same for whoever reads it first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moments, "time", SimpleNamespace(time=lambda: 1.8e9))
        yield


def plain(value: object) -> object:
    """A value in a form that `==` compares by content."""
    slots = getattr(type(value), "__slots__", ())
    if isinstance(value, list):
        return [plain(item) for item in value]
    return {name: getattr(value, name) for name in slots} if slots else value


def by_click(verb: Verb, argv: list[str]) -> dict[str, object] | None:
    try:
        return {key: plain(value) for key, value in click_face.values_of(verb, argv, "/root").given.items()}
    except (click.UsageError, click.exceptions.Exit):
        return None


def by_table(verb: Verb, argv: list[str]) -> dict[str, object] | None:
    values = parse(verb, argv, "/root")
    return None if values is None else {key: plain(value) for key, value in values.given.items()}


def taken_by(read: Callable[[str], object] | None, texts: tuple[str, ...]) -> list[str]:
    """Those of the texts that the reader takes."""
    taken = []
    for text in texts:
        try:
            if read is not None:
                read(text)
        except ValueError:
            continue
        taken.append(text)
    return taken


def right(option: Option) -> st.SearchStrategy[list[str]]:
    """The option, in one of its spellings, with a value that it takes."""
    flag = st.sampled_from(option.flags)
    if not option.metavar:
        return flag.map(lambda text: [text])
    pair = st.tuples(flag, st.sampled_from(taken_by(option.read, GOOD + BAD)))
    return pair.flatmap(
        lambda both: st.sampled_from([[*both], [f"{both[0]}={both[1]}"] if both[0].startswith("--") else [both[0] + both[1]]])
    )


@st.composite
def right_lines(draw: st.DrawFn) -> tuple[str, list[str]]:
    """Lines with options and arguments as the verb wants them."""
    verb = VERBS[draw(st.sampled_from(sorted(VERBS)))]
    options = draw(st.lists(st.one_of([right(option) for option in verb.options]), max_size=5)) if verb.options else []
    words = [draw(st.sampled_from(taken_by(part.read, GOOD))) for part in verb.arguments]
    if verb.arguments and verb.arguments[-1].many:
        words += draw(st.lists(st.sampled_from(GOOD + BAD), max_size=3))
    line = [word for words in options for word in words]
    return verb.name, [*line, *draw(st.sampled_from(([], ["--"]))), *words]


@st.composite
def any_lines(draw: st.DrawFn) -> tuple[str, list[str]]:
    """Lines of right and wrong pieces in any order."""
    verb = VERBS[draw(st.sampled_from(sorted(VERBS)))]
    flags = [flag for option in verb.options for flag in option.flags] or ["--none"]
    letters = st.sampled_from([flag[1] for flag in flags if len(flag) == 2] or ["z"])
    text = st.sampled_from(GOOD + BAD)
    flag = st.sampled_from(flags)
    piece = st.one_of(
        st.tuples(flag),
        st.tuples(flag, text),
        st.tuples(st.builds("{}={}".format, flag, text)),
        st.tuples(st.lists(letters, min_size=1, max_size=4).map(lambda some: "-" + "".join(some))),
        st.tuples(st.builds("-{}{}".format, letters, text)),
        st.tuples(text),
        st.tuples(st.sampled_from(("--", "-", "--nonesuch", "-?", "--help", "--nam", "---"))),
    )
    return verb.name, [word for some in draw(st.lists(piece, max_size=6)) for word in some]


@settings(max_examples=1500, deadline=None)
@given(right_lines() | any_lines())
def test_the_fast_parser_and_click_accept_the_same_lines_and_read_the_same_values(line: tuple[str, list[str]]) -> None:
    name, argv = line
    assert by_table(VERBS[name], argv) == by_click(VERBS[name], argv), (name, argv)


@settings(max_examples=300, deadline=None)
@given(right_lines())
def test_most_lines_of_right_pieces_are_accepted(line: tuple[str, list[str]]) -> None:
    name, argv = line
    if not set(argv) & set(BAD) and not VERBS[name].options_anywhere:
        assert by_table(VERBS[name], argv) is not None, (name, argv)


def test_every_module_of_verbs_is_a_verb_that_help_lists() -> None:
    modules = {module.name.rstrip("_") for module in pkgutil.iter_modules(verbs.__path__)}
    assert modules == set(main.VERBS)
    listed = [name for _, names in click_face.SECTIONS for name in names]
    assert sorted(listed) == sorted([*main.VERBS, "help"])
    for name, verb in VERBS.items():
        assert verb.name == name
        assert callable(importlib.import_module(main.load(name).__name__).main)


@pytest.mark.parametrize("name", sorted(VERBS))
def test_no_flag_and_no_key_is_used_twice_and_only_the_last_argument_takes_many(name: str) -> None:
    verb = VERBS[name]
    parts: list[Option | Argument] = [*verb.options, *verb.arguments]
    assert len({part.key for part in parts}) == len(parts)
    assert len(verb.by_flag) == sum(len(option.flags) for option in verb.options)
    assert not any(argument.many for argument in verb.arguments[:-1])
    assert all(part.completes in COMPLETED for part in parts)


VERB = Verb(
    "sample",
    "Sample",
    Option("-i", "--interactive", about=""),
    Option("-t", "--tty", about=""),
    Option("-e", "--env", metavar="K", many=True, about=""),
    Option("--size", metavar="N", read=int, about=""),
    Argument("IMAGE"),
    Argument("COMMAND", required=False, many=True),
    options_anywhere=OPTIONS_FIRST,
)


def test_a_cluster_of_flags_may_end_in_an_option_with_its_value_attached_or_following() -> None:
    for argv in (["-iteA=b", "img"], ["-ite", "A=b", "img"]):
        values = parse(VERB, argv, "/r")
        assert values is not None
        assert (values.flag("interactive"), values.flag("tty"), values.all("env", str)) == (True, True, ["A=b"])


def test_what_follows_the_image_belongs_to_the_command_even_if_it_looks_like_an_option() -> None:
    values = parse(VERB, ["-i", "img", "ls", "-t", "--", "--size", "x"], "/r")
    assert values is not None
    assert values.all("command", str) == ["ls", "-t", "--", "--size", "x"]
    assert not values.flag("tty")


def test_an_option_given_twice_means_the_last_and_a_repeatable_one_means_all() -> None:
    values = parse(VERB, ["--size=1", "--size", "2", "-e", "A", "--env=B", "img"], "/r")
    assert values is not None
    assert (values.one("size", int), values.all("env", str)) == (2, ["A", "B"])


@pytest.mark.parametrize(
    "argv",
    [[], ["-x", "img"], ["--size", "x", "img"], ["--size"], ["--tty=yes", "img"], ["--help"], ["--nonesuch", "img"], ["-e"]],
)
def test_the_fast_parser_leaves_whatever_is_wrong_to_click(argv: list[str]) -> None:
    assert parse(VERB, argv, "/r") is None


def test_asking_for_a_value_of_another_kind_is_an_error_and_not_a_wrong_value() -> None:
    values = Values("/r", {"size": 2})
    with pytest.raises(AssertionError):
        values.text("size")
    assert values.one("missing", str) is None
    assert os.path.basename(values.root) == "r"
