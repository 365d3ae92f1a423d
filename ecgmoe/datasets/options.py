"""How a dataset's tables become labels and splits. Free of pandas and pyarrow, so that a command line starts fast."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ecgmoe.ecg.rhythm import Hedged


@dataclass(frozen=True, kw_only=True)
class IndexOptions:
    """Labels, splits and the choice of records.

    A change of labels or splits rewrites labels.parquet alone. Another choice of records (patients, sampling_rate,
    test_fold, or a csv that lists others) needs another prepared folder.

    Attributes:
        split_seed: another seed gives other splits.
        split_shares: train, validation and test shares of the patients.
        split_file: MIMIC-IV-ECG only: a CSV file with study_id or subject_id, and split; it takes the place of the drawn
            splits, and studies that it leaves out are in none.
        patients: MIMIC-IV-ECG only: so many patients, chosen by a hash of their ids; None takes all.
        potassium_window_minutes: largest gap between ECG and blood sample, either way.
        hedged_statements: MIMIC-IV-ECG only: what rhythm15 makes of "possible", "may be" and the like: "use" them as
            they are, "skip" what they are about for what is said for certain, or "mask" the label that rests on one.
        sampling_rate: PTB-XL only: which of its two versions to read, 100 or 500 Hz.
        test_fold: PTB-XL only: the fold reported on; the fold before it is validation, lower ones train, and higher ones
            stay closed. 10 is its authors' split; 9 develops without opening fold 10.
        rr_features: PTB-XL only: a feature table of PTB-XL+ (columns ecg_id and RR_Mean_Global, in ms) as the source of RR.
        csv: wfdb only: CSV file with the column path (under root, without extension), and where they are known
            patient_id, split, rr_label_ms, age_years, sex_female (0 or M, 1 or F), potassium_mmol, potassium_abnormal,
            report0_15 and rhythm15 (the class's number or name).
    """

    split_seed: int = 0
    split_shares: tuple[float, float, float] = (0.8, 0.1, 0.1)
    split_file: str | None = None
    patients: int | None = None
    potassium_window_minutes: float = 60.0
    hedged_statements: Hedged = "use"
    sampling_rate: int = 500
    test_fold: int = 10
    rr_features: str | None = None
    csv: str | None = None

    def __post_init__(self) -> None:
        shares = self.split_shares
        if len(shares) != 3 or min(shares) < 0 or not shares[0] or not math.isclose(sum(shares), 1, abs_tol=1e-6):
            raise ValueError(
                f"split_shares must be train, validation and test shares that sum to 1, train above 0, got {shares}"
            )
        if self.patients is not None and self.patients < 1:
            raise ValueError(f"patients must be at least 1, got {self.patients}")
        if not 0 < self.potassium_window_minutes < math.inf:
            raise ValueError(f"potassium_window_minutes must be above 0, got {self.potassium_window_minutes}")
        if not 3 <= self.test_fold <= 10:
            raise ValueError(f"test_fold must be in 3..10, got {self.test_fold}")
        if self.sampling_rate not in (100, 500):
            raise ValueError(f"sampling_rate must be 100 or 500 (PTB-XL's two versions), got {self.sampling_rate}")
