"""A sample of patients: a prepared folder that shares its records with another and leaves most patients unused."""

from __future__ import annotations

import numpy as np

from ecgmoe.config_tools import require
from ecgmoe.datasets.schema import UNUSED
from ecgmoe.pipeline.folds import is_there, write_view
from ecgmoe.pipeline.prepared import PreparedData
from ecgmoe.pipeline.store import Store


def write_sample(data: str, out: str, patients: int, *, seed: int = 0, fewer: bool = False) -> str:
    """Draw patients, each with all its records, which stay in their splits; what is there already is left.

    Args:
        data: prepared folder.
        out: folder for the sample.
        patients: how many.
        seed: another one draws others.
        fewer: take what there is where that is less.

    Returns:
        The folder, as prepared data.

    Raises:
        ValueError: `data` has fewer patients with a split.
        StorageError: `data` is not prepared, or `out` holds another sample.
    """
    whole, store = PreparedData(data), Store(out)
    labels = whole.labels()
    split = np.array(labels["split"].to_pylist(), dtype=object)
    patient = labels["patient_id"].to_numpy()
    there = np.unique(patient[split != UNUSED])
    require(
        fewer or len(there) >= patients,
        f"{whole.store.root} has {len(there):,} patients and the protocol takes {patients:,}: prepare more records",
    )
    about = {
        "patients": patients,
        "seed": seed,
        **{key: whole.manifest[key] for key in ("records_key", "labels_sha256")},
    }
    if is_there(store, "sample", about):
        return store.root
    drawn = np.random.default_rng(seed).choice(there, min(patients, len(there)), replace=False)
    split[~np.isin(patient, drawn)] = UNUSED
    write_view(whole, store, split, sample=about)
    return store.root
