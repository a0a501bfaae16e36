"""The trainer: set-up, the training loop, validation and resuming.

    trainer = Trainer(model, data, teacher=teacher, losses=losses, run="runs/a")
    trainer.fit(epochs=30)

The loop is `Trainer.fit` and `Trainer._train_epoch`; what a step computes is in `step.py`;
everything around the step is a callback.
"""

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from jaxdistill import config
from jaxdistill.checkpoint.best import Best, best
from jaxdistill.checkpoint.integrity import fingerprint
from jaxdistill.checkpoint.manager import Checkpoints
from jaxdistill.data import Data, IterableData
from jaxdistill.losses import Loss
from jaxdistill.models import Student, check_image_size, unfreezing, with_projectors
from jaxdistill.models.parameters import Partition, merge
from jaxdistill.models.weights import format_normalization
from jaxdistill.reporting.console import UnfailingConsole
from jaxdistill.reporting.run_files import BEST_BY
from jaxdistill.reporting.writer import MetricWriter, NullWriter
from jaxdistill.runtime import distributed, memory
from jaxdistill.runtime.prefetch import prefetch
from jaxdistill.runtime.sharding import Mesh
from jaxdistill.teachers.base import Teacher, set_batch_size
from jaxdistill.training import assembly, feature_statistics, provenance, run_folder
from jaxdistill.training.aggregation import (
    averaged_over_masks,
    first_nonfinite,
    mean_metrics,
)
from jaxdistill.training.callbacks import Callback, default_callbacks, to_host
from jaxdistill.training.compile_ahead import compiling
from jaxdistill.training.input_pipeline import TrainBatch
from jaxdistill.training.inputs import Inputs
from jaxdistill.training.optimizer import migrate_opt_state
from jaxdistill.training.progress import Progress
from jaxdistill.training.step import (
    compile_eval_step,
    compile_train_step,
    initial_state,
    step_spec,
    weighted_total,
)
from jaxdistill.training.waits import Waits
from jaxdistill.types import Batch, TrainState, Variables


