"""What a build tells its caller while it goes on. Printing is the caller's: a library never talks to the terminal."""

from typing import Protocol


class Progress(Protocol):
    """The calls come in order, from the building thread; `number` counts the steps from 1, 0 is the base."""

    def step_started(self, number: int, total: int, text: str) -> None:
        """The step is looked up now. `text` is as the user wrote it."""

    def step_cached(self, number: int) -> None:
        """Its result was found; it is not done again."""

    def step_missed(self, number: int, reason: str) -> None:
        """It will be done, because of `reason`."""

    def output(self, number: int, line: str) -> None:
        """A line that the step's command wrote, without its end, control characters and all."""

    def step_done(self, number: int, seconds: float) -> None:
        """It was done, and its layer is kept."""


class Silent:
    """Progress that nobody watches."""

    def step_started(self, number: int, total: int, text: str) -> None: ...

    def step_cached(self, number: int) -> None: ...

    def step_missed(self, number: int, reason: str) -> None: ...

    def output(self, number: int, line: str) -> None: ...

    def step_done(self, number: int, seconds: float) -> None: ...
