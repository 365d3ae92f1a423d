"""Cross-validation: prepared folders that share their records and differ in who trains, validates and tests.

A fold is a folder with labels and a manifest of its own, whose records and features are those of the data that it was cut
from. All that takes a prepared folder takes it.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.model_selection import StratifiedGroupKFold

from ecgmoe.config_tools import require
from ecgmoe.datasets.schema import UNUSED
from ecgmoe.pipeline.nodes import refuse_local
from ecgmoe.pipeline.prepared import PreparedData
from ecgmoe.pipeline.store import StorageError, Store

VALIDATION_PARTS = 8
"""One in so many of a fold's training patients validates: it chooses the checkpoint and calibrates."""

LEAST_PATIENTS = 20


def write_folds(data: str, out: str, *, folds: int, seed: int = 0) -> list[str]:
    """Cut everything but the test split, which stays closed, by patients into folds; what is there already is left.

    Rhythm classes are spread over the folds as evenly as patients allow (scikit-learn's StratifiedGroupKFold).

    Args:
        data: prepared folder.
        out: folder for the folds, OUT/0, OUT/1, ...
        folds: their number, at least 2.
        seed: another one gives other folds.

    Returns:
        The folders, as prepared data.

    Raises:
        ValueError: fewer than 2 folds, or too few patients for so many.
        StorageError: `data` is not prepared, `out` holds other folds or cannot be written.
    """
    require(folds >= 2, f"folds must be at least 2, got {folds}")
    whole = PreparedData(data)
    if "records_from" in whole.manifest:
        raise StorageError(f"{whole.store.root} is a fold itself: name the folder {whole.records.root} it was cut from")
    store = Store(out)
    refuse_local(data=whole.store.root, storage=store.root)
    cut = {
        "folds": folds,
        "seed": seed,
        **{key: whole.manifest[key] for key in ("records_key", "labels_sha256")},
    }
    labels = whole.labels()
    roots = []
    for fold, split in enumerate(_splits(labels, folds, seed)):
        each = store / str(fold)
        roots.append(each.root)
        if each.exists("manifest.json"):
            if each.read_json("manifest.json")["fold"] != {**cut, "fold": fold}:
                raise StorageError(
                    f"{each.root} is a fold of other data, another number of folds or another seed: choose another name"
                )
            continue
        place = labels.schema.get_field_index("split")
        own = labels.set_column(
            place, labels.schema.field("split"), pa.array(split).cast(labels.schema.field("split").type)
        )
        with each.writing("labels.parquet") as file:
            pq.write_table(own, file, compression="zstd")
        names, counts = np.unique(split.astype(str), return_counts=True)
        manifest: dict[str, Any] = {
            **whole.manifest,
            "labels_sha256": each.sha256("labels.parquet"),
            "splits": dict(zip(names.tolist(), counts.tolist(), strict=True)),
            "records_from": whole.store.root,
            "fold": {**cut, "fold": fold},
        }
        each.write_json("manifest.json", manifest)
    return roots


def rows_of_a_fold(labels: pa.Table, folds: int) -> dict[str, int]:
    """About how many records train and validate in a fold, before it is cut."""
    used = sum(split not in ("test", UNUSED) for split in labels["split"].to_pylist())
    rest = used - used // folds
    return {"train": rest - rest // VALIDATION_PARTS, "validation": rest // VALIDATION_PARTS}


def _splits(labels: pa.Table, folds: int, seed: int) -> list[npt.NDArray[np.object_]]:
    """Split of every record, by fold."""
    given = np.array(labels["split"].to_pylist(), dtype=object)
    used = np.flatnonzero((given != "test") & (given != UNUSED))
    patient = labels["patient_id"].to_numpy()[used]
    rhythm = labels["rhythm15"].to_pandas().fillna(-1).to_numpy(int)[used]
    patients = len(np.unique(patient))
    require(
        patients >= max(LEAST_PATIENTS, folds * 2),
        f"{patients} patients outside the test split are too few for {folds} folds",
    )
    splits = []
    for training, tested in _cut(folds, seed, rhythm, patient):
        split = np.full(len(given), UNUSED, dtype=object)
        split[used[tested]] = "test"
        trains, validates = next(iter(_cut(VALIDATION_PARTS, seed, rhythm[training], patient[training])))
        split[used[training[trains]]], split[used[training[validates]]] = "train", "validation"
        splits.append(split)
    return splits


def _cut(parts: int, seed: int, rhythm: npt.NDArray[Any], patient: npt.NDArray[Any]) -> Any:
    with warnings.catch_warnings():
        # It says that a class has fewer members than parts: it is spread as far as it goes.
        warnings.simplefilter("ignore", UserWarning)
        splitter = StratifiedGroupKFold(parts, shuffle=True, random_state=seed)
        return list(splitter.split(np.zeros(len(rhythm)), rhythm, patient))
