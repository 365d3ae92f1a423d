"""A predictions table of made-up patients, with everything in it that a report shows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ecgmoe.evaluation.predictions import prediction_table
from ecgmoe.tasks import Task

GATES = {"rr": (0.6, 0.4), "age": (0.3, 0.7), "sex": (0.5, 0.5), "potassium": (0.2, 0.8), "arrhythmia": (0.9, 0.1)}


def made_up(tasks: tuple[Task, ...], patients: int, seed: int, *, skill: float = 1.0) -> pa.Table:
    """Two ECGs of every patient, predicted with noise around the truth; a sixth of each label is missing.

    Args:
        tasks: all five.
        patients: their number.
        seed: of labels and noise.
        skill: how far predictions follow the labels: 0 for not at all.
    """
    rng = np.random.default_rng(seed)
    n = 2 * patients

    def some(values: np.ndarray, kind: pa.DataType) -> pa.Array:
        return pa.array(values, kind, mask=rng.random(n) < 1 / 6)

    rr, age = rng.normal(800, 120, n), np.repeat(rng.uniform(20, 90, patients), 2)
    female, abnormal = np.repeat(rng.random(patients) < 0.5, 2), rng.random(n) < 0.25
    rhythm = rng.choice([4, 11, 13], n, p=[0.2, 0.5, 0.3])
    labels = pa.table(
        {
            "study_id": np.arange(n) + 1000,
            "patient_id": np.repeat(np.arange(patients), 2),
            "path": [f"files/{index}" for index in range(n)],
            "rr_source": ["machine"] * n,
            "cart_id": some(rng.integers(1, 12, n), pa.int64()),
            "rr_label_ms": some(rr, pa.float32()),
            "age_years": some(age, pa.float32()),
            "sex_female": some(female.astype(int), pa.int8()),
            "potassium_abnormal": some(abnormal.astype(int), pa.int8()),
            "rhythm15": some(rhythm, pa.int8()),
        }
    )
    logits = rng.normal(size=(n, 15))
    logits[np.arange(n), rhythm] += 4 * skill
    values = {
        "rr": rr * skill + (1 - skill) * 800 + rng.normal(0, 20, n),
        "age": age * skill + (1 - skill) * 55 + rng.normal(0, 9, n),
        "sex": 1 / (1 + np.exp(-(2 * female - 1) * 2 * skill - rng.normal(0, 2, n))),
        "potassium": 1 / (1 + np.exp(-(2 * abnormal - 1) * skill - rng.normal(0, 1, n))),
        "arrhythmia": np.exp(logits) / np.exp(logits).sum(1, keepdims=True),
    }
    gates = {
        f"routing_{task.name}": pa.array(
            list(rng.dirichlet(np.array(GATES[task.name]) * 20, n)), pa.list_(pa.float32())
        )
        for task in tasks
    }
    detected = pa.array(rr + rng.normal(0, 5, n), pa.float32())
    found = {name: value.astype(np.float32) for name, value in values.items()}
    return prediction_table(found, labels, tasks, rr_detected_ms=detected, **gates)
