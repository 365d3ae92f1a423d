"""Statistics of rhythm and amplitude of every record: what the linear baseline sees of an ECG.

They are what the model's front end computes as well: the global characteristics of Eq. 3 and the summary of the RR
intervals. A record costs about 1 ms on one core, most of it for its 60,000 samples.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from ecgmoe.model.batch import pad_r_peaks
from ecgmoe.model.frontend import CHARACTERISTICS, SUMMARY, characteristics, rr_summary
from ecgmoe.pipeline.prepared import PreparedData, RowGroup, row_groups, split_group
from ecgmoe.pipeline.ray_data import map_shards

STATISTICS = (*CHARACTERISTICS, *(f"rr_{name}" for name in SUMMARY))
"""Names, in their order: mean, spread and range of 12 leads (mV), heart rate, quality flags, RR summary (ms)."""

Statistics = npt.NDArray[np.float32]


def record_statistics(data: PreparedData, study_id: npt.NDArray[np.int64], stage: str = "statistics") -> Statistics:
    """Statistics of these records through Ray Data, a shard per task.

    A task holds the waveforms of one row group at a time; 192 bytes per record come back, 154 MB for all of
    MIMIC-IV-ECG.

    Args:
        data: the prepared folder.
        study_id: (n,) which records, each once.
        stage: name at the head of the progress lines.

    Returns:
        (n, 48) float32 in the order of `STATISTICS`, row by row those of `study_id`.

    Raises:
        ValueError: a study is not in this folder.
    """
    labels = data.labels().select(["study_id", "shard", "row"])
    labels = labels.filter(pc.is_in(labels["study_id"], pa.array(study_id)))
    if len(labels) != len(study_id):
        raise ValueError(
            f"{len(study_id) - len(labels)} of {len(study_id)} studies are not in {data.store.root}: it was prepared "
            "again since, so make the predictions again"
        )
    shards = [labels.filter(pc.equal(labels["shard"], shard)) for shard in pc.unique(labels["shard"])]
    found = list(map_shards(stage, shards, (ShardStatistics(data.store.root), {"num_cpus": 1})))
    if not found:
        return np.zeros((0, len(STATISTICS)), np.float32)
    # Shards come back in no fixed order.
    table = pa.concat_tables(found).sort_by("study_id")
    values = table["statistics"].combine_chunks().flatten().to_numpy().reshape(len(table), len(STATISTICS))
    return values[np.searchsorted(table["study_id"].to_numpy(), study_id)]


class ShardStatistics:
    """The block holds study_id, shard and row of the wanted records of one shard; their statistics come back."""

    def __init__(self, data: str) -> None:
        self.data = data

    def __call__(self, labels: pa.Table) -> pa.Table:
        data, group = PreparedData(self.data), row_groups(labels)
        studies, values = [], []
        for number in np.unique(group):
            wanted = labels["study_id"].to_numpy()[group == number]
            stored = data.row_group(*split_group(int(number)))
            rows = np.flatnonzero(np.isin(stored.study_id, wanted))
            if len(rows) != len(wanted):
                raise ValueError(
                    f"{data.store.path('labels.parquet')} does not belong to the records beside it: run "
                    "jobs/prepare.py with --relabel"
                )
            studies.append(stored.study_id[rows])
            values.append(statistics_of(stored, rows))
        flat = pa.array(np.concatenate(values).ravel(), pa.float32())
        columns = [pa.array(np.concatenate(studies)), pa.FixedSizeListArray.from_arrays(flat, len(STATISTICS))]
        return pa.table(columns, names=["study_id", "statistics"])


def statistics_of(group: RowGroup, rows: npt.NDArray[np.int64]) -> Statistics:
    """Statistics of some rows of a row group: (rows, 48)."""
    signal = torch.from_numpy(group.signal[rows])
    r_peaks = pad_r_peaks([group.r_peaks[row] for row in rows])
    return torch.cat([characteristics(signal, r_peaks), rr_summary(r_peaks)], 1).numpy()
