"""The canonical ECG record: 12 leads x 10 s at 500 Hz, int16 in microvolt, leads in the order of `LEADS`.

Every reader delivers exactly this, whatever its source. -32768 marks a missing sample and means nothing else.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

LEADS: tuple[str, ...] = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
N_LEADS = len(LEADS)
SAMPLING_RATE_HZ = 500
DURATION_S = 10
N_SAMPLES = SAMPLING_RATE_HZ * DURATION_S
MISSING = -32768
UV_PER_MV = 1000
MAX_UV = 32767
PREPROCESSING_VERSION = 3
"""Raised when the same waveform file gives another record or other R peaks (conversion, quality, detector). Prepared data and
models carry it."""

Signal = npt.NDArray[np.int16]
"""A canonical record: int16 (12, 5000), microvolt, `MISSING` where there is no sample."""


class RecordFault(ValueError):
    """A fault of one record: it is excluded with this message as the reason, and the job goes on."""
