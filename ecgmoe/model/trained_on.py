"""What a model was trained on: it travels with the weights, because they say nothing of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """The training split.

    Attributes:
        dataset: its name.
        records: of the training split.
        patients: of the training split.
        labels: by task: training records with a label; a task with 0 was never trained, and what it predicts means nothing
            (or no longer, where the model that this one began with knew it: all that is under its head has changed).
        labels_sha256: of the labels that the data had.
        preprocessing_version: of the records, `ecgmoe.ecg.record.PREPROCESSING_VERSION` when they were prepared.
        before: what the model was trained on with which this training began; None where it began with random weights.
    """

    dataset: str
    records: int
    patients: int
    labels: dict[str, int]
    labels_sha256: str
    preprocessing_version: int
    before: TrainedOn | None = None

    @property
    def untrained(self) -> tuple[str, ...]:
        """Tasks without a single training label."""
        return tuple(task for task, count in self.labels.items() if not count)
