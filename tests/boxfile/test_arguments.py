"""`${{ name }}`: what is put in, where it is not, and that it cannot change what the YAML says."""

import pytest

from boxfile import EnvStep, RunStep, parse
from boxfile.arguments import Arguments, escaped
from store.errors import BoxfileError


def run(command: str, *, declared: str = '{python: "3.12", empty: "", none: null}', args: dict[str, str] | None = None) -> str:
    plan = parse(f"box: 1\nargs: {declared}\nbase: scratch\nsteps:\n  - run: {command}\n", args=args)
    (step,) = plan.steps
    assert isinstance(step, RunStep)
    assert isinstance(step.command, str)
    return step.command


@pytest.mark.parametrize(
    ("command", "meaning"),
    [
        ("a ${{ python }} b", "a 3.12 b"),
        ("${{python}}${{ python }}", "3.123.12"),
        ("a${{ empty }}b", "ab"),
        ("${{ python:3.9 }}", "3.12"),
        ("${{ none:3.9 }}", "3.9"),
        ("${{ undeclared:a:b }}", "a:b"),
        ("'x${{ undeclared: }}y'", "xy"),
        ("$PYTHON ${PYTHON} ${PYTHON:-x} $(a) $$", "$PYTHON ${PYTHON} ${PYTHON:-x} $(a) $$"),
        ("docker inspect -f {{.Id}} x", "docker inspect -f {{.Id}} x"),
        ("$${{ python }}", "${{ python }}"),
        ("$$${{ python }}", "$${{ python }}"),
        ("$${{ ${{ python }}", "${{ 3.12"),
    ],
)
def test_arguments_are_put_into_texts(command: str, meaning: str) -> None:
    assert run(command) == meaning


def test_a_given_argument_wins_over_every_default() -> None:
    args = {"python": "3.13", "none": "n", "inline": "i"}
    assert run("${{ python }} ${{ python:x }} ${{ none }} ${{ inline:x }}", args=args) == "3.13 3.13 n i"


def test_the_plan_holds_the_arguments_that_have_a_value() -> None:
    text = "box: 1\nargs: {a: 1.10, b: null, c: yes}\nbase: scratch\n"
    assert parse(text, args={"b": "x"}).args == {"a": "1.10", "b": "x", "c": "yes"}
    assert parse(text).args == {"a": "1.10", "c": "yes"}


@pytest.mark.parametrize(
    "value", ["x, y: z", "a\nsteps: []", '"; rm -rf /', "*a", "!!int 1", "${{ python }}", "# x", "]}", "null", "~"]
)
def test_an_argument_cannot_add_structure_and_is_not_read_again(value: str) -> None:
    text = (
        "box: 1\nargs: {a: null}\nbase: scratch\nsteps:\n  - env: {A: '${{ a }}', B: \"${{ a }}\"}\n  - run: [echo, '${{ a }}']\n"
    )
    env, command = parse(text, args={"a": value}).steps
    assert isinstance(env, EnvStep)
    assert env.values == (("A", value), ("B", value))
    assert isinstance(command, RunStep)
    assert command.command == ("echo", value)


def test_arguments_are_put_into_every_kind_of_value() -> None:
    plan = parse(
        "box: 1\nname: x:${{ v }}\nargs: {v: 12, mode: 700}\nbase: debian:${{ v }}\n"
        "steps: [{mkdir: {path: '/${{ v }}', mode: '0${{ mode }}'}}]\n"
        "config: {expose: ['${{ v }}/udp'], healthcheck: {command: a, interval: '${{ v }}s', retries: '${{ v }}'}}\n"
    )
    assert plan.name == "x:12"
    assert plan.steps[0].mode == 0o700  # type: ignore[attr-defined]  # a MkdirStep, by the text
    assert plan.config is not None
    assert plan.config.expose == ("12/udp",)
    assert plan.config.healthcheck is not None
    assert (plan.config.healthcheck.interval, plan.config.healthcheck.retries) == (12 * 10**9, 12)


@pytest.mark.parametrize(
    ("command", "column", "width", "message", "hint"),
    [
        ("pip${{ pyhton }} x", 13, 13, "no argument named 'pyhton'", "did you mean 'python'?"),
        ("${{ zzz }}", 10, 10, "no argument named 'zzz'", "the arguments of this Boxfile: 'python', 'empty' and 'none'"),
        ("${{ python }} ${{ none }}", 24, 11, "the argument 'none' has no value", "--arg none=VALUE"),
        ("a ${{ python", 12, 3, "'${{' without its '}}'", "'$${{'"),
        ("${{ }}", 10, 6, "'' is no argument's name", "'${{ name }}'"),
        ("${{ a b }}", 10, 10, "'a b' is no argument's name", ""),
        ("${{ ${{ python }} }}", 10, 17, "'${{ python' is no argument's name", ""),
        ("${{ x:${{ python }} }}", 10, 19, "an argument inside an argument", ""),
        ("$${{ x }} ${{ zzz }}", 20, 10, "no argument named 'zzz'", ""),
        ('"\\u0024{{ zzz }}"', 10, 17, "no argument named 'zzz'", ""),
    ],
)
def test_a_wrong_argument_is_shown_at_its_place_in_the_text(
    command: str, column: int, width: int, message: str, hint: str
) -> None:
    with pytest.raises(BoxfileError) as caught:
        run(command)
    error = caught.value
    assert (error.line, error.column, error.width) == (5, column, width)
    assert error.message == message
    assert hint in error.hint


def test_a_wrong_argument_in_a_block_is_shown_on_its_line() -> None:
    with pytest.raises(BoxfileError) as caught:
        run("|\n      first\n      second ${{ zzz }}\n")
    assert (caught.value.line, caught.value.column) == (7, 14)


def test_an_argument_that_is_nowhere_declared_cannot_be_given() -> None:
    with pytest.raises(BoxfileError, match="no argument named 'pyhton'") as caught:
        run("true", args={"pyhton": "3"})
    assert (caught.value.line, caught.value.hint) == (2, "did you mean 'python'?")
    with pytest.raises(BoxfileError, match="no argument named 'x'") as caught:
        parse("box: 1\nbase: scratch\n", args={"x": "1"})
    assert caught.value.hint == "declare it: 'args: {x: \"its default\"}'"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("{a: [b]}", "expected a text, found a list"),
        ("{1a: b}", "'1a' is not the name of an argument"),
        ("{'a b': c}", "'a b' is not the name of an argument"),
        ("{a: '${{ b }}'}", "an argument's default is a plain text"),
        ("[a]", "expected a mapping of arguments, found a list"),
        ('{a: "\\0"}', "a NUL cannot be part of this"),
    ],
)
def test_a_wrong_declaration_is_refused(args: str, message: str) -> None:
    with pytest.raises(BoxfileError) as caught:
        run("true", declared=args)
    assert caught.value.message == message


def test_an_argument_with_half_a_surrogate_pair_is_refused_where_it_is_used() -> None:
    with pytest.raises(BoxfileError, match="half a surrogate pair"):
        run("${{ python }}", args={"python": "\udcff"})


@pytest.mark.parametrize("text", ["", "$", "${{", "$${{", "$$${{ x }}", "{{", "a{{b", "${{${{", "$ {{", "{{${{ }}", "${{{{"])
def test_escaped_is_the_inverse_of_substitute(text: str) -> None:
    assert Arguments({}, {}).substitute(escaped(text)) == text
