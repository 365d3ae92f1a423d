"""prepare: a dataset on disk to record shards, labels, exclusions, a card and a manifest.

Each shard is one task and one atomic write. So an interrupted job continues with the shards that are not there, and what
comes out does not depend on interruptions or on the number of workers.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ecgmoe.config_tools import differing_keys, to_dict
from ecgmoe.datasets.folder import list_records
from ecgmoe.datasets.index import build_index
from ecgmoe.datasets.options import IndexOptions
from ecgmoe.datasets.schema import DatasetError, StudyIndex
from ecgmoe.datasets.tables import folder_exists
from ecgmoe.ecg.record import PREPROCESSING_VERSION
from ecgmoe.pipeline.card import write_card
from ecgmoe.pipeline.config import DatasetName, PrepareConfig
from ecgmoe.pipeline.labels import label_table
from ecgmoe.pipeline.nodes import refuse_local
from ecgmoe.pipeline.ray_data import map_shards
from ecgmoe.pipeline.reasons import FrequentReasons
from ecgmoe.pipeline.record_shard import Exclusion, PrepareShard, shard_metadata, stored_columns
from ecgmoe.pipeline.scale import announce
from ecgmoe.pipeline.schema import EXCLUSION_SCHEMA, RECORD_SCHEMA, SCHEMA_VERSION, shard_name
from ecgmoe.pipeline.shards import default_shard_rows, plan_shards
from ecgmoe.pipeline.store import StorageError, Store, digest_of, file_stamp


def prepare(
    dataset: DatasetName,
    root: str,
    out: str,
    *,
    hosp: str | None = None,
    config: PrepareConfig | None = None,
    relabel: bool = False,
    retry_excluded: bool = False,
) -> dict[str, Any]:
    """Run the stage and return the manifest.

    Shards that are there are kept, and labels are written anew from the tables; nothing is done where the stage is
    finished and neither a table nor, for own records, the list of the folder's files has changed.

    Args:
        dataset: which reader.
        root: folder or URL of the dataset.
        out: folder or URL of the prepared data; one dataset and configuration per folder.
        hosp: MIMIC-IV hosp tables; age, sex and potassium are null without them.
        config: quality policy, readers, labels and splits.
        relabel: only rewrite the labels of shards that are all there.
        retry_excluded: read the shards again that hold a record which could not be read, after its file was mended.

    Raises:
        DatasetError: the dataset cannot be read, or no record of it could be.
        ValueError: `out` holds another dataset or configuration; the message names the keys that differ. Or a path is
            local and the cluster has several nodes.
    """
    config = config or PrepareConfig()
    store, root, hosp = Store(out), Store(root).root, Store(hosp).root if hosp else None
    asked = {"dataset": dataset, "root": root, "hosp": hosp, "config": to_dict(config)}
    if not relabel and not retry_excluded and (manifest := finished_manifest(store, asked)):
        print(f"prepare: {store.root} is finished and its tables are unchanged: nothing to do", flush=True)
        return manifest
    # The tables of hosp are read here, in the driver alone.
    refuse_local(root=root, out=store.root)
    index = build_index(dataset, root, hosp, options=config.index)
    # Now, not at the end: what changes while the shards are written has to be noticed by the next call.
    asked["tables"] = {path: _stamp(path) for path in index.tables}
    shards, plan = shard_plan(index, config)
    if relabel and not store.exists("plan.json"):
        raise ValueError(f"{store.root} holds no prepared records: run without --relabel first")
    refuse_other_plan(store, plan, config.index)
    key = digest_of(plan)
    done = finished_shards(store, key, retry_excluded)
    todo = [shard for shard in shards if shard_name(shard["shard"][0].as_py()) not in done]
    if relabel and todo:
        raise ValueError(
            f"{store.root}: {len(todo)} of {len(shards)} shards are not prepared yet: run without --relabel first"
        )
    if done and todo:
        print(f"prepare: {len(done)} of {len(shards)} shards are there already, continuing with the others", flush=True)
    if todo:
        announce(store, sum(len(shard) for shard in todo), len(todo), config.compression)
        # From here on the folder is unfinished, and features of a shard that is written again would belong to another.
        store.remove("inputs.json")
        for features in (store / "features").names():
            store.remove(f"features/{features}/manifest.json")
            for shard in todo:
                store.remove(f"features/{features}/{shard_name(shard['shard'][0].as_py())}")
    for _ in map_shards(
        "prepare",
        todo,
        (
            PrepareShard(root, store.root, config.quality, config.reader, key, config.compression),
            {"num_cpus": 1},
        ),
        records=lambda done: done["records"][0].as_py() + done["excluded"][0].as_py(),
    ):
        pass
    (store / "records").remove_partial()
    manifest = finish(store, index, plan, config, len(shards))
    store.write_json("inputs.json", {**asked, "shard_bytes": (store / "records").sizes()})
    return manifest


def finished_manifest(store: Store, asked: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest of a folder that is finished with the same options and from the same tables; None for any other."""
    if not (store.exists("manifest.json") and store.exists("inputs.json")):
        return None
    manifest, inputs = store.read_json("manifest.json"), store.read_json("inputs.json")
    tables, shard_bytes = inputs.pop("tables"), inputs.pop("shard_bytes", None)
    same = (
        _without_compression(inputs) == _without_compression(asked)
        and (manifest["schema_version"], manifest["prepare_version"]) == (SCHEMA_VERSION, PREPROCESSING_VERSION)
        and all(_stamp(path) == stamp for path, stamp in tables.items())
        and (store / "records").sizes() == shard_bytes
        and all(store.exists(name) for name in ("labels.parquet", "exclusions.parquet", "card.html"))
    )
    return manifest if same else None


