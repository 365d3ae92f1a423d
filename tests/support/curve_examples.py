"""Predictions of made-up runs under made-up conditions: errors that grow with the strength."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ecgmoe.ecg.perturb import CLEAN, Condition, conditions
from ecgmoe.evaluation.columns import DETECTED_RR, REFUSED
from ecgmoe.evaluation.predictions import prediction_table
from ecgmoe.tasks import task_table

TASKS = task_table()
RECORDS = 90


def labels(seed: int = 0) -> pa.Table:
    """Ninety records of thirty patients; some labels are missing."""
    generator = np.random.default_rng(seed)
    potassium = generator.integers(0, 2, RECORDS)
    return pa.table(
        {
            "study_id": np.arange(RECORDS) + 10,
            "patient_id": np.arange(RECORDS) // 3,
            "path": [f"records/{number}" for number in range(RECORDS)],
            "rr_source": ["detected"] * RECORDS,
            "cart_id": pa.nulls(RECORDS, pa.int64()),
            "rr_label_ms": generator.normal(850, 120, RECORDS),
            "age_years": pa.array(generator.normal(60, 15, RECORDS), mask=generator.random(RECORDS) < 0.2),
            "sex_female": generator.integers(0, 2, RECORDS),
            "potassium_abnormal": pa.array(potassium, mask=generator.random(RECORDS) < 0.4),
            "rhythm15": generator.choice([0, 4, 11, 14], RECORDS),
        }
    )


def predicted(condition: Condition, error: float, seed: int = 1) -> pa.Table:
    """A run's predictions whose errors are `error` times a unit of each task, and twice that at 0 dB.

    At 0 dB the default policy refuses every tenth record.
    """
    table, generator = labels(), np.random.default_rng(seed)
    strength = condition.strength
    hard = 1.0 if condition == CLEAN or strength is None else 1 + 2 ** (-strength / 12)
    noise = error * hard * generator.standard_normal((4, RECORDS))
    sex, potassium = (table[name].to_numpy() for name in ("sex_female", "potassium_abnormal"))
    logits = generator.normal(0, error * hard, (RECORDS, 15))
    logits[np.arange(RECORDS), table["rhythm15"].to_numpy()] += 2
    values = {
        "rr": table["rr_label_ms"].to_numpy() + 20 * noise[0],
        "age": np.nan_to_num(table["age_years"].to_numpy(), nan=50) + 9 * noise[1],
        "sex": 1 / (1 + np.exp(-(2 * sex - 1 + 2 * noise[2]))),
        "potassium": 1 / (1 + np.exp(-(2 * np.nan_to_num(potassium) - 1 + 3 * noise[3]))),
        "arrhythmia": np.exp(logits) / np.exp(logits).sum(1, keepdims=True),
    }
    single = {name: value.astype(np.float32) for name, value in values.items()}
    rr = pa.array(table["rr_label_ms"].to_numpy() + 3 * hard, pa.float32(), mask=np.arange(RECORDS) < 4)
    refused = pa.array(np.arange(RECORDS) % 10 == 0) if hard >= 2 else pa.array([False] * RECORDS)
    return prediction_table(single, table, TASKS, **{DETECTED_RR: rr, REFUSED: refused})


def tables(
    error: float = 1.0, names: tuple[str, ...] = ("mains", "premature_beats")
) -> list[tuple[Condition, pa.Table]]:
    """What `conditioned` yields."""
    return [(condition, predicted(condition, error)) for condition in conditions(names)]
