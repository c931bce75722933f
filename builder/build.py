"""PLAN -> LAYERS -> IMAGE: the whole of a build, one step after another."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from hashlib import sha256

from builder import bases, copying, files, layers, origins, runs
from builder.cache import Cache, LastBuild, Miss, Result
from builder.changeset import Changeset
from builder.epoch import epoch_of, written
from builder.inputs import Context, StatCache
from builder.keys import Parts
from builder.places import located
from builder.progress import Progress, Silent
from builder.session import Session
from builder.settings import Settings
from builder.view import View
from store.digest import Descriptor
from store.errors import BoxError, BuildError, UsageError
from store.images import Layer, host_architecture
from store.layout import Store
from store.record import Record
from store.references import Reference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from boxfile import Place, Plan, Step


STDIN = "<stdin>"  # the path of a plan that was read from there


class Done(Record):
    """A step of a build: `reason` says why it was done (empty: it was cached), `layer` is its digest, if it changed files."""

    text: str
    reason: str
    seconds: float
    layer: str


class Built(Record):
    """An image in the store: its manifest, its name (None for none), and its steps; the base is not among them."""

    descriptor: Descriptor
    reference: str | None
    steps: tuple[Done, ...]


def build(
    store: Store,
    plan: Plan,
    *,
    context: str,
    tag: str | None = None,
    progress: Progress | None = None,
    epoch: int | None = None,
    no_cache: bool = False,
    userns: str = "",
) -> Built:
    """Build the image of `plan` from the files in the directory `context`, and give it the name `tag` or the plan's own.

    On return the image and its name survive a crash. On an error, an interrupt too, no name changed and nothing unfinished is
    left; of a killed build the next `Store.open` removes it. Without `epoch` it is SOURCE_DATE_EPOCH's. `userns` is as in
    runtime.spec.Spec, for the run steps.

    BoxfileError for a base that is not there, BuildError (StepFailed) naming the step that failed, StoreError.
    """
    if os.geteuid() != 0:
        raise BuildError("building an image takes root", hint="runtime.rootless.enter makes an ordinary user that")
    name = tag if tag is not None else plan.name
    reference = None if name is None else Reference.parse(name)
    if reference is not None and reference.digest is not None:
        raise UsageError(
            f"an image cannot be named by a digest: {name}", hint="name it NAME:TAG; its digest follows from its content"
        )
    place = os.path.abspath(context)
    cache = Cache(f"{store.root}/cache", store.blobs.directory, store.drafts, store.use)
    digests = StatCache(f"{cache.directory}/inputs/{_short(place)}", store.drafts)
    with store.leased(), Context(place, digests) as files_of:
        session = Session(
            store,
            plan,
            files_of,
            progress or Silent(),
            epoch=epoch_of(os.environ) if epoch is None else epoch,
            no_cache=no_cache,
            userns=userns,
            last=LastBuild(cache, _short(f"{place}\0{os.path.abspath(plan.path)}")),
        )
        with closing(session.log):
            descriptor, steps = Building(session).run()
        full_name = reference.full_name if reference is not None else None
        store.references.add([(full_name, descriptor)])
    return Built(descriptor, full_name, steps)


def _short(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]


class Building:
    """The state that goes from step to step: the layers so far and the settings in force."""

    __slots__ = ("chain", "done", "history", "parts", "selections", "session", "settings")

    def __init__(self, session: Session) -> None:
        self.session = session
        self.chain: tuple[Layer, ...] = ()
        self.settings = Settings()
        self.history: list[dict[str, object]] = []
        self.parts: list[Parts | None] = []
        self.done: list[Done] = []
        self.selections: dict[int, copying.Selection] = {}

    def run(self) -> tuple[Descriptor, tuple[Done, ...]]:
        """All of it, up to the image's manifest."""
        session, plan = self.session, self.session.plan
        self._select()
        try:
            session.progress.step_started(0, len(plan.steps), bases.shown(plan.base))
            base = bases.start(plan.base, session)
            self.chain, self.settings, self.history = base.layers, base.settings, list(base.history)
            session.store.use_layers(self.chain)
            self.parts.append(base.parts)
            session.compare_base(base.parts)
            if plan.config is not None:
                self.settings.reset(plan.config.reset)
            for number, step in enumerate(plan.steps, 1):
                session.progress.step_started(number, len(plan.steps), step.text)
                with named(f"{plan.path}:{step.at.line}: {step.text}", plan.path, step.at):
                    self._step(number, step)
        finally:
            # Also of a build that failed: the next one is compared with what was last tried.
            session.last.keep([parts.key() if parts is not None else "" for parts in self.parts])
        if plan.config is not None:
            self.settings.apply(plan.config)
        config = {
            "created": written(session.epoch),
            **(base.platform or {"architecture": host_architecture(), "os": "linux"}),
            "config": self.settings.to_json(),
            "history": self.history,
        }
        annotations = {origins.BASE_DIGEST: str(base.image)} if base.image is not None else None
        descriptor = session.store.images.create(config, self.chain, annotations=annotations)
        origins.keep(session.store, descriptor.digest, self._origins(base))
        return descriptor, tuple(self.done)

    def _select(self) -> None:
        """Find what the copy steps take, before anything is done: a name that was mistyped is told now."""
        from boxfile import CopyStep

        plan = self.session.plan
        for number, step in enumerate(plan.steps, 1):
            if isinstance(step, CopyStep):
                with named(f"{plan.path}:{step.at.line}: {step.text}", plan.path, step.at):
                    self.selections[number] = copying.select(step, self.session.context)

    def _origins(self, base: bases.Start) -> origins.Origins:
        """Where the lines of the history were written; those of a base that is an image, as far as this machine knows."""
        plan = self.session.plan
        path = plan.path if plan.path == STDIN else os.path.abspath(plan.path)
        lines: list[origins.Origin | None] = [origins.Origin(path, plan.base.at.line, 0)] * len(base.history)
        if base.image is not None:
            lines = list(origins.lines_of(self.session.store, base.image, len(base.history)))
        lines += [origins.Origin(path, step.at.line, number) for number, step in enumerate(plan.steps, 1)]
        return origins.Origins(len(base.layers), tuple(lines))

    def _step(self, number: int, step: Step) -> None:
        """One step: it changes the settings, or it is looked up, or done."""
        from boxfile import EnvStep, LabelStep, UserStep, WorkdirStep

        result = Result()
        reason, seconds = "", 0.0
        self.parts.append(None)
        match step:
            case EnvStep():
                self.settings.env.update(step.values)
            case LabelStep():
                self.settings.labels.update(step.labels)
            case UserStep():
                self.settings.user = step.user
            case _:
                result, reason, seconds = self._files(number, step)
                if isinstance(step, WorkdirStep):
                    self.settings.workdir = step.path
        if result.digest:
            self.chain = (*self.chain, layers.layer_of(result, self.chain))
            self.session.store.use_layers(self.chain[-1:])
        self.history.append(self.session.history_entry(step.text, empty=not result.digest))
        self.done.append(Done(step.text, reason, seconds, result.digest))

    def _files(self, number: int, step: Step) -> tuple[Result, str, float]:
        """The changes of a step to files, from the cache or made."""
        from boxfile import CopyStep, RunStep, canonical

        session = self.session
        base = Parts(layers.top(self.chain), canonical(step), session.epoch)
        selection = surroundings = None
        if isinstance(step, CopyStep):
            selection = self.selections[number]
            base = copying.parts(step, selection, base)
        elif isinstance(step, RunStep):
            surroundings = runs.Surroundings(step, self.settings)
            base = surroundings.parts(base)
        self.parts[-1] = base
        found = session.lookup(number, base)
        if not isinstance(found, Miss):
            return found.result, "", 0.0
        with session.timed(number), session.store.drafts.directory("build") as draft:
            if isinstance(step, RunStep) and surroundings is not None:
                shown = f"{session.plan.path}:{step.at.line}: {step.text}"
                upper = runs.run(
                    step, surroundings, session.store, self.chain, draft.path, epoch=session.epoch, number=number, shown=shown,
                    log=session.log, progress=session.progress, userns=session.userns,
                )  # fmt: skip
                result = layers.keep_upper(session.store, upper, self.chain, session.epoch)
            else:
                with self._view() as view:
                    result = session.keep_changes(self._changes(step, selection, view), draft.path, self.chain)
            session.cache.keep(base, result)
        return result, found.reason, session.seconds

    @contextmanager
    def _view(self) -> Iterator[View]:
        descriptor = self.session.store.snapshots.view(self.chain)
        try:
            yield View(descriptor)
        finally:
            os.close(descriptor)

    def _changes(self, step: Step, selection: copying.Selection | None, view: View) -> Changeset:
        from boxfile import CopyStep, MkdirStep, RemoveStep, SymlinkStep, WorkdirStep, WriteStep

        match step:
            case CopyStep() if selection is not None:
                return files.copy(step, selection, self.session.context, view)
            case WriteStep():
                return files.write(step, view)
            case MkdirStep():
                return files.mkdir(step, view)
            case SymlinkStep():
                return files.symlink(step, view)
            case RemoveStep():
                return files.remove(step, view)
            case WorkdirStep():
                return files.workdir(step, view)
        raise TypeError(f"no such step: {step!r}")


@contextmanager
def named(step: str, path: str, at: Place) -> Iterator[None]:
    """What goes wrong in this block is said of `step`, which stands in the Boxfile `path` at that place."""
    try:
        try:
            yield
        except BuildError:
            raise
        except BoxError as err:
            raise BuildError(err.message, hint=err.hint) from err
        except OSError as err:
            where = f"{err.filename}: " if err.filename is not None else ""
            raise BuildError(f"{where}{os.strerror(err.errno or 0).lower()}") from err
    except BuildError as err:
        err.step = err.step or step
        err.place = err.place or located(err, path, at)
        raise
