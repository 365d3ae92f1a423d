"""Splits by patient: all ECGs of a patient are on one side, and stay there when records are added."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from ecgmoe.datasets.schema import SPLITS


def assign_splits(
    patient_ids: npt.NDArray[np.int64], seed: int, shares: tuple[float, float, float]
) -> npt.NDArray[np.object_]:
    """Split of each study, from a hash of seed and patient alone.

    Args:
        patient_ids: (studies,).
        seed: another seed gives other splits.
        shares: train, validation and test, summing to 1.

    Returns:
        (studies,) of `SPLITS`.
    """
    patients, positions = np.unique(patient_ids, return_inverse=True)
    draws = np.fromiter((_uniform(seed, int(patient)) for patient in patients), dtype=np.float64, count=len(patients))
    drawn = np.searchsorted(np.cumsum(shares)[:2], draws, side="right")
    return np.array(SPLITS, dtype=object)[drawn][positions]


def _uniform(seed: int, patient_id: int) -> float:
    digest = hashlib.sha256(f"{seed}:{patient_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
