"""Takes a run's best student home: `python -m jaxdistill.export RUN OUTPUT.onnx [options]`.

The ONNX file is written only after onnxruntime has given the same masks with it as the student
itself; a model card stands beside it as OUTPUT.json. A name that ends in `.orbax` gets a
params-only Orbax checkpoint instead.
"""

import argparse
import contextlib
import hashlib
import json
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import onnx
from rich.console import Console
from rich.table import Table

from jaxdistill import config
from jaxdistill.checkpoint import manager
from jaxdistill.checkpoint.manager import Best
from jaxdistill.config import Size
from jaxdistill.data.splits import open_split
from jaxdistill.exporters import orbax, verify
from jaxdistill.exporters.model_card import card, stamp
from jaxdistill.exporters.onnx_graph import Form, Input, student_graph
from jaxdistill.exporters.quantize import CALIBRATION_PICTURES, to_int8
from jaxdistill.exporters.verify import Cost, Row, Sample
from jaxdistill.runtime.errors import UserError, command
from jaxdistill.runtime.files import write_atomic
from jaxdistill.teachers.onnx_graph import OnnxGraph

Precision = Literal["float32", "float16", "int8"]

LARGEST_DIFFERENCE = {"float32": 1e-4, "float16": 5e-2}
"""Between the graph's output and the student's, as a share of the largest output. Eight bits have
none: what counts there is what becomes of the masks."""
LARGEST_LOSS = 0.02
"""Of mean IoU from float32 to int8."""
LARGEST_CHANGE = 0.02
"""Share of the pixels that int8 may give to the other side, where there are no masks to measure."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m jaxdistill.export", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run")
    parser.add_argument(
        "output", type=Path, metavar="OUTPUT", help="the file NAME.onnx, or the folder NAME.orbax"
    )
    parser.add_argument(
        "--input",
        choices=get_args(Input),
        default="normalized",
        help="what the graph eats, always RGB: normalized: float32 (N, 3, H, W), mean and std "
        "applied by the caller (the default); unit: float32 (N, 3, H, W) in [0, 1]; uint8: "
        "(N, H, W, 3), as pictures are decoded",
    )
    parser.add_argument(
        "--sigmoid", action="store_true", help="give probabilities, `mask`, in place of `logits`"
    )
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("H", "W"), help="fix height and width; else both free"
    )
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=get_args(Precision),
        default=["float32"],
        help="of weights and arithmetic; several write NAME.PRECISION.onnx each",
    )
    parser.add_argument(
        "--pictures",
        type=int,
        default=100,
        metavar="N",
        help="how many of the run's validation pictures to measure on (default: 100)",
    )
    given = parser.parse_args(arguments)
    _check(given)
    best = manager.best(given.run)
    if given.output.suffix == ".orbax":
        orbax.save(given.output, best.settings.student, best.student)
        print(f"{given.output}: the student's variables, without projectors")
        return
    form = Form(given.input, given.sigmoid, tuple(given.size) if given.size else None)
    export(best, form, _outputs(given.output, given.precision), given.pictures)


def export(best: Best, form: Form, outputs: Mapping[Precision, Path], pictures: int) -> None:
    """Builds a graph per precision, compares and measures them, and writes them with their cards.

    Raises:
      UserError: a graph strays further from the student than its precision may; then nothing is
        written.
    """
    console = Console(soft_wrap=True, highlight=False)
    size = form.size or best.settings.data.image_size
    sample = _validation_sample(best, outputs, pictures, size, console)
    graphs = _graphs(best, form, outputs, size)
    about = card(graphs["float32"], form, best, _fingerprints(best))
    for graph in graphs.values():
        stamp(graph, about)
    rows, teacher = verify.compare(best.student, form, graphs, sample, _teacher(best, console))
    console.print(_table(rows, teacher, sample))
    for precision in outputs:
        _accept(precision, rows[precision], rows["float32"])
    for precision, path in outputs.items():
        measured = {
            "pictures": len(sample.images),
            "size": size,
            **rows[precision]._asdict(),
            "teacher": teacher and teacher._asdict(),
        }
        _write(path, precision, graphs[precision], {**about, "measured": measured})
        console.print(f"{path}, and its card {path.with_suffix('.json').name}")


def _graphs(
    best: Best, form: Form, wanted: Collection[Precision], size: Size
) -> dict[str, onnx.ModelProto]:
    """Those wanted, and the float32 one, against which the others are judged."""
    graphs = {"float32": student_graph(best.student, form)}
    if "float16" in wanted:
        graphs["float16"] = student_graph(best.student, form, "float16")
    if "int8" in wanted:
        examples = open_split(best.settings.data, "train")
        seen = verify.sample(examples, CALIBRATION_PICTURES, size)
        fed = verify.feed(seen.images, form, best.student.normalization)
        graphs["int8"] = to_int8(graphs["float32"], fed)
    return graphs


def _teacher(best: Best, console: Console) -> config.Teacher | None:
    """The run's teacher, if its file is still there."""
    teacher = best.settings.teacher
    if teacher is None or teacher.onnx.is_file():
        return teacher
    console.print(f"the teacher is not measured: {teacher.onnx} is not there")
    return None