class Trainer:
    """Trains a student with a teacher, ground-truth masks, or both.

    Args:
      model: The student, from `jaxdistill.models.create`.
      data: A `jaxdistill.data.Data`, or any iterable of batches of images and masks.
      teacher: Any callable from images (B, H, W, 3) in [0, 1] to `TeacherOutputs`, such as
        `jaxdistill.teachers.Onnx`; None learns from masks alone.
      losses: Loss terms by name; None takes the defaults that data and teacher allow.
      run: Folder of the run: configuration, metrics, checkpoints, sample images.
      validation: An iterable of batches to measure on, where `data` is one, too.
      settings: A configuration, for everything that the keyword arguments do not set.
      callbacks: Callbacks besides the default ones.
      console: Where messages go; None prints them. `Console(quiet=True)` is silent.
      **training: Any key of `training` in a configuration, such as `batch_size=8`, and `seed`.

    Raises:
      ConfigError: The parts do not fit each other.
    """

    def __init__(
        self,
        model: Student,
        data: Any,
        *,
        teacher: Teacher | None = None,
        losses: Mapping[str, Loss] | None = None,
        run: str | Path,
        validation: Any = None,
        settings: config.Config | None = None,
        callbacks: Sequence[Callback] = (),
        console: Console | None = None,
        **training: Any,
    ) -> None:
        self.console = console or default_console()
        self.run = Path(run).expanduser()
        self.data: Data | IterableData = assembly.as_data(data, validation)
        self.teacher = teacher
        self.settings = settings or assembly.settings_of(
            self.run, model, self.data, losses, training
        )
        self.losses, self.unused_losses = assembly.usable_losses(losses, self.data, teacher)
        self.mesh = Mesh(self.settings.mesh.data)
        self.mesh.check_batch_size(
            self.settings.training.batch_size, self.settings.training.accumulate
        )
        set_batch_size(teacher, self.settings.training.batch_size // self.mesh.size)
        check_image_size(model, self.data.image_size)
        self.pairs = assembly.feature_pairs(model, self.losses, teacher, self.data.image_size)
        self.model = with_projectors(model, self.pairs)
        self.partition = unfreezing.partition_in_phase(self.model, self.settings.student, phase=0)
        self.initial_partition = self.partition
        self.phase = 0
        self.progress = Progress()
        self.waits = Waits()
        self.callbacks = [*default_callbacks(), *callbacks]
        self.writer: MetricWriter | NullWriter = NullWriter()
        self.last_saved_step = -1
        self._stop_reason = ""
        self._checkpoint_requested = False
        self._ready = False
        self.state: TrainState

    @classmethod
    def from_config(
        cls, settings: config.Config, console: Console | None = None, threads: int | None = None
    ) -> "Trainer":
        """Builds data, teacher, student and losses as a configuration describes them.

        Args:
          settings: The configuration.
          console: Where messages go; None prints them.
          threads: Bound of onnxruntime's threads on the CPU; None takes every core.

        Raises:
          UserError: A file or name is wrong; names are checked before data is touched.
        """
        return assembly.trainer_from_config(cls, settings, console or default_console(), threads)

    # --- the loop ---------------------------------------------------------------------------------

    def fit(
        self, epochs: int | None = None, *, resume: bool = False, accept_changes: bool = False
    ) -> "Trainer":
        """Trains to the last epoch, with a validation and a checkpoint after each.

        Args:
          epochs: Passes over the training data; None takes `training.epochs`.
          resume: Go on from the newest checkpoint of the run.
          accept_changes: With `resume`: settings, data and files may differ from the run's.

        Returns:
          The trainer.

        Raises:
          RunError: The run exists and `resume` is not set, or it cannot be resumed.
          TrainingError: A loss was not finite.
        """
        if epochs is not None:
            self._set_epochs(epochs)
        self.setup()
        with ExitStack() as stack:
            checkpoints = stack.enter_context(
                run_folder.opened(self, resume=resume, accept_changes=accept_changes)
            )
            self._checkpoints: Checkpoints = checkpoints
            batches = stack.enter_context(closing(self.train_batches(self.progress.step)))
            stack.callback(self._emit, "on_fit_end")
            self._emit("on_fit_start")
            while self.progress.epoch < self.epochs:
                self.progress.phase = self.phase_of(self.progress.epoch)
                self.enter_phase(self.progress.phase)
                self._emit("on_epoch_start")
                start, first_step = time.perf_counter(), self.progress.step
                self._train_epoch(batches)
                if self.stop_requested:
                    break
                trained = time.perf_counter()
                validation = self.validate()
                if validation is None:  # stopped within the validation
                    self.save_checkpoint({})
                    break
                seconds = {"train": trained - start, "validation": time.perf_counter() - trained}
                record = self._epoch_record(validation, seconds, self.progress.step - first_step)
                self.progress.next_epoch()
                self.save_checkpoint(record, score=score_of(validation, self.progress.epoch))
                self._emit("on_epoch_end", record)
        return self

    def _train_epoch(self, batches: Iterator[TrainBatch]) -> None:
        """Takes the remaining steps of the epoch; a stop ends them early, with a checkpoint."""
        pending = None
        for step in range(self.progress.step, (self.progress.epoch + 1) * self.steps_per_epoch):
            with self.waits.for_input():
                batch, teacher = next(batches)
            self.state, scalars = self.train_step(
                self.state, self.frozen, *self.mesh.shard((batch, teacher))
            )
            with self.waits.for_step():
                self.wait_on_cpu(scalars)
                # One step late, so that the device never waits for the host.
                self._read_metrics(pending)
            pending = (step, batch, scalars)
            self._emit("on_step_end", step)
            if self.stop_requested or self._checkpoint_requested:
                self._read_metrics(pending)
                pending = None
                self.save_checkpoint({})
            if self.stop_requested:
                return
        self._read_metrics(pending)

    def validate(self) -> dict[str, float] | None:
        """Measures losses and metrics on the validation data.

        Returns:
          The means over all images; None if a stop was requested meanwhile.
        """
        epoch = np.int32(self.progress.epoch)
        measured = []
        with closing(self.validation_batches()) as batches:
            for batch, teacher in batches:
                sums, logits = self.eval_step(
                    self.state.params,
                    self.state.batch_stats,
                    self.frozen,
                    *self.mesh.shard((batch, teacher)),
                    epoch,
                )
                self._emit("on_validation_batch", batch, teacher, logits)
                if self.stop_requested:
                    return None
                measured.append(jax.device_get(sums))
        means = mean_metrics(measured)
        terms = {name: jnp.asarray(means[name]) for name in self.losses if name in means}
        return {**means, "total": float(weighted_total(self.losses, terms))}

    # --- what callbacks use -----------------------------------------------------------------------

    @property
    def epochs(self) -> int:
        """Number of epochs of the run."""
        return self.settings.training.epochs

    @property
    def stop_requested(self) -> bool:
        """Whether the training is to end after the current step."""
        return bool(self._stop_reason)

    @property
    def stop_reason(self) -> str:
        """Why the training ended early, such as `SIGTERM`; empty if it did not."""
        return self._stop_reason

    @property
    def validation_is_labelled(self) -> bool:
        """Whether the validation images have ground-truth masks."""
        return assembly.is_labelled(self.data, "validation")

    def request_stop(self, reason: str) -> None:
        """Ends the training after the current step; all processes must call it at the same step.

        Args:
          reason: What is reported.
        """
        self._stop_reason = reason

    def request_checkpoint(self) -> None:
        """Saves a checkpoint after the current step; all processes call it at the same step."""
        self._checkpoint_requested = True

    def save_checkpoint(self, record: Mapping[str, Any], score: float | None = None) -> None:
        """Saves the state with the run's provenance and progress.

        Args:
          record: Plain values to keep beside them, such as the epoch's metrics.
          score: The highest one is the best; None within an epoch.
        """
        own: dict[str, Any] = {"progress": vars(self.progress).copy()}
        if self.writer.unwritten:
            own["unwritten"] = list(self.writer.unwritten)
        self._checkpoints.save(self.state, {**self.about, **own, **record}, score)
        self.last_saved_step = self.progress.step
        self._checkpoint_requested = False

    def variables(self) -> Variables:
        """Returns all variables of the student by dotted path."""
        return {**self.state.params, **self.state.batch_stats, **self.partition.frozen}

    def image_names(self, ids: np.ndarray) -> dict[int, str]:
        """Returns the file names of images by id.

        Args:
          ids: Ids from a batch.
        """
        return {int(each): self.data.train.name_of(int(each)) for each in ids}

    def metadata(self) -> dict[str, dict[str, Any]]:
        """Returns data, files, sizes and environment of the run, in sections, for people."""
        return provenance.metadata_of_run(self)

    def best(self) -> Best:
        """Returns the student of the checkpoint with the best score, without projectors."""
        return best(self.run)

    # --- set-up -----------------------------------------------------------------------------------

    def setup(self) -> None:
        """Builds the input pipeline and the steps, and measures feature statistics; done once."""
        if self._ready:
            return
        for line in assembly.describe(self):
            self.console.print(line)
        natural = self.data.steps_per_epoch(self.settings.training.batch_size)
        self.steps_per_epoch = min(natural, self.settings.training.steps_per_epoch or natural)
        self.inputs = Inputs(
            self.settings,
            self.data,
            self.teacher,
            self.losses,
            self.model,
            self.partition,
            self.mesh,
        )
        self._compile()
        self.state = self.mesh.replicate(initial_state(self.spec, self.partition))
        if any(pair.standardized for pair in self.pairs):
            with compiling(self):
                statistics = distributed.broadcast(feature_statistics.measure_on(self))
            for line in feature_statistics.describe(statistics):
                self.console.print(line)
            self.partition = self.partition.with_values(statistics)
            self.state = self.mesh.replicate(initial_state(self.spec, self.partition))
        self.about: dict[str, Any] = {
            "provenance": provenance.provenance_of_run(self),
            "frozen": fingerprint(self.partition.frozen),
            "normalization": format_normalization(self.model.normalization),
            "steps_per_epoch": self.steps_per_epoch,
        }
        self._ready = True

    def train_batches(self, first_step: int) -> Generator[TrainBatch]:
        """Yields endless batches with teacher outputs, made ahead of the steps on an accelerator.

        Args:
          first_step: The step of the first batch.

        Returns:
          A generator of this process's rows of each batch.
        """
        read = self.data.train_batches(
            self.settings.training.batch_size,
            self.settings.seed,
            first_step,
            jax.process_index(),
            jax.process_count(),
        )
        return prefetch(self.inputs.train(read, first_step), _prefetch_depth())

    def validation_batches(self) -> Generator[TrainBatch]:
        """Yields the validation data once, in order, with teacher outputs."""
        read = self.data.validation_batches(
            self.settings.training.batch_size, jax.process_index(), jax.process_count()
        )
        return prefetch(self.inputs.validation(read), _prefetch_depth())

    def phase_of(self, epoch: int) -> int:
        """Returns how many of the encoder's stages are trained in an epoch.

        Args:
          epoch: The epoch, counted from 0.
        """
        stages = unfreezing.encoder_stages(self.model)
        return unfreezing.phase(self.settings.student, epoch, stages)

    def restore(self, state: TrainState, progress: Progress) -> None:
        """Continues from a checkpoint.

        Args:
          state: The state, shaped as `state_in_phase(progress.phase)`.
          progress: The position of the run.
        """
        self.enter_phase(progress.phase)
        self.state, self.progress = state, progress

    def state_in_phase(self, phase: int) -> TrainState:
        """Returns the state as it is shaped in a phase of the unfreezing, the present one or later.

        Args:
          phase: Number of the encoder's stages that have joined the training.
        """
        return self.state if phase == self.phase else self._in_phase(phase)[1]

    def enter_phase(self, phase: int) -> None:
        """Lets so many of the encoder's stages join the training.

        Args:
          phase: Number of stages, at least the present one.
        """
        if phase == self.phase:
            return
        self.partition, self.state = self._in_phase(phase)
        self.phase = phase
        self._compile()

    def _in_phase(self, phase: int) -> tuple[Partition, TrainState]:
        """Returns partition and state of a phase; parameters that join have fresh moments."""
        student = merge(self.partition.graphdef, self.variables())
        partition = unfreezing.partition_in_phase(student, self.settings.student, phase)
        opt_state = jax.jit(self.spec.optimizer.init)(partition.params)
        state = TrainState(
            self.state.step,
            partition.params,
            partition.batch_stats,
            migrate_opt_state(self.state.opt_state, opt_state),
        )
        return partition, self.mesh.replicate(state)

    def _compile(self) -> None:
        self.spec = step_spec(
            self.settings, self.model, self.partition.graphdef, self.losses, self.steps_per_epoch
        )
        self.train_step = compile_train_step(self.spec, self.mesh)
        self.eval_step = compile_eval_step(self.spec, self.mesh)
        self.frozen = self.mesh.replicate(self.partition.frozen)

    def _set_epochs(self, epochs: int) -> None:
        training = self.settings.training.model_copy(update={"epochs": epochs})
        self.settings = self.settings.model_copy(update={"training": training})
        self._ready = False

    # --- details of the loop ----------------------------------------------------------------------

    def _read_metrics(self, pending: tuple[int, Batch, Mapping[str, Any]] | None) -> None:
        """Fetches a step's metrics and counts them into the epoch's means."""
        if pending is None:
            return
        step, batch, scalars = pending
        metrics = to_host(scalars)
        self.progress.step = step + 1
        labelled = metrics["labelled"]
        term = first_nonfinite(self.losses, metrics)
        if term is not None:
            self._emit("on_nonfinite_step", step, term, metrics, batch)
            return
        del metrics["labelled"]
        self.progress.count(
            metrics, dict.fromkeys(averaged_over_masks(self.losses, metrics), labelled)
        )
        self._emit("on_step_metrics", step, metrics)

    def wait_on_cpu(self, scalars: Mapping[str, Any]) -> None:
        """On a CPU the next batch is made in turn with the steps: waits, and keeps freed memory."""
        if _prefetch_depth() == 0:
            jax.block_until_ready(scalars)
            memory.keep_freed()

    def _epoch_record(
        self, validation: Mapping[str, float], seconds: Mapping[str, float], steps: int
    ) -> dict[str, Any]:
        images = steps * self.settings.training.batch_size
        return {
            "train": self.progress.means(),
            "validation": dict(validation),
            "seconds": dict(seconds),
            "images_per_second": images / seconds["train"],
            "waits": self.waits.take(self.inputs.train.seconds),
            "skipped_steps": self.progress.skipped,
            **self.inputs.cache_counts(),
        }

    def _emit(self, event: str, *args: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self, *args)


def default_console() -> Console:
    """Returns a console that prints plain lines, in the main process only."""
    quiet = not distributed.is_main_process()
    return UnfailingConsole(soft_wrap=True, highlight=False, markup=False, quiet=quiet)


def score_of(validation: Mapping[str, float], epoch: int) -> float:
    """Returns the score that the best checkpoint is chosen by: mIoU, or agreement without masks.

    Args:
      validation: The validation's means; empty where there is no validation data.
      epoch: Number of finished epochs; the score where nothing was measured, so that the newest
        checkpoint is the best one.
    """
    return next((validation[name] for name in BEST_BY if name in validation), float(epoch))


def _prefetch_depth() -> int:
    """Returns how many batches are made ahead.

    On a CPU there are none: teacher and step share its cores, and each would hold its memory while
    the other runs.
    """
    return 0 if jax.default_backend() == "cpu" else 2
