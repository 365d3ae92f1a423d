"""`ecgmoe.explain`: one ECG, read as predict reads it, predicted, and what the prediction rests on. No Ray."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy.typing as npt

from ecgmoe.ecg.quality_policy import QualityPolicy
from ecgmoe.ecg.read import UsableRecord
from ecgmoe.ecg.reader_options import ReaderOptions, Unit
from ecgmoe.inference import explanation as explanations
from ecgmoe.inference.attribution import STEPS, Attribution, attribute, check_captum, class_index
from ecgmoe.inference.attribution_picture import attribution_lines
from ecgmoe.inference.explanation import Explanation
from ecgmoe.inference.explanation_picture import explained_png
from ecgmoe.inference.one_record import given_record
from ecgmoe.inference.predict_one import loaded
from ecgmoe.pipeline.store import Store
from ecgmoe.tasks import Task


@dataclass(frozen=True, kw_only=True)
class ExplainedECG:
    """One ECG with what a model says of it, and what that rests on. Research use only: never a diagnosis.

    Attributes:
        explanation: predictions, weights of the beats and of the experts, for every task.
        attribution: leads and moments, for `task`; None where it was left out.
        record: what the model was given: signal and R peaks.
        task: whose weights of the beats are drawn.
        name: of the record, without its folder.
    """

    explanation: Explanation
    attribution: Attribution | None
    record: UsableRecord
    task: str
    name: str

    def attribution_lines(self) -> list[str]:
        """What of the prediction was attributed, and how well its parts add up; none where it was left out."""
        return attribution_lines(self.attribution) if self.attribution else []

    def png(self, note: str = "") -> bytes:
        """All of it on ECG paper, the same bytes for the same explanation.

        Args:
            note: a line above the picture that no file tells, such as "Simulated ECG".
        """
        return explained_png(
            self.explanation, self.record, task=self.task, name=self.name, note=note, attribution=self.attribution
        )


def explain(
    source: str | os.PathLike[str] | npt.ArrayLike,
    *,
    model: str | os.PathLike[str],
    task: str = "arrhythmia",
    class_name: str | None = None,
    steps: int = STEPS,
    fs: float | None = None,
    leads: Sequence[str] | None = None,
    unit: Unit | None = None,
    policy: QualityPolicy | None = None,
    reader: ReaderOptions | None = None,
) -> ExplainedECG:
    """Explain one task of one ECG: which beats and experts by their weights, which leads and moments by integrated gradients.

    Args:
        source: a file or an array, as for `ecgmoe.predict`.
        model: model folder.
        task: to explain.
        class_name: whose log-odds are attributed; None takes the likeliest class of a multiclass task, and the class 1 of a
            binary one (female, abnormal).
        steps: gradients that are summed for leads and moments; 0 leaves these out, and with them the need of captum.
        fs: as for `ecgmoe.predict`, and so are the others.
        leads: names of an array's rows.
        unit: of an array.
        policy: which records are refused, and which leads are masked.
        reader: what recordings may leave open.

    Raises:
        ModelFolderError: `model` is not a model folder.
        ValueError: the record cannot be used, the model has no such task or class, an option would be ignored, or captum is
            not installed.
    """
    if steps < 0:
        raise ValueError(f"--steps {steps}: give the number of gradients to sum, 0 for none")
    if steps:
        check_captum()
    elif class_name is not None:
        raise ValueError(
            "--class-name is about leads and moments, which --steps 0 leaves out: leave out one of them (in Python "
            "class_name and steps)"
        )
    predictor, _ = loaded(os.fspath(model))
    chosen = _task(predictor.tasks, task, os.fspath(model))
    class_index(chosen, class_name)
    record = given_record(source, fs=fs, leads=leads, unit=unit, policy=policy, reader=reader)
    attribution = attribute(predictor, record, chosen, class_name=class_name, steps=steps) if steps else None
    # A path says where a file lies, and more than a picture should tell of a machine.
    name = os.fspath(source).rsplit("/", 1)[-1] if isinstance(source, (str, os.PathLike)) else "an array"
    return ExplainedECG(
        explanation=explanations.explain(predictor, record),
        attribution=attribution,
        record=record,
        task=task,
        name=name,
    )


def _task(tasks: Sequence[Task], name: str, model: str) -> Task:
    names = [each.name for each in tasks]
    if name not in names:
        raise ValueError(f"{model} has no task {name!r}: choose one of {', '.join(names)}")
    return tasks[names.index(name)]


def write_explanation(
    model: str,
    source: str,
    out: str,
    *,
    task: str = "arrhythmia",
    class_name: str | None = None,
    steps: int = STEPS,
    note: str = "",
    policy: QualityPolicy | None = None,
    reader: ReaderOptions | None = None,
) -> ExplainedECG:
    """As `explain`, with the picture in a file that appears when it is whole.

    Raises:
        ValueError: `out` is not a PNG file's name.
    """
    if not out.endswith(".png"):
        raise ValueError(f"--out {out}: the picture is a PNG file, give a name that ends in .png")
    explained = explain(
        source, model=model, task=task, class_name=class_name, steps=steps, policy=policy, reader=reader
    )
    folder, _, name = out.rpartition("/")
    with Store(folder or ".").writing(name) as file:
        file.write(explained.png(note))
    return explained
