"""The index of studies: what every dataset reader delivers, one row per ECG (study).

The index holds everything that does not need the waveform. `pipeline.prepare` adds where the record was stored (shard,
row) and, where the dataset has no RR of its own, the detector's, and writes the result as labels.parquet.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from ecgmoe.ecg.rhythm import TAXONOMIES

SPLITS = ("train", "validation", "test")
UNUSED = "unused"
"""Split of a study that a given split file leaves out: prepared, and in none of the three."""

_CLASSES = {name: " | ".join(classes) for name, classes in TAXONOMIES.items()}

TIME = pa.timestamp("s")

STUDY_SCHEMA = pa.schema(
    [
        pa.field(
            "study_id", pa.int64(), nullable=False, metadata={"source": "dataset's own id, or a hash of the path"}
        ),
        pa.field("patient_id", pa.int64(), nullable=False, metadata={"use": "splits and contrastive negatives"}),
        pa.field("path", pa.string(), nullable=False, metadata={"meaning": "record under root, see ecg/read.py"}),
        pa.field("split", pa.string(), nullable=False, metadata={"values": ",".join((*SPLITS, UNUSED))}),
        pa.field("ecg_time", TIME, metadata={"meaning": "by the ECG cart's clock"}),
        pa.field("rr_label_ms", pa.float32(), metadata={"unit": "ms", "range": "200..3000"}),
        pa.field(
            "rr_source", pa.string(), metadata={"values": "machine, simulator, user, ptb-xl+, annotated, detected"}
        ),
        pa.field(
            "age_years",
            pa.float32(),
            metadata={"unit": "years", "range": "18..89", "mimic": "anchor_age + year of ECG - anchor_year"},
        ),
        pa.field("sex_female", pa.int8(), metadata={"values": "0 male, 1 female", "mimic": "patients.gender"}),
        pa.field("potassium_mmol", pa.float32(), metadata={"unit": "mmol/L", "mimic": "labevents.valuenum"}),
        pa.field("potassium_abnormal", pa.int8(), metadata={"values": "0 within, 1 outside the reference range"}),
        pa.field("potassium_abnormal_by", pa.string(), metadata={"values": "range, flag (where the range is open)"}),
        pa.field("potassium_hypo", pa.int8(), metadata={"values": "1 below 3.5 mmol/L, else 0"}),
        pa.field("potassium_hyper", pa.int8(), metadata={"values": "1 from 5.5 mmol/L, else 0"}),
        pa.field("potassium_gap_minutes", pa.float32(), metadata={"meaning": "lab time minus ECG time"}),
        pa.field(
            "potassium_itemid",
            pa.int32(),
            metadata={"values": "50971, 52610 serum, 50822, 52452 whole blood, d_labitems"},
        ),
        pa.field("potassium_ref_low", pa.float32(), metadata={"unit": "mmol/L", "meaning": "the row's own range"}),
        pa.field("potassium_ref_high", pa.float32(), metadata={"unit": "mmol/L", "meaning": "the row's own range"}),
        pa.field("report0_15", pa.int8(), metadata={"classes": _CLASSES["report0_15"], "meaning": "the paper's list"}),
        pa.field("rhythm15", pa.int8(), metadata={"classes": _CLASSES["rhythm15"], "meaning": "clinical classes"}),
        pa.field("rhythm15_line", pa.int8(), metadata={"meaning": "n of the statement report_n that gave rhythm15"}),
        pa.field("rhythm15_hedged", pa.bool_(), metadata={"meaning": "that statement says possible, probable, ..."}),
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
        source: name of the dataset, for the manifest and the reports ("simulated", "mimic-iv-ecg", "ptbxl", "ludb",
            "cinc2021", "wfdb").
        funnel: (step, studies left after it), from the dataset's own list to `table`.
        tables: every file that was looked for, so that a change of one of them is noticed; where the index comes from
            listing a folder, that folder.
        unmapped: (statement or code, studies that have it) of what the dataset says of rhythm, conduction and the like
            and `rhythm15` makes nothing of, most frequent first.
    """

    table: pa.Table
    excluded: tuple[tuple[str, str], ...]
    source: str
    funnel: tuple[tuple[str, int], ...] = ()
    tables: tuple[str, ...] = ()
    unmapped: tuple[tuple[str, int], ...] = ()
