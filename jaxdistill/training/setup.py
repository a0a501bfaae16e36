"""What stays the same during a run: data, frozen networks, student, and the steps made for them."""

from collections.abc import Generator
from contextlib import closing
from itertools import islice
from typing import NamedTuple

import jax
from rich.console import Console

from jaxdistill import config
from jaxdistill.data import augment, loader, splits
from jaxdistill.data.dataset import Dataset
from jaxdistill.models import unfreezing
from jaxdistill.models.feature_pairs import Pair, describe_sizes, pair_up
from jaxdistill.models.student import Split, build, merge, param_group
from jaxdistill.runtime import distributed, memory, xla
from jaxdistill.runtime.prefetch import ahead
from jaxdistill.runtime.sharding import Mesh
from jaxdistill.teachers import base, combined
from jaxdistill.training import feature_statistics
from jaxdistill.training import step as step_lib
from jaxdistill.training.gradient_reach import explain, reach
from jaxdistill.training.input_pipeline import Source, source
from jaxdistill.training.step import TrainBatch
from jaxdistill.types import TrainState, Variables


class Job(NamedTuple):
    """Everything a run works with."""

    settings: config.Config
    mesh: Mesh
    pairs: list[Pair]
    split: Split
    frozen: Variables
    """Those of the split, on every device."""
    networks: base.Teacher | None
    dataset: Dataset
    validation_dataset: Dataset
    steps: int
    train_step: step_lib.TrainStep
    eval_step: step_lib.EvalStep
    phase: int
    """How many stages of the encoder have joined the training."""
    training_source: Source
    validation_source: Source

    def start(self) -> TrainState:
        """The state before the first step."""
        return self.mesh.replicate(step_lib.start(self.settings, self.split))

    def training(self, first_step: int) -> Generator[TrainBatch]:
        """Endless batches with their targets, made ahead of the steps, or in turn on a CPU.

        Of each batch these are the rows of this process; so are those of `validation`.
        """
        settings = self.settings
        read = loader.train_batches(
            self.dataset,
            settings.data,
            settings.training.batch_size,
            settings.seed,
            first_step,
            jax.process_index(),
            jax.process_count(),
        )
        return ahead(self.training_source.feed(read, first_step), _depth())

    def settle(self, scalars: step_lib.Scalars) -> None:
        """Waits for a step where the next batch is made in its turn; memory is for the next one."""
        if _depth() == 0:
            jax.block_until_ready(scalars)
            memory.keep_freed()

    def validation(self) -> Generator[TrainBatch]:
        """Once over the validation split."""
        settings = self.settings
        read = loader.validation_batches(
            self.validation_dataset,
            settings.data,
            settings.training.batch_size,
            jax.process_index(),
            jax.process_count(),
        )
        return ahead(self.validation_source.feed(read), _depth())

    def store_counts(self) -> dict[str, dict[str, int]]:
        """Under `store`, entries of both splits: read, computed, damaged; empty without a store."""
        splits = [self.training_source.stored, self.validation_source.stored]
        counts = [stored.counts for stored in splits if stored]
        if not counts:
            return {}
        own = [[sum(each[kind] for each in counts) for kind in counts[0]]]
        together = distributed.all_gather(own).sum(0).tolist()
        return {"store": dict(zip(counts[0], together, strict=True))}


