"""The file contracts between the stages: one prepared dataset folder, readable with pyarrow alone.

DIR/records/shard-00000.parquet                  what the waveform determines, RECORD_SCHEMA
DIR/features/<backbone>-<digest>/shard-00000...  pooled features, same rows and row groups as records/
DIR/features/<backbone>-<digest>/manifest.json   all that decided them, provenance of the weights; written last
DIR/labels.parquet                               the only source of labels, patients and splits, LABEL_SCHEMA
DIR/exclusions.parquet                           EXCLUSION_SCHEMA
DIR/card.html, DIR/card.json                     what is in it: funnel, labels, distributions, examples
DIR/plan.json                                    what decides the shards' content, and what chose the records; written first
DIR/manifest.json                                schema version, configuration, digests, counts; written last
DIR/inputs.json                                  state of the tables or folder read, so that a finished stage is skipped
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ecgmoe.datasets.schema import STUDY_SCHEMA
from ecgmoe.ecg.record import LEADS, MISSING, N_LEADS, N_SAMPLES, SAMPLING_RATE_HZ, Signal

SCHEMA_VERSION = 2
SIGNAL_BYTES = N_LEADS * N_SAMPLES * 2


def _lead_mask(name: str, meaning: str) -> pa.Field:
    return pa.field(
        f"quality_{name}_leads", pa.uint16(), nullable=False, metadata={"meaning": f"bit i: lead i {meaning}"}
    )


RECORD_SCHEMA = pa.schema(
    [
        pa.field("study_id", pa.int64(), nullable=False),
        pa.field(
            "signal",
            pa.binary(SIGNAL_BYTES),
            nullable=False,
            metadata={
                "dtype": "int16 little-endian",
                "shape": f"{N_LEADS},{N_SAMPLES} C order",
                "unit": "uV",
                "missing": str(MISSING),
                "leads": ",".join(LEADS),
                "sampling_rate_hz": str(SAMPLING_RATE_HZ),
            },
        ),
        pa.field("r_peaks", pa.list_(pa.int32()), nullable=False, metadata={"unit": "samples at 500 Hz"}),
        pa.field("rr_ms", pa.float32(), metadata={"unit": "ms", "meaning": "median R-R of the detected peaks"}),
        pa.field("quality_missing_share", pa.float32(), nullable=False, metadata={"meaning": "of all samples"}),
        pa.field("quality_padded_samples", pa.int32(), nullable=False, metadata={"meaning": "filled in at the end"}),
        _lead_mask("flat", "constant or wholly missing"),
        _lead_mask("zero", "constant at 0"),
        _lead_mask("clipped", "rests at its extreme for 16 ms or more"),
        _lead_mask("lead_off", "constant for 1 s or more"),
        _lead_mask("noisy", "above the policy's max_noise_uv"),
        _lead_mask("masked", "stored as missing because of the policy"),
        pa.field("quality_amplitude_mv", pa.float32(), nullable=False, metadata={"meaning": "largest |sample|"}),
        pa.field("quality_noise_uv", pa.float32(), nullable=False, metadata={"meaning": "median over the leads"}),
        pa.field("quality_einthoven_uv", pa.float32(), metadata={"meaning": "median |I + III - II|"}),
        pa.field("quality_few_beats", pa.bool_(), nullable=False, metadata={"meaning": "fewer than three R peaks"}),
    ]
)

LABEL_SCHEMA = pa.schema(
    [
        *STUDY_SCHEMA,
        pa.field("shard", pa.int32(), nullable=False, metadata={"meaning": "records/shard-<shard>.parquet"}),
        pa.field("row", pa.int32(), nullable=False, metadata={"meaning": "row in that shard"}),
        pa.field("rr_disagrees", pa.bool_(), metadata={"meaning": "detected and labelled RR differ by over 10 %"}),
    ]
)

EXCLUSION_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False, metadata={"values": "index, read, quality"}),
        pa.field("reason", pa.string(), nullable=False),
    ]
)


FEATURE_TYPES = {"fp16": "float16", "fp32": "float32"}


def feature_schema(tokens: int, width: int, dtype: str = "float16") -> pa.Schema:
    """A feature shard: study_id (repeated so that a join by position can be checked) and pooled features."""
    features = pa.field(
        "features",
        pa.binary(tokens * width * np.dtype(dtype).itemsize),
        nullable=False,
        metadata={"dtype": f"{dtype} little-endian", "shape": f"{tokens},{width} C order"},
    )
    return pa.schema([pa.field("study_id", pa.int64(), nullable=False), features])


def features_to_array(features: npt.NDArray[np.floating]) -> pa.Array:
    """Features (n, tokens, width) as the `features` column."""
    width = features.itemsize * features.shape[1] * features.shape[2]
    little = np.ascontiguousarray(features, dtype=features.dtype.newbyteorder("<"))
    return pa.Array.from_buffers(pa.binary(width), len(features), [None, pa.py_buffer(little)])


def features_of(column: pa.ChunkedArray, field: pa.Field) -> npt.NDArray[np.floating]:
    """The `features` column as an array (n, tokens, width), with its schema's field."""
    tokens, width = (int(size) for size in field.metadata[b"shape"].split()[0].split(b","))
    dtype = np.dtype(field.metadata[b"dtype"].split()[0].decode()).newbyteorder("<")
    array = _one_array(column)
    start = array.offset * tokens * width * dtype.itemsize
    flat = np.frombuffer(array.buffers()[1], dtype=dtype, count=len(array) * tokens * width, offset=start)
    return flat.reshape(len(array), tokens, width)


def shard_name(shard: int) -> str:
    """File name of a shard, the same under records/ and under each features folder."""
    return f"shard-{shard:05d}.parquet"


def signals_of(column: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.int16]:
    """The `signal` column as int16 (n, 12, 5000), without copying where it is one chunk."""
    array = _one_array(column)
    buffer = array.buffers()[1]
    flat = np.frombuffer(
        buffer, dtype="<i2", count=len(array) * N_LEADS * N_SAMPLES, offset=array.offset * SIGNAL_BYTES
    )
    return flat.reshape(len(array), N_LEADS, N_SAMPLES)


def r_peaks_of(column: pa.Array | pa.ChunkedArray) -> list[npt.NDArray[np.int32]]:
    """The `r_peaks` column as an array per record, read-only views of the column's values."""
    lists = _one_array(column)
    bounds, values = lists.offsets.to_numpy(), lists.values.to_numpy()
    return [values[start:stop] for start, stop in pairwise(bounds.tolist())]


def _one_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """The column's only chunk as it is; `combine_chunks` would copy it."""
    if not isinstance(column, pa.ChunkedArray):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def signals_to_array(signals: list[Signal]) -> pa.Array:
    """Canonical records as the `signal` column."""
    stacked = np.ascontiguousarray(np.stack(signals), dtype="<i2") if signals else np.empty(0, dtype="<i2")
    return pa.Array.from_buffers(pa.binary(SIGNAL_BYTES), len(signals), [None, pa.py_buffer(stacked)])
