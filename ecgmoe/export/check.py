"""Whether an exported file gives what the model gives, record by record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ecgmoe.ecg.quality_policy import QualityPolicy
from ecgmoe.ecg.read import UsableRecord, read_usable
from ecgmoe.ecg.reader_options import ReaderOptions
from ecgmoe.ecg.record import RecordFault
from ecgmoe.ecg.simulate import SimulationConfig, simulate
from ecgmoe.export.graph import INPUT, ExportError, read_pt2
from ecgmoe.filesystem import temporary_folder
from ecgmoe.inference.predictor import Predictor
from ecgmoe.inference.record_list import list_source
from ecgmoe.inference.record_table import batch_of

TOLERANCE = 1e-4
"""Largest difference of a probability, and of a number in standard deviations of the task in training."""

RECORDS = 100
"""Most records that are compared."""

BATCHES = (1, 8, 3)
"""Records of one call, in turns: a graph must take any number of them."""

Values = Mapping[str, npt.NDArray[np.generic]]
Runner = Callable[[npt.NDArray[np.int16]], Values]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What came out.

    Attributes:
        source: what the records are.
        records: that were compared.
        largest: difference by task, in the units of `TOLERANCE`.
    """

    source: str
    records: int
    largest: dict[str, float]


def onnx_runner(file: Path, threads: int = 0) -> Runner:
    """A file through onnxruntime on the CPU, on so many threads; 0 leaves it to onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(signal: npt.NDArray[np.int16]) -> Values:
        return dict(zip(names, session.run(names, {INPUT: signal}), strict=True))

    return run


def program_runner(file: Path) -> Runner:
    """A file of `torch.export` on the CPU."""
    program = read_pt2(file)

    def run(signal: npt.NDArray[np.int16]) -> Values:
        with torch.inference_mode():
            return {name: value.numpy() for name, value in program(torch.from_numpy(signal)).items()}

    return run


@contextmanager
def records_of(source: str | None) -> Iterator[tuple[str, list[tuple[str, UsableRecord]]]]:
    """What to compare on: a name of the source, and records that the default quality policy lets through.

    Args:
        source: as `list_source` takes it, of which up to `RECORDS` are taken, evenly; None simulates some.

    Raises:
        DatasetError: there is no record.
        ExportError: none can be used.
    """
    if source is not None:
        yield source, _usable(source)
        return
    with temporary_folder() as folder:
        simulate(folder / "simulated", SimulationConfig(patients=8, studies=24, hosp=False, damaged=False))
        yield "simulated", _usable(str(folder / "simulated"))


def _usable(source: str) -> list[tuple[str, UsableRecord]]:
    listed = list_source(source).records
    chosen = np.unique(np.linspace(0, len(listed) - 1, RECORDS).round().astype(int))
    found, fault = [], ""
    for row in listed.take(chosen).to_pylist():
        try:
            found.append((row["path"], read_usable(row["record"], ReaderOptions(), QualityPolicy())))
        except RecordFault as error:
            fault = f"{row['path']}: {error}"
    if not found:
        raise ExportError(f"no record of {source} can be used to check the export on ({fault}): name other --records")
    return found


def compare(run: Runner, predictor: Predictor, source: str, records: Sequence[tuple[str, UsableRecord]]) -> Compared:
    """Run a file on records and compare it with the model, which gets the R peaks of `ecgmoe/ecg/beats.py`.

    Args:
        run: the file.
        predictor: the model.
        source: name of where the records come from.
        records: path and record.

    Raises:
        ExportError: a prediction differs by more than `TOLERANCE`, or is not finite; the message names the record.
    """
    largest = {task.name: 0.0 for task in predictor.tasks}
    start = turn = 0
    while start < len(records):
        some = records[start : start + BATCHES[turn % len(BATCHES)]]
        want = predictor(batch_of([record for _, record in some]))
        got = run(np.stack([record.signal for _, record in some]))
        for task in predictor.tasks:
            scale = predictor.model.target_std[task.name] if task.kind == "regression" else 1.0
            difference = np.abs(np.asarray(got[task.name], np.float64) - want[task.name]).reshape(len(some), -1).max(1)
            difference /= scale
            worst = int(np.where(np.isnan(difference), np.inf, difference).argmax())
            if not difference[worst] <= TOLERANCE:
                raise ExportError(
                    f"the exported file predicts {task.name} of {some[worst][0]} otherwise than the model: the difference "
                    f"is {difference[worst]:.2g}, at most {TOLERANCE:g} is taken; nothing was written"
                )
            largest[task.name] = max(largest[task.name], float(difference[worst]))
        start, turn = start + len(some), turn + 1
    return Compared(source=source, records=len(records), largest=largest)
