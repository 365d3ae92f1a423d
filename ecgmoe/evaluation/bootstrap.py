"""95 % intervals by resampling patients, because the ECGs of one patient are not independent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

RESAMPLES = 500
LEVEL = 0.95


def patient_samples(patient: npt.NDArray[np.int64], resamples: int, seed: int) -> list[npt.NDArray[np.int64]]:
    """Rows of each resample: patients drawn with replacement, each with all its records.

    Args:
        patient: (n,) patient of each record.
        resamples: number of resamples.
        seed: of the draw.
    """
    generator = np.random.default_rng(seed)
    _, inverse = np.unique(patient, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(inverse[order])) + 1)
    draws = generator.integers(0, len(groups), (resamples, len(groups)))
    return [np.concatenate([groups[index] for index in draw]) for draw in draws]


def patient_intervals(
    measure: Callable[[Any, Any], dict[str, float | None]],
    truth: npt.NDArray[Any],
    predicted: npt.NDArray[Any],
    patient: npt.NDArray[np.int64],
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> dict[str, list[float] | None]:
    """Percentile intervals of every metric of `measure`, as "<metric>_ci": [low, high].

    A resample in which a metric is not defined is left out of its interval; None where that is every resample.
    """
    found: dict[str, list[float]] = {name: [] for name in measure(truth, predicted)}
    for rows in patient_samples(patient, resamples, seed):
        for name, value in measure(truth[rows], predicted[rows]).items():
            if value is not None:
                found[name].append(value)
    tails = [(1 - LEVEL) / 2 * 100, (1 + LEVEL) / 2 * 100]
    return {
        f"{name}_ci": [float(bound) for bound in np.percentile(values, tails)] if values else None
        for name, values in found.items()
    }
