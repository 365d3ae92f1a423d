"""One recording explained: read as predict reads it, predicted, drawn. No Ray."""

from __future__ import annotations

from ecgmoe.ecg.quality_policy import QualityPolicy
from ecgmoe.ecg.reader_options import ReaderOptions
from ecgmoe.inference.explanation import Explanation, explain
from ecgmoe.inference.explanation_picture import explained_png
from ecgmoe.inference.one_record import one_record, read_one
from ecgmoe.inference.predictor import Predictor, check_model
from ecgmoe.pipeline.store import Store


def explain_file(
    model: str,
    source: str,
    *,
    task: str = "arrhythmia",
    note: str = "",
    policy: QualityPolicy | None = None,
    reader: ReaderOptions | None = None,
) -> tuple[Explanation, bytes]:
    """Explain one recording.

    Args:
        model: model folder.
        source: a WFDB record with or without its extension, or a MATLAB file.
        task: whose weights of the beats are drawn.
        note: stands above the picture.
        policy: which records are refused, and which leads are masked.
        reader: what recordings may leave open.

    Returns:
        The explanation, and its picture as PNG.

    Raises:
        ModelFolderError: `model` is not a model folder.
        ValueError: there is no such recording, it cannot be used, or the model has no such task.
    """
    check_model(model)
    path = one_record(source)
    predictor = Predictor(model)
    tasks = [each.name for each in predictor.tasks]
    if task not in tasks:
        raise ValueError(f"{model} has no task {task!r}: choose one of {', '.join(tasks)}")
    record = read_one(path, reader or ReaderOptions(), policy or QualityPolicy())
    explanation = explain(predictor, record)
    # A path says where a file lies, and more than a picture should tell of a machine.
    return explanation, explained_png(explanation, record, task=task, name=path.rsplit("/", 1)[-1], note=note)


def write_explanation(
    model: str,
    source: str,
    out: str,
    *,
    task: str = "arrhythmia",
    note: str = "",
    policy: QualityPolicy | None = None,
    reader: ReaderOptions | None = None,
) -> Explanation:
    """As `explain_file`, with the picture in a file that appears when it is whole.

    Raises:
        ValueError: `out` is not a PNG file's name.
    """
    if not out.endswith(".png"):
        raise ValueError(f"--out {out}: the picture is a PNG file, give a name that ends in .png")
    explanation, picture = explain_file(model, source, task=task, note=note, policy=policy, reader=reader)
    folder, _, name = out.rpartition("/")
    with Store(folder or ".").writing(name) as file:
        file.write(picture)
    return explanation
