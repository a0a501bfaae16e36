"""The student as a params-only Orbax checkpoint: variables by dotted path, without projectors.

Five lines read it back, and need no run, no weights file and no configuration:

    checkpointer = orbax.checkpoint.StandardCheckpointer()
    variables = checkpointer.restore(folder)  # an absolute path
    settings = checkpointer.metadata(folder).custom_metadata["student"]
    blank = student.build(config.Student(**settings))
    network = student.assemble(nnx.graphdef(blank), variables)

The names are `orbax.checkpoint`, `flax.nnx`, `jaxdistill.config` and `jaxdistill.models.student`;
then `network(images, train=False).logits` is the mask of pictures in [0, 1], (B, H, W, 3).
"""

from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp

from jaxdistill import config
from jaxdistill.models.student import Student, flat_variables
from jaxdistill.runtime.errors import UserError, first_line


def save(folder: Path, settings: config.Student, student: Student) -> None:
    """Writes the folder whole or not at all.

    Raises:
      UserError: the folder is there already, or cannot be written.
    """
    normalization = config.MeanStd(**student.normalization._asdict())
    # Everything is in the variables: who reads them needs no weights file.
    own = settings.model_copy(
        update={"weights": None, "encoder_weights": None, "normalization": normalization}
    )
    variables = {name: np.asarray(value) for name, value in flat_variables(student).items()}
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(
                folder.absolute(),
                variables,
                custom_metadata={"student": own.model_dump(mode="json")},
            )
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot write {folder}: {first_line(error)}; choose another name"
        ) from None
