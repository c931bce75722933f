"""What holds for every text and every plan."""

from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from boxfile import (
    Config,
    CopyStep,
    EnvStep,
    Healthcheck,
    HostBase,
    ImageBase,
    LabelStep,
    MkdirStep,
    Place,
    Plan,
    RemoveStep,
    RunStep,
    ScratchBase,
    SymlinkStep,
    TarballBase,
    UserStep,
    WorkdirStep,
    WriteStep,
    canonical,
    decode,
    parse,
    render,
)
from boxfile.arguments import Arguments, escaped
from boxfile.config import RESETTABLE
from boxfile.printer import dump
from boxfile.values import SIGNALS
from store.errors import BoxfileError
from store.record import Record, fields_of

AT = Place(0, 0)

characters = st.characters(exclude_categories=["Cs"])
content = st.text(characters, max_size=20) | st.sampled_from(
    ["${{ x }}", "$${{", "{{", "$", "a: b", "- x", "null", "012", "yes", '"', "\\", "\0"]
)
texts = content.map(lambda text: text.replace("\0", ""))
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,5}", fullmatch=True)
parts = texts.map(lambda text: text.replace("/", "")).filter(lambda text: text.strip(".") != "")
paths = st.lists(parts, min_size=1, max_size=3).map(lambda some: "/" + "/".join(some))
relative = st.lists(parts, min_size=1, max_size=3).map("/".join)
accounts = st.from_regex(r"([a-z_][a-z0-9_-]{0,5}|[0-9]{1,9})(:([a-z_][a-z0-9_-]{0,5}|[0-9]{1,9}))?", fullmatch=True)
modes = st.integers(0, 0o7777)
env = st.dictionaries(names, texts, max_size=3).map(lambda values: tuple(values.items()))
label_names = st.text(st.characters(categories=["L", "N"], include_characters="._-/"), min_size=1, max_size=8)
labels = st.dictionaries(label_names, texts, max_size=3).map(lambda values: tuple(values.items()))
commands = texts.filter(lambda text: text.strip() != "")
words = st.tuples(commands, texts)
durations = st.none() | st.integers(0, 1 << 50)


def optional(strategy: st.SearchStrategy) -> st.SearchStrategy:
    return st.none() | strategy


options = {
    "env": env,
    "workdir": optional(paths),
    "user": optional(accounts),
    "network": st.sampled_from(["default", "none", "host"]),
}
steps = st.one_of(
    st.builds(RunStep, st.just(AT), st.just(""), commands, words, **options),
    st.builds(RunStep, st.just(AT), st.just(""), words, st.none(), **options),
    st.builds(
        CopyStep,
        st.just(AT),
        st.just(""),
        st.lists(relative, min_size=1, max_size=3).map(tuple),
        paths,
        optional(accounts),
        optional(modes),
        st.lists(texts, max_size=2).map(tuple),
    ),
    st.builds(WriteStep, st.just(AT), st.just(""), paths, content, optional(accounts), modes),
    st.builds(MkdirStep, st.just(AT), st.just(""), paths, optional(accounts), modes),
    st.builds(SymlinkStep, st.just(AT), st.just(""), paths, texts.filter(bool)),
    st.builds(RemoveStep, st.just(AT), st.just(""), st.lists(paths, min_size=1, max_size=3).map(tuple)),
    st.builds(EnvStep, st.just(AT), st.just(""), env),
    st.builds(WorkdirStep, st.just(AT), st.just(""), paths),
    st.builds(UserStep, st.just(AT), st.just(""), accounts),
    st.builds(LabelStep, st.just(AT), st.just(""), labels),
)
healthchecks = st.builds(
    Healthcheck, st.just(AT), commands | words, durations, durations, durations, durations, st.none() | st.integers(0, 1000)
)
configs = st.builds(
    Config,
    st.just(AT),
    optional(words),
    optional(words),
    env,
    optional(paths),
    optional(accounts),
    st.lists(st.builds("{}/{}".format, st.integers(1, 65535), st.sampled_from(["tcp", "udp"])), max_size=3, unique=True).map(
        tuple
    ),
    st.lists(paths, max_size=2, unique=True).map(tuple),
    labels,
    optional(st.sampled_from(SIGNALS)),
    optional(healthchecks),
    st.lists(st.sampled_from(RESETTABLE), max_size=3, unique=True).map(tuple),
)
bases = st.one_of(
    st.just(ScratchBase(AT)),
    st.builds(TarballBase, st.just(AT), relative.map(lambda path: f"./{path}.tar")),
    st.builds(HostBase, st.just(AT), st.lists(names | paths, min_size=1, max_size=3, unique=True).map(tuple)),
    st.builds(ImageBase, st.just(AT), st.from_regex(r"[a-z]{1,5}/[a-z]{1,5}:[a-z0-9]{1,5}", fullmatch=True)),
)
plans = st.builds(
    Plan,
    st.just("Boxfile"),
    st.just(1),
    optional(st.from_regex(r"[a-z]{1,5}:[a-z0-9]{1,5}", fullmatch=True)),
    st.dictionaries(names, texts, max_size=3),
    bases,
    st.lists(steps, max_size=4).map(tuple),
    optional(configs),
)

