"""What a container of the image gets: the image config's fields, inherited from the base, changed by steps and by `config:`."""

from collections.abc import Mapping

from store.documents import list_at, mapping_at, object_at, text_at, texts_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from boxfile import Config, Healthcheck


class Settings:
    """The fields of an OCI image config (image-spec config.md, "config"), and docker's `Healthcheck`.

    `env`, `workdir` and `user` are also what the run steps that follow are run with.
    """

    __slots__ = ("cmd", "entrypoint", "env", "expose", "healthcheck", "labels", "stop_signal", "user", "volumes", "workdir")

    def __init__(self) -> None:
        self.env: dict[str, str] = {}
        self.entrypoint: list[str] = []
        self.cmd: list[str] = []
        self.workdir = ""
        self.user = ""
        self.labels: dict[str, str] = {}
        self.volumes: list[str] = []
        self.expose: list[str] = []
        self.stop_signal = ""
        self.healthcheck: Mapping[str, object] = {}

    @classmethod
    def of(cls, config: Mapping[str, object], what: str) -> "Settings":
        """Those of an image's config document; StoreError when it is damaged."""
        fields = object_at(config, "config", what)
        made = cls()
        made.env = dict(_pair(text) for text in texts_at(fields, "Env", what))
        made.entrypoint = texts_at(fields, "Entrypoint", what)
        made.cmd = texts_at(fields, "Cmd", what)
        made.workdir = text_at(fields, "WorkingDir", what, "")
        made.user = text_at(fields, "User", what, "")
        made.labels = dict(mapping_at(fields, "Labels", what))
        made.volumes = sorted(object_at(fields, "Volumes", what))
        made.expose = sorted(object_at(fields, "ExposedPorts", what))
        made.stop_signal = text_at(fields, "StopSignal", what, "")
        made.healthcheck = object_at(fields, "Healthcheck", what)
        return made

    def reset(self, names: "tuple[str, ...]") -> None:
        """Drop what the base brought under these names of `config:`."""
        fresh = Settings()
        for name in names:
            setattr(self, name, getattr(fresh, name))

    def apply(self, config: "Config") -> None:
        """Take what `config:` says. An entrypoint without a cmd drops the base's cmd, which was another program's arguments."""
        if config.entrypoint is not None:
            self.entrypoint = list(config.entrypoint)
            self.cmd = []
        if config.cmd is not None:
            self.cmd = list(config.cmd)
        self.env.update(config.env)
        self.labels.update(config.labels)
        self.workdir = config.workdir if config.workdir is not None else self.workdir
        self.user = config.user if config.user is not None else self.user
        self.expose = sorted({*self.expose, *config.expose})
        self.volumes = sorted({*self.volumes, *config.volumes})
        self.stop_signal = config.stop_signal if config.stop_signal is not None else self.stop_signal
        if config.healthcheck is not None:
            self.healthcheck = _healthcheck(config.healthcheck)

    def to_json(self) -> dict[str, object]:
        """The `config` object of an image config; what says nothing is left out."""
        fields: dict[str, object] = {
            "User": self.user,
            "ExposedPorts": {port: {} for port in self.expose},
            "Env": [f"{name}={value}" for name, value in self.env.items()],
            "Entrypoint": self.entrypoint,
            "Cmd": self.cmd,
            "Volumes": {path: {} for path in self.volumes},
            "WorkingDir": self.workdir,
            "Labels": self.labels,
            "StopSignal": self.stop_signal,
            "Healthcheck": dict(self.healthcheck),
        }
        return {name: value for name, value in fields.items() if value}


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


def _healthcheck(check: "Healthcheck") -> dict[str, object]:
    test = ["CMD-SHELL", check.command] if isinstance(check.command, str) else ["CMD", *check.command]
    fields: dict[str, object | None] = {
        "Test": test,
        "Interval": check.interval,
        "Timeout": check.timeout,
        "StartPeriod": check.start_period,
        "StartInterval": check.start_interval,
        "Retries": check.retries,
    }
    return {name: value for name, value in fields.items() if value is not None}


def history_of(config: Mapping[str, object], what: str) -> list[dict[str, object]]:
    """The history of an image's config document, as it stands."""
    return [dict(entry) for entry in list_at(config, "history", what) if isinstance(entry, dict)]
