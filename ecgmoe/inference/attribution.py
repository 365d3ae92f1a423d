"""Which leads and moments a prediction rests on: integrated gradients (Sundararajan, Taly and Yan, ICML 2017), by captum.

The gradient of the output is summed along the straight way from a baseline to the ECG, so that the parts add up to what
the output changes by (completeness). The baseline is the same ECG without its beats: what each lead has below
`BASELINE_HZ`. A flat line would not do: several backbones standardise each lead, so that the output does not change along
the way from zero, and jumps at zero itself.

R peaks are held: those of the ECG all along the way. So nothing is said of what the detector, and with it the RR
intervals, rest on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.signal import butter, sosfiltfilt
from torch import Tensor

from ecgmoe.ecg.read import UsableRecord
from ecgmoe.ecg.record import LEADS, MISSING, SAMPLING_RATE_HZ, Signal
from ecgmoe.inference.predictor import Predictor
from ecgmoe.inference.record_table import batch_of
from ecgmoe.model.batch import ECGBatch
from ecgmoe.tasks import Task

Floats = npt.NDArray[np.floating]
Function = Callable[[Tensor], Tensor]

BASELINE_HZ = 0.5
"""Of 30 beats a minute: below it a lead has its wander, and no beats."""
STEPS = 128
"""Gradients along the way; docs/EXPLAIN.md has how the error falls with them."""
AT_ONCE = 16
"""Of them in memory."""
LARGE_ERROR = 0.1
"""Share of the change from which on an explanation warns of its error."""
LOG_ODDS = "log-odds"


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """What each sample of a record adds to one output of a model, beside the same record without its beats.

    Attributes:
        task: its name.
        class_name: of which the output is the log-odds, ln p / (1 - p) of its calibrated probability; None for a number.
        unit: of the output: ms, years or log-odds.
        output: for the record.
        baseline_output: for the record without its beats.
        samples: (12, 5000), in `unit`; 0 where the record has no sample.
        steps: gradients that were summed.
    """

    task: str
    class_name: str | None
    unit: str
    output: float
    baseline_output: float
    samples: npt.NDArray[np.float32]
    steps: int

    @property
    def change(self) -> float:
        """What the parts should add up to: the output beside that of the baseline."""
        return self.output - self.baseline_output

    @property
    def error(self) -> float:
        """By how much they add up to more, in `unit`: steps that were too few, and jumps of the output."""
        return float(self.samples.sum(dtype=np.float64)) - self.change

    @property
    def large_error(self) -> bool:
        """Whether the error is too large beside the change to read the parts as parts of it."""
        return abs(self.error) > LARGE_ERROR * abs(self.change)

    @property
    def leads(self) -> dict[str, float]:
        """What each lead adds, in `unit`."""
        return dict(zip(LEADS, self.samples.sum(1, dtype=np.float64).tolist(), strict=True))

    def windows(self, samples: int) -> Floats:
        """What windows of so many samples add: (12, 5000 / samples), in `unit`."""
        return self.samples.reshape(len(LEADS), -1, samples).sum(-1, dtype=np.float64)


def check_captum() -> None:
    """Refuse before anything is read.

    Raises:
        ValueError: captum is not installed.
    """
    try:
        import captum.attr  # noqa: F401
    except ImportError as error:
        raise ValueError(
            "attribution to leads and moments needs captum: docker/install.sh .venv explain, or pip install "
            "'ecgmoe[explain]'; or leave it out with --steps 0 (in Python steps=0)"
        ) from error


def attribute(
    predictor: Predictor, record: UsableRecord, task: Task, *, class_name: str | None = None, steps: int = STEPS
) -> Attribution:
    """Integrated gradients of one output of a model.

    Args:
        predictor: of the model.
        record: to explain.
        task: of the model.
        class_name: whose log-odds are explained; None takes the likeliest class of a multiclass task, and the class 1 of a
            binary one.
        steps: gradients to sum.

    Raises:
        ValueError: the task has no such class.
    """
    target = class_index(task, class_name)
    batch = batch_of([record]).to(predictor.device)
    if task.kind == "multiclass" and target is None:
        target = int(predictor.output(batch).predictions[task.name].argmax())
    function = output_of(predictor, batch, task, target)
    x, baseline = (
        torch.from_numpy(each.astype(np.float32))[None].to(predictor.device)
        for each in (record.signal, without_beats(record.signal))
    )
    with torch.no_grad():
        output, baseline_output = function(torch.cat([x, baseline])).tolist()
    return Attribution(
        task=task.name,
        class_name=None if target is None else task.classes[target],
        unit=task.unit if target is None else LOG_ODDS,
        output=output,
        baseline_output=baseline_output,
        samples=integrated_gradients(function, x, baseline, steps)[0].cpu().numpy(),
        steps=steps,
    )


def integrated_gradients(function: Function, x: Tensor, baseline: Tensor, steps: int) -> Tensor:
    """By captum, along the straight way from `baseline` to `x`, each (1, 12, 5000); in the unit of the function."""
    from captum.attr import IntegratedGradients

    method = IntegratedGradients(function)
    return method.attribute(
        x, baselines=baseline, n_steps=steps, method="gausslegendre", internal_batch_size=min(steps, AT_ONCE)
    )


def class_index(task: Task, name: str | None) -> int | None:
    """The class whose log-odds are meant; None for a number, and for the likeliest class of a multiclass task.

    Raises:
        ValueError: there is none of that name.
    """
    if name is None:
        return 1 if task.kind == "binary" else None
    if not task.classes:
        raise ValueError(f"{task.name} is a number and has no class {name!r}: leave the class out")
    if name not in task.classes:
        raise ValueError(f"{task.name} has no class {name!r}: choose one of {', '.join(task.classes)}")
    return task.classes.index(name)


def output_of(predictor: Predictor, batch: ECGBatch, task: Task, target: int | None) -> Function:
    """The output to explain, as a function of signals (n, 12, 5000) in microvolt with the R peaks of a batch of one record.

    Log-odds, because they are what a probability tells: the logits of softmax may all rise together and change nothing.
    """
    model, temperature = predictor.model, predictor.calibration.temperature.get(task.name, 1.0)

    def function(signal: Tensor) -> Tensor:
        nobody = batch.study_id.expand(len(signal))
        records = ECGBatch(
            signal=signal, r_peaks=batch.r_peaks.expand(len(signal), -1), study_id=nobody, patient_id=nobody
        )
        predictions = model(records, only=(task.name,)).predictions
        if target is None:
            return model.in_units(predictions)[task.name]
        logits = predictions[task.name].float() / temperature
        if task.kind == "binary":
            return logits if target == 1 else -logits
        others = [index for index in range(len(task.classes)) if index != target]
        return logits[:, target] - logits[:, others].logsumexp(-1)

    return function


def without_beats(signal: Signal) -> Floats:
    """The baseline: what each lead has below `BASELINE_HZ`, without delay; missing samples stay missing."""
    missing = signal == MISSING
    microvolt = np.where(missing, np.nan, signal.astype(np.float64))
    level = np.zeros((len(signal), 1))
    some = ~missing.all(1)
    level[some] = np.nanmedian(microvolt[some], axis=1, keepdims=True)
    filled = np.where(missing, 0.0, microvolt - level)
    low = sosfiltfilt(butter(2, BASELINE_HZ, fs=SAMPLING_RATE_HZ, output="sos"), filled, axis=-1)
    return np.where(missing, float(MISSING), low + level)