PIECES = (
    "box: 1", "base: scratch", "base: ", "steps:", "config:", "args:",
    "  - run: make", "  - copy: a -> /b", "  - ", "    ", "- ", ": ",
    ", ", "[", "]", "{", "}", "&a ", "*a", "!", "!!str ",
    "<<: *a", '"', "'", "${{ x }}", "${{", "}}", "$", "#", "---", "...", "%YAML 1.2",
    "? ", "> ", ">-", "\t", "\0", "\x1b", "\ufeff", "\u2028",
    "\r", "\r\n", "é", "日", "null", "~", "0644", "env: {A: b}", "user: 1",
    'mode: "0644"', "write: {to: /x, text: y}", "healthcheck: {command: a}", "expose: [80]",
    "@", "`", "\\", '"\\x41"', "host: [sh]",
)  # fmt: skip
boxfile_like = st.lists(st.sampled_from(PIECES) | st.just("\n") | st.just("\n  ") | st.text(max_size=3), max_size=40).map("".join)


def placeless(value: object) -> Any:
    """A record as nested tuples, without its places and the texts of its steps."""
    if isinstance(value, Record):
        return (
            type(value).__name__,
            *((name, placeless(item)) for name, item in fields_of(value).items() if name not in ("at", "text")),
        )
    return tuple(placeless(item) for item in value) if isinstance(value, tuple) else value


def outcome(text: str, args: dict[str, str] | None = None) -> Plan | BoxfileError:
    """The plan, or the error; any other exception is a bug."""
    try:
        return parse(text, args=args)
    except BoxfileError as err:
        return err


def judge(text: str, result: Plan | BoxfileError) -> None:
    if isinstance(result, BoxfileError):
        assert result.message
        assert result.line >= 1
        assert result.column >= 1
        assert result.line <= text.count("\n") + 1
        assert all(character.isprintable() or character == "\n" for character in render(result))
    else:
        assert placeless(parse(dump(result))) == placeless(result)


@settings(max_examples=250, deadline=None)
@given(boxfile_like, st.dictionaries(st.text(max_size=3), st.text(max_size=5), max_size=2))
@example("&a box: 1\n*a : 2", {})
@example("[", {})
@example("\n  \n---", {})
@example("box: 1\nbase: scratch\nsteps: [run: x]\n", {"a": "b"})
def test_any_text_ends_in_a_plan_or_in_an_error_with_its_place(text: str, args: dict[str, str]) -> None:
    judge(text, outcome(text, args))
    text = "box: 1\nbase: scratch\n" + text
    judge(text, outcome(text))


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_characters_end_in_a_plan_or_in_an_error(text: str) -> None:
    judge(text, outcome(text))
    text = f"box: 1\nbase: scratch\nsteps:\n  - run: {text}\n"
    judge(text, outcome(text))


@settings(max_examples=200, deadline=None)
@given(st.binary())
def test_any_bytes_end_in_a_text_or_in_an_error(data: bytes) -> None:
    try:
        text = decode(data)
    except BoxfileError as err:
        assert err.line <= data.count(b"\n") + 1
        render(err)
    else:
        assert text.encode() == data


@settings(max_examples=150, deadline=None)
@given(plans)
def test_parse_is_the_inverse_of_dump(plan: Plan) -> None:
    read = parse(dump(plan))
    assert placeless(read) == placeless(plan)
    assert [canonical(step) for step in read.steps] == [canonical(step) for step in plan.steps]


@settings(max_examples=200, deadline=None)
@given(steps, steps)
def test_canonical_texts_are_equal_exactly_when_the_steps_mean_the_same(one: object, other: object) -> None:
    def meaning(step: object) -> object:
        _, *fields = placeless(step)
        return type(step), [
            (name, sorted(value)) if name in ("env", "values", "labels") else (name, value) for name, value in fields
        ]

    assert (canonical(one) == canonical(other)) == (meaning(one) == meaning(other))  # type: ignore[arg-type]  # steps


@given(st.text(st.sampled_from("${} ax:"), max_size=30))
def test_an_escaped_text_comes_back(text: str) -> None:
    assert Arguments({}, {}).substitute(escaped(text)) == text


@settings(max_examples=100, deadline=None)
@given(plans)
def test_the_parser_in_python_reads_what_libyaml_reads(plan: Plan) -> None:
    text = dump(plan)
    assert without_libyaml(text) == outcome(text)


@settings(max_examples=200, deadline=None)
@given(boxfile_like)
def test_the_parser_in_python_raises_no_other_exception_either(text: str) -> None:
    judge(text, without_libyaml(text))


def without_libyaml(text: str) -> Plan | BoxfileError:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yaml, "__with_libyaml__", False)
        return outcome(text)
