"""The batch that the model takes: what the loader and predict deliver, before anything is computed from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


@dataclass(kw_only=True)
class ECGBatch:
    """B records.

    Attributes:
        signal: int16 (B, 12, 5000), microvolt, -32768 where missing.
        r_peaks: int32 (B, N), sample of each R peak in order, -1 in the padding.
        study_id: int64 (B,).
        patient_id: int64 (B,): records of one patient are not negatives of each other.
        labels: task name to float32 (B,), NaN where the label is missing.
        features: name of a cached backbone to fp16 (B, tokens, width).
    """

    signal: Tensor
    r_peaks: Tensor
    study_id: Tensor
    patient_id: Tensor
    labels: dict[str, Tensor] = field(default_factory=dict)
    features: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.signal)

    def to(self, device: torch.device) -> ECGBatch:
        """The same batch on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def rows(self, start: int, stop: int) -> ECGBatch:
        """Records start..stop as a view."""
        return self._each(lambda tensor: tensor[start:stop])

    def cut(self, parts: int) -> list[ECGBatch]:
        """All records in so many parts of about the same size, as views."""
        bounds = [part * len(self) // parts for part in range(parts + 1)]
        return [self.rows(start, stop) for start, stop in pairwise(bounds)]

    def _each(self, change: Callable[[Tensor], Tensor]) -> ECGBatch:
        changed: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            changed[item.name] = (
                {key: change(tensor) for key, tensor in value.items()} if isinstance(value, dict) else change(value)
            )
        return ECGBatch(**changed)


def pad_r_peaks(peaks: Sequence[npt.NDArray[np.int32]]) -> Tensor:
    """R peaks of each record as int32 (B, N) with -1 after the last; N is at least 1."""
    padded = np.full((len(peaks), max([1, *map(len, peaks)])), -1, dtype=np.int32)
    for row, each in enumerate(peaks):
        padded[row, : len(each)] = each
    return torch.from_numpy(padded)
