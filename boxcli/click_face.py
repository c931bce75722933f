"""Click's view of the verbs: help, usage errors and shell completion, made of the tables in boxcli/verbs.

It is asked whenever `table.parse` will not answer, and for everything before the verb.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem, get_completion_class, shell_complete

from boxcli import failure
from boxcli import main as front
from boxcli.table import Argument, Option, Values, Verb
from store.likeness import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WRONG_USAGE = 2

SECTIONS = (
    ("Build and run", ("build", "run", "exec")),
    (
        "Containers",
        ("create", "start", "restart", "stop", "kill", "pause", "unpause", "wait", "update", "rename", "rm", "commit"),
    ),
    ("Look at containers", ("ps", "logs", "attach", "inspect", "top", "stats")),
    ("Volumes", ("volume",)),
    ("Images", ("images", "tag", "rmi", "history", "save", "load", "import")),
    ("Files", ("diff", "blame", "cp", "export", "mount", "umount")),
    ("Store", ("df", "gc", "prune", "fsck")),
    ("About", ("version", "info", "completion", "help")),
)


def main(argv: Sequence[str]) -> int:
    """Run `box` with these arguments, by click; the exit status."""
    group = _Box()
    instruction = os.environ.get(front.COMPLETION_VARIABLE)
    if instruction:
        return shell_complete(group, {}, "box", front.COMPLETION_VARIABLE, instruction)
    try:
        with group.make_context("box", list(argv)) as context:
            status = group.invoke(context)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.UsageError as wrong:
        return _explain(wrong)
    return status if isinstance(status, int) else 0


def values_of(verb: Verb, argv: Sequence[str], root: str) -> Values:
    """The values of `argv` as click reads them. Raises click.UsageError."""
    command = _command(verb, root)
    with command.make_context(verb.name, list(argv)) as context:
        return _values(verb, context, root)


def _explain(wrong: click.UsageError) -> int:
    message, meant = wrong.format_message().strip().rstrip("."), ""
    failing = 0
    path = "box"
    if wrong.ctx is not None:
        path = wrong.ctx.command_path
        failing = getattr(wrong.ctx.command, "failure_status", 0)
    if isinstance(wrong, click.NoSuchOption):
        message, meant = _unknown_option(wrong, path)
    elif message[1:2].islower():
        message = message[0].lower() + message[1:]
    hint = getattr(wrong, "hint", "") or meant or f"see '{path} --help'"
    failure.say(message if path == "box" else f"{path.removeprefix('box ')}: {message}", hint)
    return failing or WRONG_USAGE


if TYPE_CHECKING:
    _Type = click.ParamType[Any]
else:
    _Type = click.ParamType  # generic only since click 8.2


class _Text(_Type):
    """A parameter's text, turned into its value by the table's own reader."""

    def __init__(self, metavar: str, read: Callable[[str], object] | None) -> None:
        self.name = metavar
        self.read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if self.read is None or not isinstance(value, str):
            return value
        try:
            return self.read(value)
        except ValueError as error:
            message, *hint = error.args or ("",)
            wrong = click.BadParameter(message, ctx, param)
            if hint:
                wrong.hint = hint[0]  # type: ignore[attr-defined]  # read back by _explain
            raise wrong from error


class _Command(click.Command):
    failure_status = 0
    verb: Verb

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """A flag may be said with =true or =false, which click does not know: the last counts."""
        said: dict[str, bool] = {}
        words, at = [], 0
        while at < len(args):
            word = args[at]
            flag, attached, text = word.partition("=")
            option = self.verb.by_flag.get(flag)
            if word == "--" or (not self.verb.options_anywhere and (len(word) < 2 or word[0] != "-")):
                break
            at += 1
            if option is not None and not option.metavar and word.startswith("--"):
                if attached and text in ("true", "false"):
                    said[option.key] = text == "true"
                    continue
                said.pop(option.key, None)
            words.append(word)
            if self._takes_next(word):
                words += args[at : at + 1]
                at += 1
        ctx.meta["box.said"] = said
        return super().parse_args(ctx, words + args[at:])

    def _takes_next(self, word: str) -> bool:
        if word[:2] == "--":
            option = self.verb.by_flag.get(word)
            return option is not None and bool(option.metavar)
        if word[:1] != "-":
            return False
        for place, letter in enumerate(word[1:], 2):
            option = self.verb.by_flag.get("-" + letter)
            if option is None or option.metavar:
                return option is not None and place == len(word)
        return False


def run_below(verb: Verb, main: Callable[[Values], int], argv: Sequence[str], root: str, driver: str) -> int:
    """Run a verb that lies below another ("volume create") by click; the exit status."""
    command = _command(verb, root, driver, main)
    try:
        with command.make_context(f"box {verb.name}", list(argv)) as context:
            status = command.invoke(context)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.UsageError as wrong:
        return _explain(wrong)
    return status if isinstance(status, int) else 0


def _command(verb: Verb, root: str, driver: str = "", main: Callable[[Values], int] | None = None) -> click.Command:
    parameters: list[click.Parameter] = []
    for option in verb.options:
        declared = [option.key, *option.flags]
        if not option.metavar:
            parameters.append(click.Option(declared, is_flag=True, help=option.about))
            continue
        parameters.append(
            click.Option(
                declared,
                type=_Text(option.metavar, option.read),
                metavar=option.metavar,
                multiple=option.many,
                help=option.about,
                shell_complete=_completer(option, root),
            )
        )
    parameters += [
        click.Argument(
            [argument.key],
            type=_Text(argument.metavar, argument.read),
            metavar=_shape(argument),
            required=argument.required,
            nargs=-1 if argument.many else 1,
            shell_complete=_completer(argument, root),
        )
        for argument in verb.arguments
    ]

    def call(**_: object) -> int:
        act = main or front.load(verb.name).main
        status: int = act(_values(verb, click.get_current_context(), root, driver))
        return status

    command = _Command(
        verb.name,
        params=parameters,
        callback=call,
        help=f"{verb.summary}.\n\n{verb.description}".strip(),
        short_help=verb.summary,
        context_settings={"allow_interspersed_args": verb.options_anywhere, "max_content_width": 100},
    )
    command.verb = verb
    command.failure_status = verb.failure
    return command


def _shape(argument: Argument) -> str:
    words = argument.metavar + ("..." if argument.many else "")
    return words if argument.required else f"[{words}]"


def _values(verb: Verb, context: click.Context, root: str, driver: str = "") -> Values:
    given: dict[str, object] = {}
    parts: list[Option | Argument] = [*verb.options, *verb.arguments]
    for part in parts:
        value = context.params[part.key]
        if context.get_parameter_source(part.key) is not ParameterSource.COMMANDLINE or value == ():
            continue
        given[part.key] = list(value) if part.many and not isinstance(value, bool) else value
    given.update(context.meta.get("box.said", {}))
    return Values(root, given, driver)


def _completer(part: Option | Argument, root: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    def complete(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        if part.completes in ("file", "dir"):
            return [CompletionItem(incomplete, type=part.completes)]
        from boxcli import candidates

        found = [CompletionItem(text) for text in candidates.of(part.completes, root) if text.startswith(incomplete)]
        return found or ([CompletionItem(incomplete, type="file")] if part.completes == "end" else [])

    return complete


class _Box(click.Group):
    """`box` itself; a verb's module is imported when it is asked for."""

    def __init__(self) -> None:
        super().__init__(
            "box",
            params=[
                click.Option(
                    ["--root"],
                    metavar="DIR",
                    shell_complete=lambda *_: [CompletionItem("", type="dir")],
                    help="Where images and containers lie (else $BOX_ROOT, /var/lib/box for root, $XDG_DATA_HOME/box).",
                ),
                click.Option(
                    ["--driver"],
                    metavar="NAME",
                    type=click.Choice(front.DRIVERS),
                    help="How layers become file systems: erofs, overlay or copy (else $BOX_DRIVER, or the first that works).",
                ),
                click.Option(
                    ["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
                ),
            ],
            help="Build, run and share OCI containers from a YAML Boxfile.",
            invoke_without_command=True,
            callback=_without_verb,
            context_settings={"max_content_width": 100},
        )

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*front.VERBS, "help"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "help":
            return _HELP
        if cmd_name not in front.VERBS:
            return None
        root = os.path.abspath(ctx.params["root"]) if ctx.params.get("root") else front.default_root()
        return _command(front.load(cmd_name).VERB, root, ctx.params.get("driver") or front.default_driver())

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None and not ctx.resilient_parsing:
            raise _unknown_verb(ctx, args[0])
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in SECTIONS:
            with formatter.section(title):
                formatter.write_dl([(name, self._summary(ctx, name)) for name in names])

    def _summary(self, ctx: click.Context, name: str) -> str:
        command = self.get_command(ctx, name)
        return "" if command is None else command.short_help or ""


def _unknown_verb(context: click.Context, word: str) -> click.UsageError:
    from boxcli import elsewhere

    wrong = click.UsageError(f"unknown command {word!r}", context)
    near = nearest(word, front.VERBS)
    hint = elsewhere.COMMANDS.get(word) or (f"did you mean '{near}'?" if near else "see 'box help'")
    wrong.hint = hint  # type: ignore[attr-defined]  # read back by _explain
    return wrong


def _unknown_option(wrong: click.NoSuchOption, path: str) -> tuple[str, str]:
    """What to say of an option that a command does not have, and what to do instead."""
    from boxcli import elsewhere

    flag = wrong.option_name
    flags = [each for parameter in wrong.ctx.command.params for each in parameter.opts] if wrong.ctx is not None else []
    near = nearest(flag, [each for each in flags if each.startswith("--")]) if flag.startswith("--") else None
    hint = elsewhere.OPTIONS.get(f"{path.removeprefix('box ')} {flag}") or elsewhere.OPTIONS.get(flag)
    return f"no such option '{flag}'", hint or (f"did you mean '{near}'?" if near else "")


def _version(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from boxcli.release import RELEASE

        click.echo(f"box version {RELEASE}")
        context.exit()


def _without_verb(**_: object) -> int:
    context = click.get_current_context()
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
    return 0


def _help(verb: str | None) -> int:
    context = click.get_current_context().parent
    assert context is not None
    assert isinstance(context.command, _Box)
    if verb is None:
        click.echo(context.get_help())
        return 0
    command = context.command.get_command(context, verb)
    if command is None:
        raise _unknown_verb(context, verb)
    with command.make_context(verb, [], parent=context, resilient_parsing=True) as inner:
        click.echo(inner.get_help())
    return 0


_HELP = click.Command(
    "help",
    params=[click.Argument(["verb"], required=False, metavar="[VERB]")],
    callback=_help,
    short_help="Show the help of a command",
    help="Show the help of a command.",
)


def completion_script(shell: str) -> str:
    """What `shell` (bash, zsh or fish) runs to complete `box`."""
    made = get_completion_class(shell)
    assert made is not None
    return made(_Box(), {}, "box", front.COMPLETION_VARIABLE).source()
