"""Predictions of a cross-validation's cells, without labels and patients: for others to check, and to go on from.

results/<variant>.parquet    a row per record, fold and seed; its metadata say what was trained on which data

They are small and hold nothing of the data but study numbers and detected RR intervals: labels are joined from the prepared
folder, which has to be the same. So a comparison whose seeds were trained on several machines is reported as one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgmoe.config import RunConfig
from ecgmoe.config_tools import require, to_dict
from ecgmoe.evaluation.columns import ARRHYTHMIA_PROBABILITIES, DETECTED_RR, PREDICTION
from ecgmoe.evaluation.predictions import prediction_table
from ecgmoe.inference.predict_split import wanted_labels
from ecgmoe.pipeline.prepared import PreparedData
from ecgmoe.pipeline.store import Store, digest_of
from ecgmoe.tasks import Task
from ecgmoe.training.identity import compare_identities
from ecgmoe.tuning.cells import FOLD, SEED, Cell

FOLDER = "results"
ABOUT = b"ecgmoe"
"""Key of the metadata."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """Of finished cells.

    Attributes:
        tables: predictions by cell, as its run holds them but for the routing.
        revisions: of the code that trained it, by cell.
        backbones: of each variant as its model's config.json describes them: a report says what each of them has seen.
    """

    tables: dict[Cell, pa.Table] = field(default_factory=dict)
    revisions: dict[Cell, str] = field(default_factory=dict)
    backbones: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


def identities_of(
    configs: Mapping[str, RunConfig], data: PreparedData, folds: int, tasks: Sequence[Task]
) -> dict[str, dict[str, Any]]:
    """What results of each variant stand for, wherever the data lie and whatever the seed.

    Those whose identities differ do not belong together.
    """
    columns = list(dict.fromkeys(["study_id", "patient_id", *(task.label for task in tasks)]))
    about = {
        **{key: data.manifest[key] for key in ("dataset", "records_key")},
        # Not the digest of the file: another version of pyarrow writes the same labels otherwise.
        "labels": digest_of(data.labels().select(columns).sort_by("study_id").to_pydict()),
        "folds": folds,
    }
    return {
        name: {"config": to_dict(replace(config, training=replace(config.training, seed=0))), "data": about}
        for name, config in configs.items()
    }


def write_results(
    store: Store, variant: str, table: pa.Table, tasks: Sequence[Task], about: Mapping[str, Any], found: Results
) -> None:
    """Write results/<variant>.parquet.

    Args:
        store: of the cross-validation.
        variant: that was trained.
        table: its predictions, with columns seed and fold.
        tasks: of the model.
        about: as `identities_of` gives it for this variant.
        found: revisions of its cells, and its backbones.
    """
    revisions = {cell.run: revision for cell, revision in found.revisions.items() if cell.variant == variant}
    metadata = json.dumps({**about, "backbones": found.backbones[variant], "revisions": revisions})
    columns = table.select(["study_id", SEED, FOLD, *map(_column, tasks), DETECTED_RR])
    with store.writing(f"{FOLDER}/{variant}.parquet") as file:
        # Hardly two predictions are alike: dictionaries of them take 1.4 times the space.
        pq.write_table(
            columns.replace_schema_metadata({ABOUT: metadata}), file, compression="zstd", use_dictionary=False
        )


def read_results(
    folders: Sequence[str],
    identities: Mapping[str, dict[str, Any]],
    data: PreparedData,
    folds: Sequence[PreparedData],
    tasks: Sequence[Task],
) -> Results:
    """What other cross-validations of the same kind have computed.

    Args:
        folders: each with a file for some of the variants.
        identities: as `identities_of` gives them; files of other variants are left.
        data: prepared folder, whose labels are joined.
        folds: of it, whose test splits these predictions must be of.
        tasks: of the model.

    Raises:
        ValueError: a folder has nothing of these variants, a file is of another configuration, other data or other folds, or
            is not finite, or two have the same cell.
        StorageError: a file is torn.
    """
    labels, found = data.labels(), Results()
    tested = [sorted(wanted_labels(fold, "test")["study_id"].to_pylist()) for fold in folds] if folders else []
    for folder in folders:
        store = Store(folder)
        names = [variant for variant in identities if store.exists(f"{variant}.parquet")]
        require(
            bool(names),
            f"{store.root} has none of {', '.join(f'{each}.parquet' for each in identities)}: name the folder {FOLDER} of "
            "another cross-validation",
        )
        for variant in names:
            path = store.path(f"{variant}.parquet")
            table, about = _read(store, variant)
            backbones, revisions = about.pop("backbones"), about.pop("revisions")
            _, other = compare_identities(about, identities[variant])
            if other:
                raise ValueError(
                    f"{path} is of another comparison ({'; '.join(other)}): leave it out, or take its options"
                )
            for cell, rows in _cells(variant, table):
                require(cell not in found.tables, f"{cell.run} is in two of {', '.join(folders)}: leave one out")
                require(
                    sorted(rows["study_id"].to_pylist()) == tested[cell.fold or 0],
                    f"{path} has other records in fold {cell.fold} than the folds of this data: they were cut in another way",
                )
                found.tables[cell] = _with_labels(rows, labels, tasks, path)
                found.revisions[cell] = revisions[cell.run]
            found.backbones[variant] = backbones
    return found


def with_own(found: Results, store: Store, cells: Sequence[Cell]) -> Results:
    """These and the revisions and backbones of cells whose runs lie in the folder of the cross-validation."""
    revisions, backbones = dict(found.revisions), dict(found.backbones)
    for cell in cells:
        run = store / cell.run
        revisions[cell] = run.read_json("config.json")["code"]["revision"]
        if cell.variant not in backbones:
            backbones[cell.variant] = run.read_json("model/config.json")["backbones"]
    return replace(found, revisions=revisions, backbones=backbones)


def _column(task: Task) -> str:
    return ARRHYTHMIA_PROBABILITIES if task.kind == "multiclass" else PREDICTION[task.name]


def _read(store: Store, variant: str) -> tuple[pa.Table, dict[str, Any]]:
    with store.parquet(f"{variant}.parquet") as file:
        table = file.read()
    about = (table.schema.metadata or {}).get(ABOUT)
    if about is None:
        path = store.path(f"{variant}.parquet")
        raise ValueError(f"{path} does not say what was trained: name the folder {FOLDER} of a cross-validation")
    return table, json.loads(about)


def _cells(variant: str, table: pa.Table) -> list[tuple[Cell, pa.Table]]:
    fold, seed = table[FOLD].to_numpy(), table[SEED].to_numpy()
    pairs = sorted(set(zip(seed.tolist(), fold.tolist(), strict=True)))
    return [
        (Cell(variant=variant, fold=f, seed=s), table.filter(pa.array((fold == f) & (seed == s)))) for s, f in pairs
    ]


def _with_labels(rows: pa.Table, labels: pa.Table, tasks: Sequence[Task], path: str) -> pa.Table:
    own = labels.take(pc.index_in(rows["study_id"], value_set=labels["study_id"].combine_chunks()))
    values = {}
    for task in tasks:
        column = rows[_column(task)].to_numpy()
        values[task.name] = np.stack(column) if task.kind == "multiclass" else column
        require(
            bool(np.isfinite(values[task.name]).all()),
            f"{path} has predictions of the task {task.name} that are missing or not finite: leave it out",
        )
    return prediction_table(values, own, tasks, **{DETECTED_RR: rows[DETECTED_RR]})