def prepare(settings: config.Config, console: Console, threads: int | None = None) -> Job:
    """Opens data and networks, builds the student, checks that they fit, and says what it found.

    `threads` bounds onnxruntime's on the CPU; it would else take every core, whatever the process
    is bound to.
    """
    xla.set_up()
    mesh = Mesh(settings.mesh.data)
    mesh.check(settings.training.batch_size, settings.training.accumulate)
    with distributed.main_process_first("data"):
        dataset = splits.open_split(settings.data, "train")
        validation = splits.open_split(settings.data, "validation")
    console.print(
        f"data: {len(dataset)} pictures to learn from{_without_masks(dataset)}, "
        f"{len(validation)} to measure on{_without_masks(validation)}"
    )
    for line in splits.warn_of_overlap(settings.data):
        console.print(line)
    idle = [name for name in ("bce", "dice") if getattr(settings.losses, name) > 0]
    if idle and not settings.data.train.labelled:
        console.print(f"without masks to learn from, {' and '.join(idle)} teach nothing")
    networks = combined.from_config(settings, threads)
    for line in base.describe_teacher(networks):
        console.print(line)
    if settings.teacher and not settings.asks_teacher:
        console.print("the teacher teaches nothing: it is there to be measured against")
    size = settings.data.image_size
    balanced = settings.losses.feature_weights == "learned" and settings.losses.feature > 0
    shapes = base.feature_shapes(networks, size)
    pairs = pair_up(settings.taught_features, shapes, size, balanced=balanced)
    for line in describe_sizes(pairs, size):
        console.print(line)
    student = build(settings.student, pairs, seed=settings.seed, dtype=settings.precision)
    split = unfreezing.freeze(student, settings.student, phase=0)
    console.print(f"student: {settings.student.encoder} on {mesh.describe()}")
    natural = loader.steps_per_epoch(dataset, settings.training.batch_size)
    steps = min(natural, settings.training.steps_per_epoch or natural)
    changes = augment.Augmentation(settings.data.augment, settings.data.crop)
    asked = base.restrict(networks, logits=settings.asks_teacher)
    training_source = source(settings, asked, split, dataset, changes)
    if any(pair.standardized for pair in pairs):
        measured = distributed.broadcast(_standards(training_source, dataset))
        for line in feature_statistics.describe(measured):
            console.print(line)
        split = split.with_values(measured)
    return Job(
        settings,
        mesh,
        pairs,
        split,
        mesh.replicate(split.frozen),
        networks,
        dataset,
        validation,
        steps,
        step_lib.make_train_step(settings, split.graph, steps, mesh),
        step_lib.make_eval_step(settings, split.graph, mesh),
        0,
        training_source,
        source(settings, networks, split, validation, augment.NO_AUGMENTATION),
    )


def in_phase(job: Job, state: TrainState, phase: int) -> tuple[Job, TrainState]:
    """Job and state, trained as in that phase of `unfreezing`, which is theirs or a later one."""
    if phase == job.phase:
        return job, state
    variables = {**job.split.frozen, **state.params, **state.batch_stats}
    student = merge(job.split.graph, variables)
    split = unfreezing.freeze(student, job.settings.student, phase)
    there = job._replace(
        phase=phase,
        split=split,
        frozen=job.mesh.replicate(split.frozen),
        train_step=step_lib.make_train_step(job.settings, split.graph, job.steps, job.mesh),
        eval_step=step_lib.make_eval_step(job.settings, split.graph, job.mesh),
    )
    return there, job.mesh.replicate(step_lib.carry(state, job.settings, split))


def teaching(job: Job) -> list[str]:
    """What each loss teaches, in words."""
    settings = job.settings
    last = unfreezing.phase(settings.student, settings.training.epochs - 1)
    final, _ = in_phase(job, step_lib.start(settings, job.split), last)
    now = reach(settings, job.split, job.pairs)
    later = reach(settings, final.split, job.pairs) if last else now
    return explain(now, later, {param_group(path) for path in final.split.params})


def _standards(training: Source, dataset: Dataset) -> Variables:
    """Of the targets of the first pictures in the training's order, as the data set has them.

    A resumed run measures them too, for a few seconds, and then goes on with those of its
    checkpoint.
    """
    settings = training.settings
    size, shares = settings.training.batch_size, jax.process_count()
    count = min(len(dataset) // size, -(-feature_statistics.PICTURES // size)) * shares
    # The same pictures in each process, but no more at once than in a step of training.
    read = loader.train_batches(dataset, settings.data, size // shares, settings.seed)
    with closing(read):
        fed = islice(training._replace(augmentation=augment.NO_AUGMENTATION).feed(read), count)
        return feature_statistics.measure(
            settings.taught_features, (targets.features for _, targets in fed)
        )


def _without_masks(dataset: Dataset) -> str:
    count = int((~dataset.labelled).sum())
    return f" ({count} without masks)" if count else ""


def _depth() -> int:
    """How many batches are made ahead. On a CPU none: targets and step share its cores, so little
    is won by making both at once, and each would hold its memory while the other runs."""
    return 0 if jax.default_backend() == "cpu" else 2
