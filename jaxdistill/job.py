"""What stays the same during a run: data, frozen networks, student, and the steps made for them."""

from collections.abc import Generator
from contextlib import closing
from itertools import islice
from typing import NamedTuple

import jax
from rich.console import Console

from jaxdistill import config, processes, standards, unfreezing, update
from jaxdistill.data import augment, batches
from jaxdistill.data.batches import Examples
from jaxdistill.feed import Source, source
from jaxdistill.mesh import Mesh
from jaxdistill.models.pairs import Pair, describe_sizes, pair_up
from jaxdistill.models.student import Split, Variables, assemble, build, group_of
from jaxdistill.ops import compiling, memory
from jaxdistill.reach import explain, reach
from jaxdistill.targets.ahead import ahead
from jaxdistill.targets.frozen import FrozenNetworks
from jaxdistill.update import Fed


class Job(NamedTuple):
    """Everything a run works with."""

    settings: config.Config
    mesh: Mesh
    pairs: list[Pair]
    split: Split
    frozen: Variables
    """Those of the split, on every device."""
    networks: FrozenNetworks
    examples: Examples
    validation_examples: Examples
    steps: int
    train_step: update.TrainStep
    eval_step: update.EvalStep
    phase: int
    """How many stages of the encoder have joined the training."""
    training_source: Source
    validation_source: Source

    def start(self) -> update.TrainState:
        """The state before the first step."""
        return self.mesh.replicate(update.start(self.settings, self.split))

    def training(self, first_step: int) -> Generator[Fed]:
        """Endless batches with their targets, made ahead of the steps, or in turn on a CPU.

        Of each batch these are the rows of this process; so are those of `validation`.
        """
        settings = self.settings
        read = batches.train_batches(
            self.examples,
            settings.data,
            settings.training.batch_size,
            settings.seed,
            first_step,
            jax.process_index(),
            jax.process_count(),
        )
        return ahead(self.training_source.feed(read, first_step), _depth())

    def settle(self, scalars: update.Scalars) -> None:
        """Waits for a step where the next batch is made in its turn; memory is for the next one."""
        if _depth() == 0:
            jax.block_until_ready(scalars)
            memory.keep_freed()

    def validation(self) -> Generator[Fed]:
        """Once over the validation split."""
        settings = self.settings
        read = batches.validation_batches(
            self.validation_examples,
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
        together = processes.gather(own).sum(0).tolist()
        return {"store": dict(zip(counts[0], together, strict=True))}


def prepare(settings: config.Config, console: Console, threads: int | None = None) -> Job:
    """Opens data and networks, builds the student, checks that they fit, and says what it found.

    `threads` bounds onnxruntime's on the CPU; it would else take every core, whatever the process
    is bound to.
    """
    compiling.set_up()
    mesh = Mesh(settings.mesh.data)
    mesh.check(settings.training.batch_size, settings.training.accumulate)
    with processes.leader_first("data"):
        examples = batches.open_split(settings.data, "train")
        validation = batches.open_split(settings.data, "validation")
    console.print(
        f"data: {len(examples)} pictures to learn from{_without_masks(examples)}, "
        f"{len(validation)} to measure on{_without_masks(validation)}"
    )
    for line in batches.warn_of_overlap(settings.data):
        console.print(line)
    idle = [name for name in ("bce", "dice") if getattr(settings.losses, name) > 0]
    if idle and not settings.data.train.labelled:
        console.print(f"without masks to learn from, {' and '.join(idle)} teach nothing")
    networks = FrozenNetworks(settings, threads)
    for line in networks.describe():
        console.print(line)
    if settings.teacher and not settings.asks_teacher:
        console.print("the teacher teaches nothing: it is there to be measured against")
    size = settings.data.image_size
    balanced = settings.losses.feature_weights == "learned" and settings.losses.feature > 0
    pairs = pair_up(settings.taught_features, networks.feature_shapes, size, balanced=balanced)
    for line in describe_sizes(pairs, size):
        console.print(line)
    student = build(settings.student, pairs, seed=settings.seed, dtype=settings.precision)
    split = unfreezing.freeze(student, settings.student, phase=0)
    console.print(f"student: {settings.student.encoder} on {mesh.describe()}")
    natural = batches.steps_per_epoch(examples, settings.training.batch_size)
    steps = min(natural, settings.training.steps_per_epoch or natural)
    changes = augment.Augmentation(settings.data.augment, settings.data.crop)
    asked = networks if settings.asks_teacher else networks.only("detector")
    training_source = source(settings, asked, split, examples, changes)
    if any(pair.standardized for pair in pairs):
        measured = processes.of_leader(_standards(training_source, examples))
        for line in standards.describe(measured):
            console.print(line)
        split = split.with_values(measured)
    return Job(
        settings,
        mesh,
        pairs,
        split,
        mesh.replicate(split.frozen),
        networks,
        examples,
        validation,
        steps,
        update.make_train_step(settings, split.graph, steps, mesh),
        update.make_eval_step(settings, split.graph, mesh),
        0,
        training_source,
        source(settings, networks, split, validation, augment.STILL),
    )


def in_phase(job: Job, state: update.TrainState, phase: int) -> tuple[Job, update.TrainState]:
    """Job and state, trained as in that phase of `unfreezing`, which is theirs or a later one."""
    if phase == job.phase:
        return job, state
    variables = {**job.split.frozen, **state.parameters, **state.statistics}
    student = assemble(job.split.graph, variables)
    split = unfreezing.freeze(student, job.settings.student, phase)
    there = job._replace(
        phase=phase,
        split=split,
        frozen=job.mesh.replicate(split.frozen),
        train_step=update.make_train_step(job.settings, split.graph, job.steps, job.mesh),
        eval_step=update.make_eval_step(job.settings, split.graph, job.mesh),
    )
    return there, job.mesh.replicate(update.carry(state, job.settings, split))


def teaching(job: Job) -> list[str]:
    """What each loss teaches, in words."""
    settings = job.settings
    last = unfreezing.phase(settings.student, settings.training.epochs - 1)
    final, _ = in_phase(job, update.start(settings, job.split), last)
    now = reach(settings, job.split, job.pairs)
    later = reach(settings, final.split, job.pairs) if last else now
    return explain(now, later, {group_of(path) for path in final.split.parameters})


def _standards(training: Source, examples: Examples) -> Variables:
    """Of the targets of the first pictures in the training's order, as the data set has them.

    A resumed run measures them too, for a few seconds, and then goes on with those of its
    checkpoint.
    """
    settings = training.settings
    size, shares = settings.training.batch_size, jax.process_count()
    count = min(len(examples) // size, -(-standards.PICTURES // size)) * shares
    # The same pictures in each process, but no more at once than in a step of training.
    read = batches.train_batches(examples, settings.data, size // shares, settings.seed)
    with closing(read):
        fed = islice(training._replace(augmentation=augment.STILL).feed(read), count)
        return standards.measure(settings.taught_features, (targets.features for _, targets in fed))


def _without_masks(examples: Examples) -> str:
    count = int((~examples.labelled).sum())
    return f" ({count} without masks)" if count else ""


def _depth() -> int:
    """How many batches are made ahead. On a CPU none: targets and step share its cores, so little
    is won by making both at once, and each would hold its memory while the other runs."""
    return 0 if jax.default_backend() == "cpu" else 2
