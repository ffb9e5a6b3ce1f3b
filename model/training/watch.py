"""A training that watches itself: a loss that rises, no update for some time, memory that does not suffice."""

import contextlib
import statistics
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from model.config.training import Train
from model.config.watch import Divergence, Watch
from model.training import resume_states
from model.training.batches import Place
from model.training.history import TrainingError
from model.training.trainer import Training


class LossRose(TrainingError):
    """The loss is far above its running median."""


def divergence(history: Sequence[Mapping[str, float]], config: Divergence) -> str | None:
    """A message if the last row's loss is more than config.factor times the median of the config.rows rows before."""
    before = [row["loss"] for row in history[-1 - config.rows : -1]]
    if len(before) < config.rows:
        return None
    loss, median = history[-1]["loss"], statistics.median(before)
    if loss <= config.factor * median:
        return None
    return (
        f"update {history[-1]['step']:.0f}: loss {loss:.4g} is more than {config.factor:g} times {median:.4g}, the "
        f"median of the {config.rows} rows before"
    )


def halved(config: Train) -> Train:
    """The same training with half the micro-batch and twice the accumulation. The batch is even.

    The number of examples of an update, its loss and its gradient are the same in expectation.
    """
    return config.model_copy(update={"batch": config.batch // 2, "accumulation": config.accumulation * 2})


def fresh_chunk(plain: Mapping[str, Any], config: Train) -> dict[str, Any]:
    """The plain values of a state, for a training of another micro-batch to go on from it.

    Batches are numbered otherwise then, so it goes on with the next chunk, of which nothing was drawn.
    """
    return {**plain, "place": Place(plain["place"][0] + 1, plain["step"] * config.accumulation)}


def load(make: Callable[[Train], Training], config: Train, folder: Path, halve: bool) -> tuple[Training, int | None]:
    """The training from its newest state in `folder`, or from its beginning, and since when its micro-batches are half.

    That is the update after which memory first did not suffice; None if it always did. `halve` halves them now.
    """
    state = resume_states.newest(folder)
    if state is None:
        return make(halved(config) if halve else config), 0 if halve else None
    tensors, plain = resume_states.read(state)
    halved_after = plain["step"] if halve else plain["halved_after"]
    training = make(config if halved_after is None else halved(config))
    training.restore(tensors, fresh_chunk(plain, training.config) if halve else plain)
    return training, halved_after


class Watchdog:
    """Calls `on_stall(seconds, place)` from its own thread when no `update` came for `seconds`, once for each stall.

    `place` is the line of code at which the thread that made this is. Time in which the whole process was suspended
    does not count. A thread that holds Python's lock for all that time cannot be watched.
    """

    def __init__(
        self,
        seconds: float,
        on_stall: Callable[[float, str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seconds, self.on_stall, self.clock = seconds, on_stall, clock
        self._tick = min(1.0, seconds / 4)
        self._watched = threading.get_ident()
        self._ended = threading.Event()
        self._paused = self._reported = False
        self._silent, self._looked = 0.0, clock()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def update(self) -> None:
        """There is progress."""
        self._silent, self._reported = 0.0, False

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time of this block."""
        self._paused = True
        try:
            yield
        finally:
            self.update()
            self._paused = False

    def look(self) -> None:
        """Count the time since the last look, at most two ticks of it."""
        now = self.clock()
        passed, self._looked = now - self._looked, now
        if self._paused:
            return
        self._silent += min(passed, 2 * self._tick)
        if self._silent >= self.seconds and not self._reported:
            self._reported = True
            self.on_stall(self._silent, _place(self._watched))

    def start(self) -> None:
        """Begin to look, once every tick."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(self._tick):
            self.look()


def _place(thread: int) -> str:
    frame = sys._current_frames().get(thread)
    if frame is None:
        return "an unknown place"
    innermost = traceback.extract_stack(frame)[-1]
    return f"{innermost.filename}:{innermost.lineno}, {innermost.name}"


class Watcher(Watchdog):
    """Watches one training by its configuration."""

    def __init__(
        self, training: Training, config: Watch, warn: Callable[[str], None], on_stop: Callable[[str], None]
    ) -> None:
        """`warn` gets messages that do not end the training; `on_stop`, called in another thread, a stall that does."""
        super().__init__(config.stall.seconds, self._stalled)
        self.training, self.config, self.warn, self.on_stop = training, config, warn, on_stop
        self._rising = False

    def row(self) -> None:
        """Look at the newest row of the history. Raises LossRose."""
        text = divergence(self.training.history, self.config.divergence)
        if text and self.config.divergence.then == "stop":
            raise LossRose(
                f"{text}; the training diverged. Lower train.optimizer.learning_rate, or set watch.divergence.then: "
                "go-on, which goes on from the last save"
            )
        if text and not self._rising:
            self.warn(text)
        self._rising = bool(text)

    def may_halve(self) -> bool:
        """Whether the training may go on with half the micro-batch: on one GPU, whose process can begin again."""
        alone = self.training.workers.count == 1
        return self.config.out_of_memory == "halve" and alone and self.training.config.batch % 2 == 0

    def _stalled(self, seconds: float, place: str) -> None:
        text = f"no update for {seconds:.0f} s after update {self.training.step}; the training is at {place}"
        if self.config.stall.then == "go-on":
            self.warn(text)
        else:
            self.on_stop(f"{text}; start the stage again to go on from the last save")
