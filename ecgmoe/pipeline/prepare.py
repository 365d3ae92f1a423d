"""prepare: a dataset on disk to record shards, labels, exclusions and a manifest.

Each shard is one task and one atomic write, and carries its own exclusions and the key of the plan that it belongs to in
its Parquet metadata. So an interrupted job continues with the shards that are not there, and a shard of another
configuration is never taken for one of this.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecgmoe.config_tools import differing_keys, to_dict
from ecgmoe.datasets.index import build_index
from ecgmoe.datasets.schema import DatasetError, StudyIndex
from ecgmoe.ecg.beats import detect_r_peaks, median_rr_ms
from ecgmoe.ecg.quality import QualityPolicy, assess
from ecgmoe.ecg.record import RecordFault
from ecgmoe.ecg.wfdb_file import read_wfdb
from ecgmoe.pipeline.config import ROW_GROUP_ROWS, DatasetName, PrepareConfig
from ecgmoe.pipeline.labels import label_table
from ecgmoe.pipeline.ray_data import map_shards
from ecgmoe.pipeline.schema import (
    EXCLUSION_SCHEMA,
    RECORD_SCHEMA,
    SCHEMA_VERSION,
    shard_name,
    signals_to_array,
)
from ecgmoe.pipeline.shards import default_shard_rows, plan_shards
from ecgmoe.pipeline.store import Store, digest_of

PREPARE_VERSION = 2
"""Raised when the same waveform file gives another record (conversion, quality, R peaks)."""

_METADATA = b"ecgmoe"


def record_row(study_id: int, path: str, policy: QualityPolicy) -> dict[str, Any]:
    """Read one ECG and derive all that the waveform determines.

    Raises:
        RecordFault: with the reason to exclude the record.
    """
    signal = read_wfdb(path)
    quality = assess(signal)
    if reason := policy.reason_to_exclude(quality):
        raise RecordFault(reason)
    r_peaks = detect_r_peaks(signal)
    return {
        "study_id": study_id,
        "signal": signal,
        "r_peaks": r_peaks,
        "rr_ms": median_rr_ms(r_peaks),
        **{f"quality_{name}": value for name, value in asdict(quality).items()},
        "quality_few_beats": len(r_peaks) < 3,
    }


def records_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows of `record_row` as a table of `RECORD_SCHEMA`."""
    arrays = [
        signals_to_array([row["signal"] for row in rows])
        if field.name == "signal"
        else pa.array([row[field.name] for row in rows], type=field.type)
        for field in RECORD_SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=RECORD_SCHEMA)


class PrepareShard:
    """Writes one shard: the block holds shard, study_id and path of its studies."""

    def __init__(self, root: str, out: str, policy: QualityPolicy, key: str) -> None:
        self.root, self.out, self.policy, self.key = root.rstrip("/"), out, policy, key

    def __call__(self, block: pa.Table) -> pa.Table:
        shard, exclusions, rows, written = block["shard"][0].as_py(), [], [], 0
        with Store(self.out).writing(f"records/{shard_name(shard)}") as file:
            writer = pq.ParquetWriter(file, RECORD_SCHEMA, compression="zstd", use_dictionary=False)
            for study_id, path in zip(block["study_id"].to_pylist(), block["path"].to_pylist(), strict=True):
                try:
                    rows.append(record_row(study_id, f"{self.root}/{path}", self.policy))
                except RecordFault as fault:
                    exclusions.append([path, str(fault)])
                if len(rows) == ROW_GROUP_ROWS:
                    writer.write_table(records_table(rows))
                    written, rows = written + len(rows), []
            if rows:
                writer.write_table(records_table(rows))
            writer.add_key_value_metadata({_METADATA: json.dumps({"key": self.key, "exclusions": exclusions}).encode()})
            writer.close()
        return pa.table({"shard": [shard], "records": [written + len(rows)], "excluded": [len(exclusions)]})


def finished_shards(store: Store, key: str) -> set[str]:
    """Names of the record shards that are whole and belong to this plan."""
    finished = set()
    for name in (store / "records").names():
        with store.parquet(f"records/{name}") as file:
            if _shard_metadata(file).get("key") == key:
                finished.add(name)
    return finished


def _shard_metadata(file: pq.ParquetFile) -> dict[str, Any]:
    return json.loads((file.metadata.metadata or {}).get(_METADATA, b"{}"))


