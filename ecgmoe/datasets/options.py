"""How a dataset's tables become labels and splits. Free of pandas and pyarrow, so that a command line starts fast."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class IndexOptions:
    """Labels and splits; a change rewrites labels.parquet alone.

    Attributes:
        split_seed: another seed gives other splits.
        split_shares: train, validation and test shares of the patients.
        potassium_window_minutes: largest gap between ECG and blood sample, either way.
        sampling_rate: PTB-XL only: which of its two versions to read, 100 or 500 Hz.
        test_fold: PTB-XL only: the fold reported on; the fold before it is validation, lower ones train, and higher ones
            stay closed. 10 is its authors' split; 9 develops without opening fold 10.
        csv: wfdb only: CSV file with the column path (under root, without extension), and where they are known
            patient_id, split, rr_label_ms, age_years, sex_female, potassium_mmol, potassium_abnormal, report0_15 and
            rhythm15.
    """

    split_seed: int = 0
    split_shares: tuple[float, float, float] = (0.8, 0.1, 0.1)
    potassium_window_minutes: float = 60.0
    sampling_rate: int = 500
    test_fold: int = 10
    csv: str | None = None

    def __post_init__(self) -> None:
        shares = self.split_shares
        if len(shares) != 3 or min(shares) < 0 or not shares[0] or not math.isclose(sum(shares), 1, abs_tol=1e-6):
            raise ValueError(
                f"split_shares must be train, validation and test shares that sum to 1, train above 0, got {shares}"
            )
        if not 0 < self.potassium_window_minutes < math.inf:
            raise ValueError(f"potassium_window_minutes must be above 0, got {self.potassium_window_minutes}")
        if not 3 <= self.test_fold <= 10:
            raise ValueError(f"test_fold must be in 3..10, got {self.test_fold}")
        if self.sampling_rate not in (100, 500):
            raise ValueError(f"sampling_rate must be 100 or 500 (PTB-XL's two versions), got {self.sampling_rate}")
