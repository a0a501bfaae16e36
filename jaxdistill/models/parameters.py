"""Variables by dotted path, and the rule that decides which of them are trained.

A path such as `decoder.blocks.0.conv1.conv.kernel` names a variable. Gradients, optimizer state,
BatchNorm mode and checkpoints all follow from one rule over these paths, `is_frozen`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from flax import nnx

from jaxdistill.models.layers import BatchNorm
from jaxdistill.runtime.errors import ConfigError
from jaxdistill.types import Variables

PARAM_GROUPS = ("encoder", "decoder", "head", "projectors")


def is_frozen(path: str, frozen: Iterable[str]) -> bool:
    """Returns whether a path is one of the frozen paths or lies below one.

    Args:
      path: Dotted path of a variable or a module.
      frozen: Dotted paths; each includes everything below it.
    """
    return any(path == prefix or path.startswith(prefix + ".") for prefix in frozen)


def param_group(path: str) -> str:
    """Returns the parameter group of a path: `encoder`, `decoder`, `head` or `projectors`."""
    return path.partition(".")[0]


def flat_variables(module: nnx.Module) -> Variables:
    """Returns all parameters and statistics of a module by dotted path."""
    return {dotted(path): leaf[...] for path, leaf in nnx.to_flat_state(nnx.state(module))}


def merge(graphdef: nnx.GraphDef, variables: Mapping[str, Any]) -> Any:
    """Returns a module with other variables.

    Args:
      graphdef: The module's structure, `nnx.graphdef(module)`.
      variables: All its variables by dotted path.
    """
    leaves = [(_parts(name), value) for name, value in variables.items()]
    return nnx.merge(graphdef, nnx.from_flat_state(leaves))


class Partition(NamedTuple):
    """A student split into its structure, and its variables by how training treats them."""

    graphdef: nnx.GraphDef
    """The structure, without arrays."""
    params: Variables
    """Trained parameters."""
    batch_stats: Variables
    """Running statistics that training updates."""
    frozen: Variables
    """Variables that do not change."""

    def merge(self) -> Any:
        """Returns the student."""
        return merge(self.graphdef, {**self.params, **self.batch_stats, **self.frozen})

    def with_values(self, values: Variables) -> "Partition":
        """Returns the partition with the values of some variables replaced.

        Args:
          values: New values by dotted path; other variables keep theirs.
        """
        parts = ({k: values.get(k, v) for k, v in part.items()} for part in self[1:])
        return Partition(self.graphdef, *parts)


def partition(
    student: nnx.Module, frozen: Sequence[str], fixed_batch_stats: Sequence[str] = ()
) -> Partition:
    """Splits a student by what is trained, and sets the mode of its BatchNorms accordingly.

    Args:
      student: The student. Its BatchNorms' `frozen` attributes are changed.
      frozen: Paths that are not trained.
      fixed_batch_stats: Paths whose parameters are trained, but whose BatchNorms keep their running
        statistics.

    Returns:
      The parts, in which every variable occurs once.

    Raises:
      ConfigError: A frozen path matches no parameter (`unknown-frozen-path`), or nothing is left to
        train (`nothing-to-train`).
    """
    for path, module in nnx.iter_modules(student):
        if isinstance(module, BatchNorm):
            module.frozen = is_frozen(dotted(path), [*frozen, *fixed_batch_stats])
    graphdef, state = nnx.split(student)
    parts = Partition(graphdef, {}, {}, {})
    for path, variable in nnx.to_flat_state(state):
        name = dotted(path)
        statistic = isinstance(variable, nnx.BatchStat)
        if is_frozen(name, frozen) or (statistic and is_frozen(name, fixed_batch_stats)):
            parts.frozen[name] = variable[...]
        elif statistic:
            parts.batch_stats[name] = variable[...]
        else:
            parts.params[name] = variable[...]
    for prefix in frozen:
        if not any(is_frozen(name, [prefix]) for name in parts.frozen):
            raise ConfigError(
                f"student.frozen: {prefix!r} matches no parameter; "
                f"the groups are {', '.join(PARAM_GROUPS)}",
                code="unknown-frozen-path",
            )
    if not parts.params:
        raise ConfigError(
            "student.frozen: everything is frozen, nothing is left to train; leave out a path",
            code="nothing-to-train",
        )
    return parts


def dotted(path: Iterable[object]) -> str:
    """Returns the dotted form of a path that NNX gives as a tuple."""
    return ".".join(map(str, path))


def _parts(name: str) -> tuple[str | int, ...]:
    return tuple(int(part) if part.isdigit() else part for part in name.split("."))