def _check(given: argparse.Namespace) -> None:
    """What can be known to fail before the work begins."""
    if given.output.suffix not in (".onnx", ".orbax"):
        raise UserError(f"{given.output}: expected a name that ends in .onnx or .orbax")
    if given.output.is_dir() or (given.output.suffix == ".orbax" and given.output.exists()):
        raise UserError(f"{given.output} exists already; choose another name")
    if given.size and any(side <= 0 or side % 32 for side in given.size):
        height, width = given.size
        raise UserError(f"--size {height} {width}: expected multiples of 32, such as 640 640")
    if given.pictures < 1:
        raise UserError(f"--pictures {given.pictures}: expected at least one")
    folder = given.output.parent
    if not folder.is_dir():
        raise UserError(f"{folder.absolute()} is not a folder; create it, or choose another output")
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"cannot write into {folder.absolute()}: {error.strerror}") from None


def _outputs(output: Path, precisions: Sequence[Precision]) -> dict[Precision, Path]:
    if len(precisions) == 1:
        return {precisions[0]: output}
    return {precision: output.with_suffix(f".{precision}.onnx") for precision in precisions}


def _validation_sample(
    best: Best, outputs: Collection[Precision], count: int, size: Size, console: Console
) -> Sample:
    try:
        return verify.sample(open_split(best.settings.data, "validation"), count, size)
    except UserError as error:
        if "int8" in outputs:  # which is calibrated and judged on pictures
            raise
        console.print(f"compared on noise, for there are no pictures: {error}")
        return verify.noise(verify.COMPARED, size)


def _accept(precision: Precision, row: Row, reference: Row) -> None:
    """Holds a graph against the student, and what eight bits are worth against float32."""
    if precision != "int8":
        what, value, limit = "difference", row.difference, LARGEST_DIFFERENCE[precision]
    elif row.mean_iou is None or reference.mean_iou is None:
        what, value, limit = "share of pixels changed", row.changed, LARGEST_CHANGE
    else:
        what, value, limit = "mean IoU lost", reference.mean_iou - row.mean_iou, LARGEST_LOSS
    if not value <= limit:  # NaN is refused too
        raise UserError(
            f"the {precision} graph does not do what the student does, and was not written: "
            f"{what} {value:.2g}, allowed {limit:.2g}"
        )


def _fingerprints(best: Best) -> dict[str, str | None]:
    """Of what the student learnt from; None for what is no longer there."""
    found: dict[str, str | None] = {"training_data": None, "teacher": None}
    with contextlib.suppress(UserError):
        found["training_data"] = open_split(best.settings.data, "train").fingerprint
    if best.settings.teacher:
        with contextlib.suppress(UserError):
            found["teacher"] = OnnxGraph(best.settings.teacher.onnx).fingerprint
    return found


def _table(rows: Mapping[str, Row], teacher: Cost | None, sample: Sample) -> Table:
    count, height, width, _ = sample.images.shape
    table = Table(title=f"{count} pictures of {height} x {width}; batch 1, on the CPU")
    for heading in ("", "MB", "ms", "faster", "error", "changed", "mIoU"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    table.caption = (
        "error: the largest difference to the student's output, as a share of the largest output; "
        "changed: pixels that become or cease to be a person"
    )
    if teacher:
        table.caption += "; the teacher's picture is {} x {}".format(*teacher.size)
        table.add_row("teacher", f"{teacher.bytes / 1e6:.1f}", f"{teacher.seconds * 1e3:.1f}")
    for name, row in rows.items():
        table.add_row(
            name,
            f"{row.bytes / 1e6:.1f}",
            f"{row.seconds * 1e3:.1f}",
            f"{teacher.seconds / row.seconds:.2f} x" if teacher else "",
            f"{row.difference:.1e}",
            f"{row.changed:.2%}",
            "" if row.mean_iou is None else f"{row.mean_iou:.4f}",
        )
    return table


def _write(path: Path, precision: Precision, graph: onnx.ModelProto, about: dict[str, Any]) -> None:
    content = graph.SerializeToString()
    file = {
        "name": path.name,
        "precision": precision,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    _write_whole(path, content)
    _write_whole(path.with_suffix(".json"), json.dumps({"file": file, **about}, indent=2).encode())


def _write_whole(path: Path, content: bytes) -> None:
    try:
        write_atomic(path, content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None


if __name__ == "__main__":
    sys.exit(command(main))
