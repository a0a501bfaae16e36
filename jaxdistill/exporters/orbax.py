"""Export as an Orbax checkpoint: the student's variables by dotted path, without projectors.

`load` reads the folder back. It holds all weights and the architecture, so neither the run nor a
weights file is needed:

    student = orbax.load(folder)
    masks = student(images, train=False).logits > 0   # images in [0, 1], (B, H, W, 3)
"""

from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
from flax import nnx

from jaxdistill import config, models
from jaxdistill.exporters.registry import EXPORTERS, Options, Report, Source, check_variables_only
from jaxdistill.models.parameters import flat_variables, merge
from jaxdistill.models.student import Student
from jaxdistill.runtime.errors import OutputError, RunError, first_line


@EXPORTERS.register(".orbax")
def export(source: Source, output: Path, options: Options) -> Report:
    """Writes the folder, completely or not at all.

    Args:
      source: The student to export.
      output: The folder, which does not exist yet.
      options: None is used. Those that describe a graph must have their defaults.

    Returns:
      The folder; nothing is measured.

    Raises:
      ConfigError: An option is for graphs (`invalid-argument`).
      OutputError: The folder exists (`output-exists`), or cannot be written (`output-unwritable`).
    """
    check_variables_only(output, options)
    student = source.student
    normalization = config.MeanStd(**student.normalization._asdict())
    # The folder holds all weights, so the files that they came from are not needed any more.
    settings = student.settings.model_copy(
        update={"weights": None, "encoder_weights": None, "normalization": normalization}
    )
    variables = {name: np.asarray(value) for name, value in flat_variables(student).items()}
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(
                output.absolute(),
                variables,
                custom_metadata={"student": settings.model_dump(mode="json")},
            )
    except (OSError, ValueError) as error:
        raise OutputError(
            f"cannot write {output}: {first_line(error)}", code="output-unwritable"
        ) from None
    if options.console:
        options.console.print(f"{output}: the student's variables, without projectors")
    return Report((output,), {})


def load(folder: str | Path) -> Student:
    """Reads a student from a folder that `export` wrote.

    Args:
      folder: The folder.

    Returns:
      The student.

    Raises:
      RunError: The folder cannot be read (`orbax-unreadable`).
    """
    path = Path(folder).absolute()
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            variables = checkpointer.restore(path)
            metadata = checkpointer.metadata(path).custom_metadata
        settings = config.Student(**metadata["student"])
        student = models.build(settings)
        return merge(nnx.graphdef(student), {**flat_variables(student), **variables})
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise RunError(
            f"{folder}: not an exported student ({first_line(error)})", code="orbax-unreadable"
        ) from None