def _without_compression(asked: dict[str, Any]) -> dict[str, Any]:
    """Shards that are there keep theirs, and older folders do not know of the option."""
    return {**asked, "config": {key: value for key, value in asked["config"].items() if key != "compression"}}


def _stamp(path: str) -> list[Any] | None:
    """Of a table its size and time; of a folder a digest of the list of its recordings."""
    return [digest_of(list_records(path))] if folder_exists(path) else file_stamp(path)


def shard_plan(index: StudyIndex, config: PrepareConfig) -> tuple[list[pa.Table], dict[str, Any]]:
    """The studies of every shard, and all that decides the shards' content, as plain values."""
    shard_rows = config.shard_rows or default_shard_rows(len(index.table))
    shards = plan_shards(index.table, shard_rows)
    plan = {
        "schema_version": SCHEMA_VERSION,
        "prepare_version": PREPROCESSING_VERSION,
        "dataset": index.source,
        "quality": to_dict(config.quality),
        "reader": to_dict(config.reader),
        "shard_rows": shard_rows,
        "studies": len(index.table),
        "studies_sha256": _digest_of_studies(shards),
    }
    return shards, plan


def _digest_of_studies(shards: list[pa.Table]) -> str:
    digest = hashlib.sha256()
    for shard in shards:
        digest.update(shard["study_id"].to_numpy().astype("<i8").tobytes())
        digest.update("\n".join(shard["path"].to_pylist()).encode())
    return digest.hexdigest()


_SELECTING = ("sampling_rate", "patients", "test_fold", "csv")
"""Options of the index that decide which records there are, not only what their labels say."""


