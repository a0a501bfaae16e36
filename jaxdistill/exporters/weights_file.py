r"""Export as a weights file, from which another training can start.

A student that was trained on many images is the start of one for a camera of one's own:

    jaxdistill export runs/small small.safetensors
    jaxdistill train --config small data.root=PATH/TO/COCO run=runs/camera \
        student.weights=small.safetensors student.encoder_weights=null

The file holds the architecture, the normalisation and the size of the images, too.
"""

import shlex
from pathlib import Path

from jaxdistill.exporters.registry import EXPORTERS, Options, Report, Source, check_variables_only
from jaxdistill.models.student import save_weights
from jaxdistill.runtime.errors import unwritable
from jaxdistill.runtime.text import printable


@EXPORTERS.register(".safetensors")
def export(source: Source, output: Path, options: Options) -> Report:
    """Writes the file, completely or not at all.

    Args:
      source: The student to export.
      output: The file, which does not exist yet.
      options: None is used. Those that describe a graph must have their defaults.

    Returns:
      The file; nothing is measured.

    Raises:
      ConfigError: An option is for graphs (`invalid-argument`).
      OutputError: The file exists (`output-exists`), or cannot be written (`output-unwritable`).
    """
    check_variables_only(output, options)
    image_size = source.best.settings.data.image_size if source.best else source.image_size
    run = str(source.best.settings.run) if source.best else None
    try:
        save_weights(source.student, output, image_size=image_size, source=run)
    except OSError as error:
        raise unwritable(output, error) from None
    if options.console:
        keys = f"{shlex.quote(f'student.weights={output}')} student.encoder_weights=null"
        options.console.print(printable(f"{output}: the student's variables; train from them with"))
        options.console.print(printable(keys), soft_wrap=True)
    return Report((output,), {})
