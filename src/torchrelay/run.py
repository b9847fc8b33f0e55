"""The user's surface: a training that outlives its machines, as one context manager around an ordinary loop.

with Run.attach() as run:
    run.track(model=model, optimizer=optimizer)
    for step in run.steps(1000):
        ...
        run.log({"loss": loss})
"""

import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import torch

from torchrelay import attempt as attempts
from torchrelay import presence, rng, signals
from torchrelay.attach import Attached, about, connect, local_world_size
from torchrelay.attempt import Unsupervised
from torchrelay.checkpoint import fits
from torchrelay.checkpoint.manager import CheckpointManager
from torchrelay.contract.exit_codes import ExitCode
from torchrelay.contract.records import Heartbeat
from torchrelay.endings import Ending, is_clean_exit, is_peer_lost
from torchrelay.finite import FiniteCheck, NotFinite, diverged
from torchrelay.observe.reporter import Metrics, Reporter, resolved
from torchrelay.pace import Pace
from torchrelay.presence import Presence
from torchrelay.saver import Saver, Saving, State
from torchrelay.stop import Agreement, Stopped
from torchrelay.tracked import Tracked

_LAST_CHANCE_S = 30.0  # for a save that is under way when a rank fails


class Run:
    """One rank's part in a run. Made by `attach`.

    `step` counts the steps that are done; in the body of a step, that step is not among them. `samples` counts what was
    given to `log`. Both are saved and restored.
    """

    def __init__(self, attached: Attached, present: Presence, log_every: int) -> None:
        self.attempt, self.world = attached.attempt, attached.world
        self.rank, self.world_size = self.world.rank, self.world.world_size
        self.local_rank, self.node, self.device = self.world.local_rank, self.world.node, self.world.device
        self.local_world_size = local_world_size()
        self.is_main = self.world.is_main
        self.storage, self.writer = self.attempt.storage, self.attempt.writer
        self.spec, self.train = self.attempt.spec, self.attempt.train
        self.name = str(self.spec.get("name", ""))
        self.seed = self.train.seed if self.train is not None else 0
        self.step = 0
        self.total_steps: int | None = None
        self.samples = 0
        self.evaluated_step: int | None = None  # steps done at the last evaluation
        self.best: float | None = None  # of checkpoint.keep_best's metric
        self.resumed_from: str | None = None  # folder of the checkpoint that was restored
        policy = self.attempt.checkpoint
        manager = CheckpointManager(self.storage, self.writer, self.world, policy, about(self.spec))
        self._saver = Saver(manager, policy, speaks=self.is_main)
        self._pace = Pace(policy) if policy.every.auto else None
        save_every_s = self._pace.interval_s if self._pace is not None else policy.every.seconds
        self._agreement = Agreement(self.world, present.signals, save_every_s)
        self._agreement.busy, self._agreement.broken = lambda: self._saver.untold, lambda: self._saver.broken
        self._presence, self._ending = present, attached.ending
        log_every = self.train.log_every if self.train is not None else log_every
        self._reporter = Reporter(attached.observer, self.device, log_every)
        self._saver.saved, self._saver.failed = self._save_done, self._reporter.save_failed
        self._untouched = rng.Untouched()
        self._tracked, self._finite = Tracked(), FiniteCheck()
        self._metrics: dict[str, float] = {}  # of the last evaluation
        self._restored = self._in_step = self._left_early = self._finish = self._stopped = self._prepared = False
        self._broken_off = False  # whether `should_stop` has said so
        self._first_step = 0  # of this gang
        self._beaten = time.monotonic()

    @classmethod
    def attach(
        cls,
        *,
        name: str | None = None,
        storage: str | None = None,
        save_every: str | None = None,
        log_every: int = 10,
        process_group: str | None = None,
    ) -> "Run":
        """Join the run that this process was started for: process group, device, signal handlers, claim.

        The arguments count where no job spec says otherwise: without a launcher the run is `<storage>/<name>`, by
        default `runs/<script's name>`, and goes on from its newest checkpoint. `save_every`: "200 steps", "5m".

        Collective: yes. An error ends the process with its exit code.
        """
        present = presence.enter()
        ending = Ending.of_environment()
        try:
            return cls(connect(Unsupervised(name, storage, save_every), process_group, ending), present, log_every)
        except BaseException as error:  # noqa: BLE001 - it is the last to see it, and passes it on
            ending.failed(error)

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        self._ending.step = self.step
        if error is not None and not isinstance(error, Stopped) and not is_clean_exit(error):
            if not is_peer_lost(error):  # what is lost with a peer cannot be committed any more
                self._saver.settle(_LAST_CHANCE_S)
            self._ending.failed(error)
        try:
            self._end(save=error is None)
        except BaseException as late:  # noqa: BLE001 - as in attach
            self._ending.failed(late)
        if self._stopped and error is None:  # somebody swallowed it
            raise Stopped(self._stop_code())

    def track(self, **objects: Any) -> None:
        """Save and restore these: anything with `state_dict` and `load_state_dict`, alike on all ranks."""
        self._tracked.add(objects)

    def restore(self) -> None:
        """Put what is tracked to the newest good checkpoint, if there is one; `steps` does so if nobody has.

        Collective: yes. Raises: CheckpointMismatchError if it belongs to something else.
        """
        if self._restored:
            return
        self._restored = True
        found = self._saver.manager.restore(into=self._tracked.modules_state())
        if found is None:
            return
        fits.check_of_a_run(found.shared, found.private, found.folder)
        self._tracked.load(found.shared, found.folder)
        progress = found.shared["progress"]
        self.step, self.samples = found.step, progress["samples"]
        self.evaluated_step, self.best = progress["evaluated_step"], progress["best"]
        self.resumed_from = self._saver.newest = found.folder
        self._saver.saved_step = found.step
        self._reporter.restored(found.step)
        if found.private is not None and found.world_size == self.world_size:
            rng.restore(found.private["rng"], self.device)
        else:
            rng.seed_all(self.seed, self.rank, self.step)

    def steps(self, total: int | None = None) -> Iterator[int]:
        """The steps still to do, each as its number from 0: `for step in run.steps(1000)`. None: until `finish`.

        Between two steps the ranks agree whether to save or to stop. `break` counts the step as done: do it last.

        Collective: yes. Raises: Stopped, after a save, when the run is to stop.
        """
        self.restore()
        self.total_steps = total
        self._reporter.started(self.step, total, self.world_size, self.resumed_from)
        self._first_step = self.step
        while not self._finish and (total is None or self.step < total):
            self._boundary()
            self._in_step = True
            try:
                yield self.step
            except GeneratorExit:
                self._left_early = True  # by break, or by an error, which __exit__ can tell apart
                raise
            finally:
                self._in_step = False
            self.step += 1
        if self._broken_off:  # in the last step, which is not complete without what was broken off
            self._stop()
        self._save_last()

    def finish(self) -> None:
        """Make the step that is being done the last one. All ranks must do so at the same step."""
        self._finish = True

    def should_stop(self) -> bool:
        """Whether to break off something long within a step, such as an evaluation; True on all ranks at once.

        Collective: yes
        """
        self._agreement.tick(within=True)
        self._progressed()
        self._broken_off = self._broken_off or bool(self._agreement.stop)
        return self._broken_off

    def save(self) -> None:
        """Save now, or within a step at its end. Raises: StorageError when outside a step.

        Collective: yes
        """
        if self._in_step:
            self._saver.ask()
        else:
            self._save(must=True)

    @property
    def log_due(self) -> bool:
        """Whether `log` writes the current step's metrics: work only for them can be left out otherwise."""
        return self._reporter.due(self._current_step(), self.total_steps)

    def log(self, metrics: Metrics, *, samples: int = 0, data_wait_s: float = 0.0) -> None:
        """Give the metrics of a step; rank 0 writes down each `log_every`-th. Cheap in between: nothing is computed.

        `samples`: of this step over all ranks. `data_wait_s`: how long this rank waited for them.
        """
        self.samples += samples
        done = self._current_step()
        self._reporter.step(done, self.total_steps, metrics, samples=samples, data_wait_s=data_wait_s)

    def evaluated(self, metrics: Metrics) -> None:
        """Give the metrics of an evaluation of the current weights, the same on all ranks.

        They go into the checkpoint of this step, unless that has been saved before, as it may have been after the loop.
        The best by `checkpoint.keep_best` gets a checkpoint of its own.

        Collective: yes
        """
        self.evaluated_step = self._current_step()
        self._metrics = resolved(metrics)
        if not self._in_step:
            self._saver.reopen(self.evaluated_step)
        self._reporter.evaluation(self.evaluated_step, self._metrics)
        self.best = self._saver.ask_if_best(self._metrics, self.best)

    def check_finite(self, loss: torch.Tensor | float) -> None:
        """Make sure that a loss, one element, is a number. On a GPU it is known one step later, and before any save.

        Raises: DivergedError.
        """
        self._raise_if_bad(self._finite.look(loss, self._current_step()))

    def _current_step(self) -> int:
        """Steps done when the one that is being done is over."""
        return self.step + 1 if self._in_step else self.step

    def _raise_if_bad(self, bad: NotFinite | None) -> None:
        if bad is not None:
            self._saver.settle(_LAST_CHANCE_S)
            raise diverged(bad, self.rank, self._saver.newest)

    def _boundary(self) -> None:
        """Between two steps: agree, save if due, stop if told to."""
        self._agreement.tick()
        self._progressed()
        if self._pace is not None:
            self._pace.tick(time.monotonic(), saving=self._saver.busy)
        self._saver.poll()
        if self._agreement.save_broken:
            self._saver.finish()
        if self._agreement.stop:
            self._stop()
        if self._saver.due(self.step, by_clock=self._agreement.save_due):
            self._save(must=False)
        elif not self._prepared and self.step > self._first_step:  # before, an optimizer has no state
            self._prepared = True
            self._saver.prepare(self._state())

    def _stop(self) -> None:
        self._reporter.stopping(self.step, signals.name_of(self._agreement.stop))
        self._save_last()
        self._stopped = True
        raise Stopped(self._stop_code())

    def _stop_code(self) -> int:
        """A supervisor reads 75 in the report; torchrun must see success, or it says that the job failed."""
        return 0 if self._presence.supervised else int(ExitCode.PREEMPTED)

    def _save_last(self) -> None:
        self._save(must=True)
        self._agreement.drain()

    def _save(self, *, must: bool) -> None:
        self._raise_if_bad(self._finite.resolve())
        self._reporter.flush()  # what lies behind a checkpoint is never measured again
        self._presence.touch(float("inf"))
        began = time.monotonic()
        waited_s = 0.0
        if must:
            self._saver.save_now(self._state())
        else:
            waited_s = self._saver.begin(self._state())
        self._agreement.saved()
        self._presence.touch(float("inf"))
        self._reporter.stood_still(time.monotonic() - began, waited_s)
        if self._pace is not None:
            self._pace.skip()

    def _save_done(self, saving: Saving) -> None:
        paced = {}
        if self._pace is not None:
            self._pace.saved(saving)
            self._agreement.save_every_s = self._pace.interval_s
            paced = {"cost_s": self._pace.cost_s, "interval_s": self._pace.interval_s}
        self._reporter.saved(saving, **paced)

    def _state(self) -> State:
        progress = {"samples": self.samples, "evaluated_step": self.evaluated_step, "best": self.best}
        return State(
            self.step,
            {**self._tracked.state(), "progress": progress},
            {"rng": rng.capture(self.device, self._untouched)},
            self._metrics if self.evaluated_step == self.step else {},
            self.samples,
            self._tracked.buffers(),
        )

    def _progressed(self) -> None:
        """Tell whoever watches that this rank lives; does something once per second."""
        now = time.monotonic()
        if not self._presence.touch(now) or not self.is_main:
            return
        self._reporter.hand_over()
        if not self._presence.supervised and now - self._beaten > Heartbeat.interval_on(self.storage):
            self._beaten = now
            attempts.beat_soon(self.attempt)

    def _end(self, *, save: bool) -> None:
        if self._stopped:
            self._ending.stopped()
            return
        self._raise_if_bad(self._finite.resolve())
        if save and self._left_early:
            self.step += 1
            self._ending.step = self.step
            self._save_last()
        self._ending.completed()
