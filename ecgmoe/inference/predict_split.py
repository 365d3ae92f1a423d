"""Predictions of a whole split of prepared data through Ray Data: every record exactly once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ecgmoe.allocator import keep_freed_memory
from ecgmoe.evaluation.columns import routing_column
from ecgmoe.evaluation.predictions import prediction_table
from ecgmoe.inference.predictor import Predictor
from ecgmoe.pipeline.nodes import refuse_local, require_here
from ecgmoe.pipeline.prepared import PreparedData, split_rows
from ecgmoe.pipeline.ray_data import actors, map_shards
from ecgmoe.training.loader import BatchReader

BATCH = 32


class PredictShard:
    """An actor: predicts the records of one shard that belong to the split; the block holds their labels."""

    def __init__(self, model: str, data: str) -> None:
        require_here(model)
        require_here(data)
        keep_freed_memory()
        # As the model says it: what calibration is worth is measured on these.
        self.predictor = Predictor(model, calibrated=False, untrained=True)
        self.data = PreparedData(data)

    def __call__(self, labels: pa.Table) -> pa.Table:
        reader = BatchReader(self.data, labels, (), groups_kept=1)
        parts, gates, detected = [], [], []
        for rows in np.array_split(np.arange(len(labels)), -(-len(labels) // BATCH)):
            values, routing = self.predictor.with_routing(reader.read(rows))
            parts.append(values)
            gates.append(routing)
            detected.append(reader.detected_rr_ms(rows))
        values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        rr = np.concatenate(detected)
        more = {"rr_detected_ms": pa.array(rr, pa.float32(), mask=np.isnan(rr))}
        for task in gates[0]:
            each = np.concatenate([part[task] for part in gates])
            more[routing_column(task)] = pa.array(list(each), pa.list_(pa.float32()))
        return prediction_table(values, labels, self.predictor.tasks, **more)


def wanted_labels(data: PreparedData, split: str, leave_out: npt.NDArray[np.int64] | None = None) -> pa.Table:
    """Labels of the records of a split, without those that are left out.

    Args:
        data: prepared folder.
        split: "train", "validation", "test", or "all" records.
        leave_out: study_id of records that are not predicted.

    Raises:
        ValueError: there is none.
    """
    labels = data.labels()
    labels = labels.take(pa.array(split_rows(labels, split)))
    if leave_out is not None:
        labels = labels.filter(pa.array(~np.isin(labels["study_id"].to_numpy(), leave_out)))
    if not len(labels):
        raise ValueError(f"{data.store.root} has no record in the split {split!r}")
    return labels


def predict_split(
    model: str,
    data: str,
    split: str,
    leave_out: npt.NDArray[np.int64] | None = None,
    workers: int | None = None,
    here: bool = False,
) -> pa.Table:
    """Predict every record of a split.

    Args:
        model: folder of a trained model; its cached backbones are computed from the waveform.
        data: prepared folder.
        split: "train", "validation", "test", or "all" records.
        leave_out: study_id of records that are not predicted.
        workers: that predict; None takes what the cluster has.
        here: predict in this process instead. Ray Data starts four others, which takes longer than a few hundred records.

    Returns:
        Predictions with labels, ordered by study_id.

    Raises:
        ValueError: the split is empty, or a path is local and the cluster has several nodes.
    """
    refuse_local(data=data, model=model)
    labels = wanted_labels(PreparedData(data), split, leave_out)
    shards = [labels.filter(pc.equal(labels["shard"], shard)) for shard in pc.unique(labels["shard"])]
    if here:
        predict = PredictShard(model, data)
        return pa.concat_tables([predict(shard) for shard in shards]).sort_by("study_id")
    step = (
        PredictShard,
        {"fn_constructor_kwargs": {"model": model, "data": data}, **actors(len(shards), workers=workers)},
    )
    tables = list(map_shards(f"predict {split}", shards, step))
    return pa.concat_tables(tables).sort_by("study_id")
