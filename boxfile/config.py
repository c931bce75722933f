"""`config:`: what a container of the image gets."""

from __future__ import annotations

from boxfile import intents
from boxfile.kinds import Key, Kind, Reader, choice, expect_mapping, fields_schema, list_of, read_fields
from boxfile.nodes import Mapping, Node
from boxfile.plan import SHELL, Config, Healthcheck
from boxfile.values import ABSOLUTE, ACCOUNT, BEYOND_ROOT, COMMAND, COUNT, DURATION, ENV, EXPOSE, LABELS, SIGNAL

HEALTHCHECK_KEYS = {
    "command": Key(
        COMMAND, "The command that asks; exit status 0 is well.", required=True, example="command: [test, -e, /ready]"
    ),
    "interval": Key(DURATION, "How often."),
    "timeout": Key(DURATION, "How long the command may take."),
    "start_period": Key(DURATION, "How long failures at the start do not count."),
    "start_interval": Key(DURATION, "How often during the start period."),
    "retries": Key(COUNT, "How many failures in a row make it unwell."),
}


def _healthcheck(reader: Reader, node: Node) -> Healthcheck:
    hint = "write {command: [curl, -f, ...], interval: 30s}; 'reset: [healthcheck]' drops the base's"
    mapping = expect_mapping(reader, node, "a health check", hint)
    return Healthcheck(
        node.at, **read_fields(reader, mapping, HEALTHCHECK_KEYS, where="'healthcheck'", meant=intents.HEALTHCHECK)
    )


CONFIG_KEYS = {
    "entrypoint": Key(COMMAND, "The program of a container; 'cmd' and the words of 'box run' are its arguments."),
    "cmd": Key(COMMAND, "The command, or the arguments of the entrypoint, when 'box run' is given none."),
    "env": Key(ENV, "Variables."),
    "workdir": Key(ABSOLUTE, "The directory."),
    "user": Key(ACCOUNT, "The user: NAME, UID, or either with :GROUP or :GID."),
    "expose": Key(EXPOSE, "Ports that the program listens on."),
    "volumes": Key(list_of(BEYOND_ROOT, "a list of absolute paths", distinct=True), "Folders whose data outlive a container."),
    "labels": Key(LABELS, "Labels."),
    "stop_signal": Key(SIGNAL, "The signal that asks the program to end."),
    "healthcheck": Key(Kind(_healthcheck, fields_schema(HEALTHCHECK_KEYS)), "How a container is asked whether it is well."),
}
RESETTABLE = tuple(CONFIG_KEYS)
CONFIG_KEYS["reset"] = Key(
    list_of(choice("a field of the config", *RESETTABLE), "a list of fields", distinct=True), "Fields of the base to drop first."
)


def _config(reader: Reader, node: Node) -> Config:
    mapping = expect_mapping(reader, node, "a mapping", "such as config: {cmd: [/bin/sh]}")
    fields = read_fields(reader, mapping, CONFIG_KEYS, where="'config'", meant=intents.CONFIG)
    if "entrypoint" in fields and "cmd" in fields:
        _refuse_lost_arguments(reader, mapping, fields)
    for name in ("entrypoint", "cmd"):
        if isinstance(fields.get(name), str):
            fields[name] = (*SHELL, fields[name])
    return Config(node.at, **fields)


def _refuse_lost_arguments(reader: Reader, node: Mapping, fields: dict[str, object]) -> None:
    """A text goes to a shell: as an entrypoint it would drop the words of 'cmd', as 'cmd' it would make a shell an argument."""
    if isinstance(fields["entrypoint"], str):
        hint = "write the entrypoint as [program, argument, ...]"
        raise reader.error(node.pairs["entrypoint"][1], "an entrypoint written as a text would ignore 'cmd'", hint=hint)
    if isinstance(fields["cmd"], str):
        hint = "write 'cmd' as a list of arguments"
        raise reader.error(node.pairs["cmd"][1], "beside an entrypoint, 'cmd' is the list of its arguments", hint=hint)


CONFIG = Kind(_config, fields_schema(CONFIG_KEYS))