def refuse_other_plan(store: Store, plan: dict[str, Any], index: IndexOptions) -> None:
    """Write the plan into an empty folder, or check it against the one that is there.

    Raises:
        ValueError: with the keys that differ; for another list of records with the options that chose it.
    """
    selection = {"index": {name: value for name, value in to_dict(index).items() if name in _SELECTING}}
    if not store.exists("plan.json"):
        store.write_json("plan.json", {**plan, "selection": selection})
        return
    stored = store.read_json("plan.json")
    before = stored.pop("selection", selection)
    differing = differing_keys(stored, plan)
    if stored["studies_sha256"] != plan["studies_sha256"]:
        # No digest tells what to do. The options that chose other records do, or else the dataset itself has changed.
        differing = [line for line in differing if not line.startswith("studies")]
        changed = f"the dataset's list of records has changed, {stored['studies']:,} -> {plan['studies']:,} studies"
        differing += differing_keys(before, selection) or [changed]
    if differing:
        raise ValueError(
            f"{store.root} was prepared with another configuration ({'; '.join(differing)}): choose another --out, or "
            "delete that folder"
        )


def finished_shards(store: Store, key: str, retry_excluded: bool) -> set[str]:
    """Names of the record shards that are whole and belong to this plan; without those to be read again.

    A shard that was cut off is told and counts as not there.
    """
    finished = set()
    for name in (store / "records").names():
        try:
            with store.parquet(f"records/{name}") as file:
                metadata = shard_metadata(file)
        except StorageError:
            print(f"prepare: {store.path(f'records/{name}')} is torn: preparing it again", flush=True)
            continue
        unreadable = any(stage == "read" for _, stage, _ in metadata.get("exclusions", []))
        if metadata.get("key") == key and not (retry_excluded and unreadable):
            finished.add(name)
    return finished


def finish(store: Store, index: StudyIndex, plan: dict[str, Any], config: PrepareConfig, shards: int) -> dict[str, Any]:
    """Write labels, exclusions, the card and, last, the manifest from the finished shards."""
    # Everything but the waveforms and their beats: what is held here grows by 60 bytes a record.
    columns = [name for name in RECORD_SCHEMA.names if name not in ("signal", "r_peaks")]
    tables, exclusions, digests = [], [(path, "index", reason) for path, reason in index.excluded], []
    for shard in range(shards):
        table, metadata = stored_columns(store, shard, columns)
        tables.append(table)
        exclusions += [(path, stage, reason) for path, stage, reason in metadata["exclusions"]]
        digests.append(metadata["content_sha256"])
    exclusions.sort()
    # First of all, since it is what helps where no record could be used.
    with store.writing("exclusions.parquet") as file:
        rows = list(zip(*exclusions, strict=True)) or [(), (), ()]
        pq.write_table(pa.table([pa.array(row, pa.string()) for row in rows], schema=EXCLUSION_SCHEMA), file)
    stored = pa.concat_tables(tables)
    if not len(stored):
        raise DatasetError(_nothing_usable(store, len(index.table), exclusions))
    labels = label_table(index.table, stored)
    with store.writing("labels.parquet") as file:
        pq.write_table(labels, file, compression="zstd")
    manifest = {
        **plan,
        "index": to_dict(config.index),
        "records_key": digest_of(plan),
        "records_sha256": digest_of(digests),
        "labels_sha256": store.sha256("labels.parquet"),
        "exclusions_sha256": store.sha256("exclusions.parquet"),
        "shards": shards,
        "records": len(labels),
        "excluded": len(exclusions),
        "splits": dict(sorted(Counter(labels["split"].to_pylist()).items())),
    }
    write_card(store, manifest, index, labels, stored, exclusions)
    store.write_json("manifest.json", manifest)
    return manifest


def _nothing_usable(store: Store, studies: int, exclusions: list[Exclusion]) -> str:
    """The most frequent kinds of reason, each with one record's own words, which hold the remedy."""
    reasons = FrequentReasons()
    for path, _, reason in exclusions:
        reasons.add(path, reason)
    return (
        f"none of the {studies:,} records could be used; most frequent reasons: {'; '.join(reasons.most())}. "
        f"{store.path('exclusions.parquet')} names every record: mend them, and prepare into another folder or delete "
        f"{store.root}"
    )
