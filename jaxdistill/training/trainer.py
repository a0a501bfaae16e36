"""The trainer: set-up, the training loop and validation.

    trainer = Trainer(model, data, teacher=teacher, losses=losses, run="runs/a")
    trainer.fit(epochs=30)

The loop is `Trainer.fit` and `Trainer._train_epoch`; what a step computes is in `step.py`; a run is
resumed in `run_folder.py`; everything around the step is a callback.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from jaxdistill import config
from jaxdistill.checkpoint.best import Best, best
from jaxdistill.checkpoint.manager import Checkpoints
from jaxdistill.data import Data, IterableData
from jaxdistill.losses import Loss
from jaxdistill.losses.base import Scalars
from jaxdistill.models import Student, unfreezing, with_projectors
from jaxdistill.reporting.console import default_console
from jaxdistill.reporting.writer import MetricWriter, NullWriter
from jaxdistill.runtime.paths import expanded
from jaxdistill.runtime.sharding import Mesh
from jaxdistill.teachers.base import Teacher, set_batch_size
from jaxdistill.training import (
    assembly,
    descriptions,
    feature_statistics,
    phases,
    preflight,
    provenance,
    run_folder,
)
from jaxdistill.training.aggregation import (
    averaged_over_masks,
    first_nonfinite,
    mean_metrics,
    to_host,
)
from jaxdistill.training.callbacks import Callback, default_callbacks, early_stopping
from jaxdistill.training.compile_ahead import compiling
from jaxdistill.training.ema import averaged
from jaxdistill.training.input_pipeline import RunPipelines, TrainBatch
from jaxdistill.training.loop_control import LoopControl
from jaxdistill.training.pairing import feature_pairs
from jaxdistill.training.progress import Progress
from jaxdistill.training.run_metrics import epoch_record, validation_score
from jaxdistill.training.step import jit_eval_step, jit_train_step, weighted_total
from jaxdistill.training.step_spec import StepSpec, initial_state, step_spec
from jaxdistill.training.waits import Waits, finish_step_on_cpu
from jaxdistill.types import Batch, TrainState, Variables

_Pending = tuple[int, Batch, Mapping[str, Any]]
"""Number, batch and scalars of a step whose scalars may not have arrived yet."""


class Trainer(LoopControl):
    """Trains a student with a teacher, ground-truth masks, or both.

    Args:
      model: The student, from `jaxdistill.models.create`.
      data: A `jaxdistill.data.Data`, or any iterable of batches of images and masks.
      teacher: Any callable from images (B, H, W, 3) in [0, 1] to `TeacherOutputs`, such as
        `jaxdistill.teachers.Onnx`; None learns from masks alone.
      losses: Loss terms by name; None takes the defaults that data and teacher allow.
      run: Folder of the run: configuration, metrics, checkpoints, sample images.
      validation: An iterable of batches to measure on, where `data` is one, too.
      settings: A configuration, for everything that the other arguments do not set.
      callbacks: Callbacks besides the default ones.
      console: Where messages go; None prints them. `Console(quiet=True)` is silent.
      **training: Any key of `training` in a configuration, such as `batch_size=8`, and `seed`; they
        come before those of `settings`.

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
        super().__init__([*default_callbacks(), *callbacks])
        self.console = console or default_console()
        self.run = expanded(run)
        self.data: Data | IterableData = assembly.as_data(data, validation)
        self.teacher = teacher
        settings = settings or assembly.settings_of(self.run, model, self.data, losses, teacher)
        self.settings = assembly.with_keywords(
            assembly.with_model(settings, model), self.run, training
        )
        early_stopping.check(self.settings.training, self.data)
        self.losses, self.unused_losses = assembly.usable_losses(losses, self.data, teacher)
        self.mesh = Mesh(self.settings.mesh.data)
        self.mesh.check_batch_size(
            self.settings.training.images_per_step, self.settings.training.accumulate
        )
        set_batch_size(teacher, self.settings.training.images_per_step // self.mesh.size)
        sizes = self.data.image_size, self.data.train_sizes
        preflight.check_sizes(model, *sizes)
        self.pairs = feature_pairs(model, self.losses, teacher, *sizes)
        self.model = with_projectors(model, self.pairs)
        self.partition = unfreezing.partition_in_phase(self.model, self.settings.student, phase=0)
        self.initial_partition = self.partition
        self.progress = Progress()
        self.waits = Waits()
        self.writer: MetricWriter = NullWriter()
        self.last_saved_step = -1
        self._ready = False
        # Made by `setup`, and anew when a stage of the encoder is unfrozen.
        self.state: TrainState
        """What training changes: parameters, BatchNorm statistics, the optimizer's state."""
        self.spec: StepSpec
        """What the steps are compiled for."""
        self.train_step: Callable[..., tuple[TrainState, Scalars]]
        """The jitted training step."""
        self.eval_step: Callable[..., Any]
        """The jitted validation step."""
        self.frozen: Variables
        """The student's variables that are not trained."""

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
        return cls(**assembly.parts_from_config(settings, console or default_console(), threads))

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
        self.stop_reason = self.finish_reason = ""
        self.checkpoint_requested = False
        self.setup()
        self._ready = False  # another call starts anew, or from a checkpoint
        with ExitStack() as stack:
            checkpoints = stack.enter_context(
                run_folder.opened(self, resume=resume, accept_changes=accept_changes)
            )
            self._checkpoints: Checkpoints = checkpoints
            batches = stack.enter_context(closing(self.inputs.train_batches(self.progress.step)))
            stack.callback(self.emit, "on_fit_end")
            self.emit("on_fit_start")
            while not self.finished:
                self.enter_phase(phases.phase_of(self, self.progress.epoch))
                self.emit("on_epoch_start")
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
                record = epoch_record(self, validation, seconds, self.progress.step - first_step)
                score = validation_score(validation, self.progress.epoch + 1)
                stopping = self.settings.training.early_stopping
                self.progress.next_epoch(score, stopping.min_improvement if stopping else 0.0)
                self.save_checkpoint(record, score)
                self.emit("on_epoch_end", record)
        return self

    def _train_epoch(self, batches: Iterator[TrainBatch]) -> None:
        """Takes the remaining steps of the epoch; a stop ends them early, with a checkpoint."""
        pending: _Pending | None = None
        for step in range(self.progress.step, (self.progress.epoch + 1) * self.steps_per_epoch):
            with self.waits.for_input():
                batch, teacher = next(batches)
            self.state, scalars = self.train_step(
                self.state, self.frozen, *self.mesh.shard((batch, teacher))
            )
            with self.waits.for_step():
                finish_step_on_cpu(scalars)
                # One step late, so that the device never waits for the host.
                self._read_metrics(pending)
            pending = (step, batch, scalars)
            self.emit("on_step_end", step)
            if self.stop_requested or self.checkpoint_requested:
                self._read_metrics(pending)
                pending = None
                self.save_checkpoint({})
            if self.stop_requested:
                return
        self._read_metrics(pending)

    def _read_metrics(self, pending: _Pending | None) -> None:
        """Fetches a step's metrics, counts the step, and adds them to the epoch's means."""
        if pending is None:
            return
        step, batch, scalars = pending
        metrics = to_host(scalars)
        self.progress.step = step + 1
        if (term := first_nonfinite(self.losses, metrics)) is not None:
            self.emit("on_nonfinite_step", step, term, metrics, batch)
            return
        labelled = metrics.pop("labelled")
        weights = dict.fromkeys(averaged_over_masks(self.losses, metrics), labelled)
        self.progress.count(metrics, weights)
        self.emit("on_step_metrics", step, metrics)

    def validate(self) -> dict[str, float] | None:
        """Measures losses and metrics on the validation data.

        Returns:
          The means over all images; None if a stop was requested meanwhile.
        """
        epoch = np.int32(self.progress.epoch)
        params, batch_stats = averaged(self.state)
        measured = []
        with closing(self.inputs.validation_batches()) as batches:
            for batch, teacher in batches:
                sums, logits = self.eval_step(
                    params, batch_stats, self.frozen, *self.mesh.shard((batch, teacher)), epoch
                )
                self.emit("on_validation_batch", batch, teacher, logits)
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

    @cached_property
    def steps_per_epoch(self) -> int:
        """Number of steps in an epoch: what the data give, or `training.steps_per_epoch`."""
        natural = self.data.steps_per_epoch(self.settings.training.images_per_step)
        return min(natural, self.settings.training.steps_per_epoch or natural)

    @property
    def finished(self) -> bool:
        """Whether no epoch is left to train."""
        return bool(self.finish_reason) or self.progress.epoch >= self.epochs

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
        self.checkpoint_requested = False

    def variables(self) -> Variables:
        """Returns all variables of the student as they are trained, by dotted path."""
        return {**self.state.params, **self.state.batch_stats, **self.partition.frozen}

    def best(self) -> Best:
        """Returns the student of the checkpoint with the best score, without projectors."""
        return best(self.run)

    # --- set-up -----------------------------------------------------------------------------------

    def setup(self) -> None:
        """Builds the input pipeline and the steps, and measures feature statistics.

        `fit` does it; calling it before shows what is wrong without a run.
        """
        if self._ready:
            return
        for line in descriptions.describe(self):
            self.console.print(line)
        self.inputs = RunPipelines(
            self.settings,
            self.data,
            self.teacher,
            self.losses,
            self.model,
            self.partition,
            self.mesh,
        )
        self.partition, self.progress = self.initial_partition, Progress()
        self._compile_steps()
        self.state = self.mesh.replicate(initial_state(self.spec, self.partition))
        if any(pair.standardized for pair in self.pairs):
            with compiling(self):
                statistics = feature_statistics.measured(self)
            self.partition = self.partition.with_values(statistics)
            self.state = self.mesh.replicate(initial_state(self.spec, self.partition))
        self.about = provenance.about_run(self)
        self._ready = True

    def restore(self, state: TrainState, progress: Progress) -> None:
        """Continues from a checkpoint.

        Args:
          state: The state, shaped as in the phase `progress.phase` (`phases.in_phase`).
          progress: The position of the run.
        """
        self.enter_phase(progress.phase)
        self.state, self.progress = state, progress

    def enter_phase(self, phase: int) -> None:
        """Unfreezes the encoder's deepest stages.

        Args:
          phase: Number of unfrozen stages, at least the present one.
        """
        if phase == self.progress.phase:
            return
        self.console.print(
            f"trained from here on: {phase} of the encoder's stages; the step is compiled anew"
        )
        self.partition, self.state = phases.in_phase(self, phase)
        self.progress.phase = phase
        self._compile_steps()

    def _compile_steps(self) -> None:
        """Makes the steps, and the frozen variables on the devices, for the present partition."""
        self.spec = step_spec(
            self.settings, self.model, self.partition.graphdef, self.losses, self.steps_per_epoch
        )
        self.train_step = jit_train_step(self.spec, self.mesh)
        self.eval_step = jit_eval_step(self.spec, self.mesh)
        self.frozen = self.mesh.replicate(self.partition.frozen)

    def _set_epochs(self, epochs: int) -> None:
        self.settings = assembly.with_keywords(self.settings, self.run, {"epochs": epochs})
        self._ready = False