def prepare(
    dataset: DatasetName,
    root: str,
    out: str,
    *,
    hosp: str | None = None,
    config: PrepareConfig | None = None,
    relabel: bool = False,
) -> dict[str, Any]:
    """Run the stage and return the manifest. Shards that are there are kept; labels are written anew from the tables.

    Args:
        dataset: which reader.
        root: folder or URL of the dataset.
        out: folder or URL of the prepared data; one dataset and configuration per folder.
        hosp: MIMIC-IV hosp tables; age, sex and potassium are null without them.
        config: quality policy, labels and splits.
        relabel: only rewrite the labels of shards that are all there.

    Raises:
        DatasetError: the dataset cannot be read, or no record of it could be.
        ValueError: `out` holds another dataset or configuration; the message names the keys that differ.
    """
    config = config or PrepareConfig()
    store = Store(out)
    index = build_index(dataset, root, hosp, options=config.index)
    shards, plan = shard_plan(index, config)
    refuse_other_plan(store, plan)
    key = digest_of(plan)
    done = finished_shards(store, key)
    todo = [shard for shard in shards if shard_name(shard["shard"][0].as_py()) not in done]
    if relabel and todo:
        raise ValueError(
            f"{store.root}: {len(todo)} of {len(shards)} shards are not prepared yet: run without --relabel first"
        )
    if done and todo:
        print(f"prepare: {len(done)} of {len(shards)} shards are there already, continuing with the others", flush=True)
    for _ in map_shards(
        "prepare",
        todo,
        PrepareShard(Store(root).root, store.root, config.quality, key),
        records=lambda done: done["records"][0].as_py() + done["excluded"][0].as_py(),
        num_cpus=1,
    ):
        pass
    return finish(store, index, plan, config, len(shards))


def shard_plan(index: StudyIndex, config: PrepareConfig) -> tuple[list[pa.Table], dict[str, Any]]:
    """The studies of every shard, and all that decides the shards' content, as plain values."""
    shard_rows = config.shard_rows or default_shard_rows(len(index.table))
    shards = plan_shards(index.table, shard_rows)
    plan = {
        "schema_version": SCHEMA_VERSION,
        "prepare_version": PREPARE_VERSION,
        "dataset": index.source,
        "quality": to_dict(config.quality),
        "shard_rows": shard_rows,
        "studies": len(index.table),
        "studies_sha256": digest_of([index.table["study_id"].to_pylist(), index.table["path"].to_pylist()]),
    }
    return shards, plan


def refuse_other_plan(store: Store, plan: dict[str, Any]) -> None:
    """Write the plan into an empty folder, or check it against the one that is there.

    Raises:
        ValueError: with the keys that differ.
    """
    if store.exists("plan.json"):
        differing = differing_keys(store.read_json("plan.json"), plan)
        if differing:
            raise ValueError(
                f"{store.root} was prepared with another configuration ({'; '.join(differing)}): choose another --out, or "
                "delete that folder"
            )
    else:
        store.write_json("plan.json", plan)


def finish(store: Store, index: StudyIndex, plan: dict[str, Any], config: PrepareConfig, shards: int) -> dict[str, Any]:
    """Write labels, exclusions and the manifest from the finished shards; skip what would come out the same."""
    records, exclusions = [], [list(pair) for pair in index.excluded]
    for shard in range(shards):
        with store.parquet(f"records/{shard_name(shard)}") as file:
            table = file.read(columns=["study_id", "rr_ms"])
            exclusions += _shard_metadata(file)["exclusions"]
        records.append(
            table.append_column("shard", pa.array(np.full(len(table), shard, dtype=np.int32))).append_column(
                "row", pa.array(np.arange(len(table), dtype=np.int32))
            )
        )
    stored = pa.concat_tables(records)
    if not len(stored):
        reasons = Counter(reason for _, reason in exclusions).most_common(3)
        raise DatasetError(
            f"none of the {len(index.table):,} records could be used; most frequent reasons: "
            + "; ".join(f"{reason} ({count})" for reason, count in reasons)
            + f". Mend them, and prepare into another folder or delete {store.root}"
        )
    labels = label_table(index.table, stored)
    with store.writing("labels.parquet") as file:
        pq.write_table(labels, file, compression="zstd")
    with store.writing("exclusions.parquet") as file:
        columns = list(zip(*sorted(exclusions), strict=True)) or [(), ()]
        pq.write_table(pa.table([pa.array(column, pa.string()) for column in columns], schema=EXCLUSION_SCHEMA), file)
    splits = Counter(labels["split"].to_pylist())
    manifest = {
        **plan,
        "index": to_dict(config.index),
        "records_key": digest_of(plan),
        "labels_sha256": store.sha256("labels.parquet"),
        "shards": shards,
        "records": len(labels),
        "excluded": len(exclusions),
        "splits": dict(sorted(splits.items())),
    }
    store.write_json("manifest.json", manifest)
    return manifest
