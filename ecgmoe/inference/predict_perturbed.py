"""What several models say of a split under every perturbation: each record is read once, spoilt alike for all of them.

OUT/plan.json                                  what decides the predictions; written first
OUT/predictions/<run>/shard-00000.parquet      a row group per condition, in the order of the plan

A shard whose files are there is not predicted again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from ecgmoe.allocator import keep_freed_memory
from ecgmoe.config_tools import differing_keys
from ecgmoe.ecg.beats import detect_r_peaks, median_rr_ms
from ecgmoe.ecg.perturb import CLEAN, PERTURB_VERSION, Condition, perturb
from ecgmoe.ecg.quality_policy import QualityFault, QualityPolicy, apply_policy
from ecgmoe.ecg.record import Signal
from ecgmoe.evaluation.columns import CONDITION, DETECTED_RR, REFUSED
from ecgmoe.evaluation.predictions import prediction_table
from ecgmoe.inference.predict_split import BATCH, wanted_labels
from ecgmoe.inference.predictor import Predictor
from ecgmoe.model.batch import ECGBatch, pad_r_peaks
from ecgmoe.model.files import CONFIG, WEIGHTS
from ecgmoe.pipeline.nodes import refuse_local, require_here
from ecgmoe.pipeline.prepared import PreparedData
from ecgmoe.pipeline.ray_data import actors, map_shards
from ecgmoe.pipeline.schema import shard_name
from ecgmoe.pipeline.store import Store, digest_of
from ecgmoe.training.loader import BatchReader

PLAN = "plan.json"
PREDICTIONS = "predictions"

Columns = dict[str, npt.NDArray[Any]]


class PredictPerturbedShard:
    """An actor: predicts the records of one shard under every condition with every model, and writes them.

    Args:
        models: model folder by run.
        data: prepared folder.
        out: folder of the plan.
        conditions: those of the plan.
        seed: of the perturbations.
    """

    def __init__(
        self, models: Mapping[str, str], data: str, out: str, conditions: Sequence[Condition], seed: int
    ) -> None:
        for folder in (*models.values(), data):
            require_here(folder)
        require_here(out, PLAN)
        keep_freed_memory()
        # As the models say it, as in `PredictShard`.
        self.predictors = {run: Predictor(folder, calibrated=False, untrained=True) for run, folder in models.items()}
        self.data, self.out = PreparedData(data), Store(out)
        self.conditions, self.seed = list(conditions), seed

    def __call__(self, labels: pa.Table) -> pa.Table:
        """The block holds the labels of the shard's records; what comes back only counts them."""
        said = self.predict(labels)
        for run, predictor in self.predictors.items():
            path = f"{PREDICTIONS}/{run}/{shard_name(labels['shard'][0].as_py())}"
            tables = [
                as_table(condition, columns, labels, predictor)
                for condition, columns in zip(self.conditions, said[run], strict=True)
            ]
            with self.out.writing(path) as file, pq.ParquetWriter(file, tables[0].schema, compression="zstd") as writer:
                for table in tables:
                    writer.write_table(table, row_group_size=len(table))
        return pa.table({"records": [len(labels)]})

    def predict(self, labels: pa.Table) -> dict[str, list[Columns]]:
        """By run, what it says of the records under each condition; one batch of signals is held at a time."""
        reader = BatchReader(self.data, labels, (), groups_kept=1)
        parts: dict[str, list[list[Columns]]] = {run: [[] for _ in self.conditions] for run in self.predictors}
        for rows in np.array_split(np.arange(len(labels)), -(-len(labels) // BATCH)):
            clean = reader.read(rows)
            for number, condition in enumerate(self.conditions):
                batch, about = self.spoilt(clean, condition)
                if condition == CLEAN:
                    about[DETECTED_RR] = reader.detected_rr_ms(rows)
                for run, predictor in self.predictors.items():
                    parts[run][number].append({**predictor(batch), **about})
        return {run: [_joined(batches) for batches in each] for run, each in parts.items()}

    def spoilt(self, clean: ECGBatch, condition: Condition) -> tuple[ECGBatch, Columns]:
        """The batch under a condition, its R peaks found anew as in a file, and what its records are like."""
        signals = list(clean.signal.numpy())
        peaks = [each[each >= 0] for each in clean.r_peaks.numpy()]
        batch = clean
        if condition != CLEAN:
            signals = [
                perturb(signal, beats, condition, seed=self.seed, study_id=study_id)
                for signal, beats, study_id in zip(signals, peaks, clean.study_id.tolist(), strict=True)
            ]
            peaks = [detect_r_peaks(signal) for signal in signals]
            batch = ECGBatch(
                signal=torch.from_numpy(np.stack(signals)),
                r_peaks=pad_r_peaks(peaks),
                study_id=clean.study_id,
                patient_id=clean.patient_id,
            )
        rr = [median_rr_ms(each) for each in peaks]
        return batch, {
            DETECTED_RR: np.array([np.nan if each is None else each for each in rr], dtype=np.float32),
            REFUSED: np.array([refused(signal) for signal in signals]),
        }


def _joined(batches: Sequence[Columns]) -> Columns:
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def refused(signal: Signal) -> bool:
    """Whether a reader with default options would not let this record through, as `jobs/predict.py` has it.

    The defaults refuse a record that is short, too, so that what is missing at its end counts like the rest.
    """
    try:
        apply_policy(signal, QualityPolicy())
    except QualityFault:
        return True
    return False


def as_table(condition: Condition, columns: Columns, labels: pa.Table, predictor: Predictor) -> pa.Table:
    """A predictions table with the condition in front of each row."""
    rr = columns[DETECTED_RR]
    more = {DETECTED_RR: pa.array(rr, pa.float32(), mask=np.isnan(rr)), REFUSED: pa.array(columns[REFUSED])}
    table = prediction_table(columns, labels, predictor.tasks, **more)
    strength = pa.array([condition.strength] * len(table), pa.float64())
    named = pa.array([condition.perturbation] * len(table), pa.string())
    return table.add_column(0, CONDITION[1], strength).add_column(0, CONDITION[0], named)


def predict_perturbed(
    models: Mapping[str, str],
    data: str,
    split: str,
    conditions: Sequence[Condition],
    *,
    seed: int,
    out: Store,
    leave_out: npt.NDArray[np.int64] | None = None,
) -> None:
    """Predict a split under every condition with every model; what is there already is left.

    Args:
        models: model folder by run.
        data: prepared folder.
        split: "validation", "test", or "all" records.
        conditions: the first is `CLEAN`.
        seed: of the perturbations.
        out: folder for the plan and the predictions.
        leave_out: study_id of records that are not predicted.

    Raises:
        ValueError: the split is empty, the folder holds what another call decided otherwise, or a path is local and the
            cluster has several nodes.
        StorageError: the folder cannot be written.
    """
    prepared = PreparedData(data)
    refuse_local(data=prepared.store.root, out=out.root, storage=next(iter(models.values())))
    labels = wanted_labels(prepared, split, leave_out)
    refuse_other_plan(out, plan_of(models, prepared, labels, conditions, seed))
    there = [set((out / PREDICTIONS / run).names()) for run in models]
    numbers = [each for each in pc.unique(labels["shard"]).to_pylist() if not all(shard_name(each) in t for t in there)]
    shards = [labels.filter(pc.equal(labels["shard"], number)) for number in numbers]
    todo = sum(len(shard) for shard in shards)
    if todo < len(labels):
        print(f"robustness: {len(labels) - todo:,} of {len(labels):,} records are there already", flush=True)
    if not shards:
        return
    arguments = {"models": dict(models), "data": prepared.store.root, "out": out.root, "conditions": conditions}
    step = PredictPerturbedShard, {"fn_constructor_kwargs": {**arguments, "seed": seed}, **actors(len(shards))}
    stage = f"robustness: {split} under {len(conditions)} conditions with {len(models)} models"
    for _ in map_shards(stage, shards, step, records=lambda table: table["records"][0].as_py()):
        pass


def plan_of(
    models: Mapping[str, str], data: PreparedData, labels: pa.Table, conditions: Sequence[Condition], seed: int
) -> dict[str, Any]:
    """All that decides the predictions of the records of `labels`."""
    return {
        "version": PERTURB_VERSION,
        "seed": seed,
        "data": {key: data.manifest[key] for key in ("dataset", "records_key", "labels_sha256")},
        "records": digest_of(labels["study_id"].to_pylist())[:16],
        "models": {
            run: digest_of([Store(folder).sha256(name) for name in (CONFIG, WEIGHTS)])[:16]
            for run, folder in models.items()
        },
        "conditions": {
            name: [condition.strength for condition in group]
            for name, group in groupby(conditions, lambda condition: condition.perturbation)
        },
    }


def refuse_other_plan(out: Store, plan: dict[str, Any]) -> None:
    """Write the plan, unless it is there.

    Raises:
        ValueError: another one is there; the message names what differs.
    """
    if not out.exists(PLAN):
        out.write_json(PLAN, plan)
        return
    if differing := differing_keys(out.read_json(PLAN), plan):
        raise ValueError(f"{out.root} holds other curves ({'; '.join(differing)}): choose another --out, or delete it")


def conditioned(out: Store, run: str, conditions: Sequence[Condition]) -> Iterator[tuple[Condition, pa.Table]]:
    """Every condition of a run with its predictions, ordered by study_id; one at a time is held."""
    folder = out / PREDICTIONS / run
    for number, condition in enumerate(conditions):
        groups = []
        for name in folder.names():
            with folder.parquet(name) as file:
                groups.append(file.read_row_group(number))
        yield condition, pa.concat_tables(groups).sort_by("study_id")
