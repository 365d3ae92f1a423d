"""The five tasks in one table. Everything else (heads, losses, metrics, reports) is derived from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ecgmoe.ecg.rhythm import TAXONOMIES

Kind = Literal["regression", "binary", "multiclass"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One prediction task.

    Attributes:
        name: key in metrics.json and in batches.
        kind: regression (smooth L1, MAE), binary (one logit) or multiclass (cross-entropy).
        label: column of labels.parquet; null there means masked in the loss and in the metrics.
        unit: of the label, empty where it has none.
        classes: names in the order of the label's integers; empty for regression.
    """

    name: str
    kind: Kind
    label: str
    unit: str = ""
    classes: tuple[str, ...] = ()

    @property
    def outputs(self) -> int:
        """Width of the head: 1, or the number of classes for a multiclass task."""
        return len(self.classes) if self.kind == "multiclass" else 1


TASK_NAMES = ("rr", "age", "sex", "potassium", "arrhythmia")


def task_table(names: tuple[str, ...] = TASK_NAMES, taxonomy: str = "rhythm15") -> tuple[Task, ...]:
    """The chosen tasks in their canonical order.

    Args:
        names: any subset of `TASK_NAMES`, in any order.
        taxonomy: which arrhythmia classes, "rhythm15" (clinical) or "report0_15" (the paper's).

    Raises:
        ValueError: an unknown task or taxonomy, or no task at all.
    """
    if taxonomy not in TAXONOMIES:
        raise ValueError(f"unknown taxonomy {taxonomy!r}: choose one of {', '.join(TAXONOMIES)}")
    unknown = [name for name in names if name not in TASK_NAMES]
    if unknown:
        raise ValueError(f"unknown task {unknown[0]!r}: choose from {', '.join(TASK_NAMES)}")
    if not names:
        raise ValueError(f"no task chosen: name at least one of {', '.join(TASK_NAMES)}")
    table = (
        Task(name="rr", kind="regression", label="rr_label_ms", unit="ms"),
        Task(name="age", kind="regression", label="age_years", unit="years"),
        Task(name="sex", kind="binary", label="sex_female", classes=("male", "female")),
        Task(name="potassium", kind="binary", label="potassium_abnormal", classes=("normal", "abnormal")),
        Task(name="arrhythmia", kind="multiclass", label=taxonomy, classes=TAXONOMIES[taxonomy]),
    )
    return tuple(task for task in table if task.name in names)
