"""labels.parquet: the index of studies joined with where each record was stored."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecgmoe.datasets.mimic import RR_RANGE_MS
from ecgmoe.pipeline.schema import LABEL_SCHEMA

RR_TOLERANCE = 0.1
"""Detected and labelled RR further apart than this share are flagged."""


def label_table(index: pa.Table, stored: pa.Table) -> pa.Table:
    """Labels of the stored records, in the order of the shards.

    Args:
        index: rows of `STUDY_SCHEMA`, one per study of the dataset.
        stored: study_id, rr_ms (detected), shard and row of each stored record.

    Returns:
        Rows of `LABEL_SCHEMA`. Where the dataset has no RR of its own (rr_source "detected"), the label is the detected
        one: a target derived from the input, which every report says.
    """
    order = np.argsort(index["study_id"].to_numpy(), kind="stable")
    ids = index["study_id"].to_numpy()[order]
    positions = order[np.searchsorted(ids, stored["study_id"].to_numpy())]
    labels = index.take(pa.array(positions))
    detected = stored["rr_ms"].combine_chunks()
    in_range = pc.and_(pc.greater_equal(detected, RR_RANGE_MS[0]), pc.less_equal(detected, RR_RANGE_MS[1]))
    detected = pc.if_else(in_range, detected, None)
    own = labels["rr_label_ms"].combine_chunks()
    from_detector = pc.equal(labels["rr_source"].combine_chunks(), "detected")
    difference = pc.divide(pc.abs(pc.subtract(detected, own)), own)
    columns = {name: labels[name] for name in index.schema.names}
    columns["rr_label_ms"] = pc.if_else(from_detector, detected, own).cast(pa.float32())
    columns["shard"], columns["row"] = stored["shard"], stored["row"]
    columns["rr_disagrees"] = pc.greater(difference, RR_TOLERANCE)
    return pa.table([columns[field.name] for field in LABEL_SCHEMA], schema=LABEL_SCHEMA)
