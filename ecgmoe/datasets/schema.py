"""The index of studies: what every dataset reader delivers, one row per ECG (study).

The index holds everything that does not need the waveform. `pipeline.prepare` adds where the record was stored (shard,
row) and, where the dataset has no RR of its own, the detector's, and writes the result as labels.parquet.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

SPLITS = ("train", "validation", "test")

STUDY_SCHEMA = pa.schema(
    [
        pa.field(
            "study_id", pa.int64(), nullable=False, metadata={"source": "dataset's own id, or a hash of the path"}
        ),
        pa.field("patient_id", pa.int64(), nullable=False, metadata={"use": "splits and contrastive negatives"}),
        pa.field("path", pa.string(), nullable=False, metadata={"meaning": "record without extension, under root"}),
        pa.field("split", pa.string(), nullable=False, metadata={"values": ",".join(SPLITS)}),
        pa.field("rr_label_ms", pa.float32(), metadata={"unit": "ms", "range": "200..3000"}),
        pa.field("rr_source", pa.string(), metadata={"values": "machine, simulator, user, detected"}),
        pa.field("age_years", pa.float32(), metadata={"unit": "years", "range": "18..89"}),
        pa.field("sex_female", pa.int8(), metadata={"values": "0 male, 1 female"}),
        pa.field("potassium_mmol", pa.float32(), metadata={"unit": "mmol/L"}),
        pa.field("potassium_abnormal", pa.int8(), metadata={"values": "0 within, 1 outside the reference range"}),
        pa.field("potassium_gap_minutes", pa.float32(), metadata={"meaning": "lab time minus ECG time"}),
        pa.field("report0_15", pa.int8(), metadata={"meaning": "class of the paper's list, ecg/rhythm.py"}),
        pa.field("rhythm15", pa.int8(), metadata={"meaning": "clinical rhythm class, ecg/rhythm.py"}),
        pa.field("cart_id", pa.int64(), metadata={"meaning": "ECG machine"}),
    ]
)


class DatasetError(ValueError):
    """The dataset as a whole cannot be read: the message names the file or column and the remedy."""


@dataclass(frozen=True, kw_only=True)
class StudyIndex:
    """What a reader delivers.

    Attributes:
        table: rows of `STUDY_SCHEMA`, unique by study_id.
        excluded: (path, reason) of studies that the tables alone rule out (a duplicate id, an unsafe path).
        source: name of the dataset, for the manifest and the reports ("simulated", "mimic-iv-ecg", "ptbxl", "wfdb").
    """

    table: pa.Table
    excluded: tuple[tuple[str, str], ...]
    source: str
