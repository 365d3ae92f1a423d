"""Predicting a split of prepared data beside a bare loop of the same passes, and the figures that are made of the predictions.

Ours is what one actor of Ray Data does, called in this process: Ray's own start and its tasks are not in it. Of each shard it
reads and decodes the records, passes them through the model in batches, and makes a table of predictions in their units with
labels and routing. With the folder of the recordings, an actor of `jobs/predict.py` is measured too, which reads them from
there, judges them, finds their R peaks and writes more columns. The bare loop is the model of `from_pretrained` over the very
batches of the split, in memory from the start, and nothing else. All in one thread of one process, which keeps freed memory
as an actor does.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from ecgmoe.benchmark.paired import interleaved, ratio
from ecgmoe.ecg.quality_policy import QualityPolicy
from ecgmoe.ecg.reader_options import ReaderOptions
from ecgmoe.evaluation.absent import absent
from ecgmoe.evaluation.constant import Constants
from ecgmoe.evaluation.metrics import evaluate
from ecgmoe.evaluation.report import report_files
from ecgmoe.evaluation.subgroups import class_metrics, confusion, subgroup_metrics
from ecgmoe.inference.predict_files import PLAN, PredictFiles
from ecgmoe.inference.predict_split import BATCH, PredictShard, wanted_labels
from ecgmoe.model.batch import ECGBatch
from ecgmoe.model.ecg_moe import ECGMoE
from ecgmoe.pipeline.prepared import PreparedData
from ecgmoe.tasks import Task
from ecgmoe.training.loader import BatchReader

EVALUATIONS = 3
"""Rounds of the evaluation, which takes seconds however few the records are: its intervals come of a bootstrap."""


def predict_benchmark(
    model: str, data: str, *, root: str | None = None, records: int = 2000, pairs: int = 10, split: str = "test"
) -> dict[str, Any]:
    """Alternate ours and the bare loop over the same records, then evaluate these predictions.

    Args:
        model: folder of a trained model.
        data: prepared folder.
        root: the recordings that it was prepared from; None leaves out predicting from files.
        records: at most so many of the split, the first ones.
        pairs: rounds that count.
        split: whose records are predicted.

    Returns:
        "predict" by way, "prepared" and with `root` "files": records per second and the ratio to the bare loop's, which is
        its share: 1 would be no overhead; and "evaluation": seconds of the figures with their intervals, of the report, and
        milliseconds per record of both.

    Raises:
        ValueError: the split is empty.
    """
    torch.set_num_threads(1)
    prepared = PreparedData(data)
    labels = first_rows(wanted_labels(prepared, split), records)
    shards = [labels.filter(pc.equal(labels["shard"], shard)) for shard in pc.unique(labels["shard"])]
    actor, bare = PredictShard(model, data), ECGMoE.from_pretrained(model)
    bare.to(actor.predictor.device)
    batches = [batch.to(actor.predictor.device) for shard in shards for batch in batches_of(prepared, shard)]
    ways: dict[str, Callable[[], Any]] = {"prepared": lambda: [actor(shard) for shard in shards]}
    if root is not None:
        # A block for each shard: in the job it is up to 256 records, and batches would be other ones than the bare loop's.
        files, blocks = _file_actor(model), [_block(shard, root) for shard in shards]
        ways["files"] = lambda: [files.predict(block) for block in blocks]
    every: list[Callable[[], Any]] = [*ways.values(), partial(passes, bare, batches)]
    *ours, theirs = interleaved([partial(_rate, way, len(labels)) for way in every], pairs)
    predictions = pa.concat_tables(ways["prepared"]()).sort_by("study_id")
    return {
        "records": len(labels),
        "batch": BATCH,
        "passes": len(batches),
        "pairs": pairs,
        "parameters": sum(parameter.numel() for parameter in bare.parameters()),
        "device": actor.predictor.device.type,
        "bare_records_per_second": statistics.median(theirs),
        "predict": {
            name: {"records_per_second": statistics.median(found), "bare_share": asdict(ratio(found, theirs))}
            for name, found in zip(ways, ours, strict=True)
        },
        "evaluation": _evaluation(predictions, prepared.labels(), actor.predictor.tasks),
    }


def first_rows(labels: pa.Table, most: int) -> pa.Table:
    """At most so many of these rows, shard by shard, so that batches are as full as the whole split's."""
    return labels.sort_by([("shard", "ascending"), ("row", "ascending")]).slice(0, most)


def batches_of(prepared: PreparedData, labels: pa.Table) -> list[ECGBatch]:
    """The batches in which `PredictShard` takes the records of a shard."""
    reader = BatchReader(prepared, labels, (), groups_kept=1)
    return [reader.read(rows) for rows in np.array_split(np.arange(len(labels)), -(-len(labels) // BATCH))]


@torch.inference_mode()
def passes(model: ECGMoE, batches: list[ECGBatch]) -> list[dict[str, torch.Tensor]]:
    """What the model gives by task for each batch, on the CPU: a GPU is then done with it."""
    return [{name: value.cpu() for name, value in model(batch).predictions.items()} for batch in batches]


def _file_actor(model: str) -> PredictFiles:
    """An actor of `jobs/predict.py`; it is asked for rows alone, which are not written."""
    with tempfile.TemporaryDirectory(prefix="ecgmoe-benchmark-") as parts:
        # It looks whether its folder is there when it is made.
        (Path(parts) / PLAN).write_text("{}")
        return PredictFiles(
            model=model, version="benchmark", policy=QualityPolicy(), reader=ReaderOptions(), parts=parts
        )


def _block(labels: pa.Table, root: str) -> pa.Table:
    """The records as `PredictFiles` takes them."""
    paths = labels["path"].to_pylist()
    return pa.table({"path": paths, "record": [f"{root}/{path}" for path in paths]})


def _rate(way: Callable[[], Any], records: int) -> float:
    """Records per second."""
    started = time.perf_counter()
    way()
    return records / (time.perf_counter() - started)


def _evaluation(predictions: pa.Table, labels: pa.Table, tasks: Sequence[Task]) -> dict[str, Any]:
    """Seconds (medians) of what `jobs/evaluate.py` makes of predictions, without its linear baseline, page and pictures."""
    training = labels.filter(pc.equal(labels["split"], "train"))
    constants = Constants.fit(training, tasks)
    figures, reports = [], []
    for _ in range(EVALUATIONS):
        started = time.perf_counter()
        metrics = {
            **evaluate(predictions, constants, tasks),
            "subgroups": subgroup_metrics(predictions, tasks),
            "confusion": {task.name: confusion(predictions, task) for task in tasks if task.kind != "regression"},
            "classes": {task.name: class_metrics(predictions, task) for task in tasks if task.kind == "multiclass"},
            "absent": absent(predictions, training, tasks),
        }
        between = time.perf_counter()
        report_files(metrics, "benchmark", [])
        figures.append(between - started)
        reports.append(time.perf_counter() - between)
    seconds, report = statistics.median(figures), statistics.median(reports)
    return {
        "rounds": EVALUATIONS,
        "figures_s": seconds,
        "report_s": report,
        "ms_per_record": 1e3 * (seconds + report) / len(predictions),
    }
