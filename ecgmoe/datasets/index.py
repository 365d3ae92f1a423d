"""One entry for all datasets: a folder on disk becomes an index of studies."""

from __future__ import annotations

from dataclasses import fields
from typing import Literal

from ecgmoe.datasets.cinc2021 import read_cinc2021
from ecgmoe.datasets.ludb import read_ludb
from ecgmoe.datasets.mimic import read_mimic
from ecgmoe.datasets.options import IndexOptions
from ecgmoe.datasets.ptbxl import read_ptbxl
from ecgmoe.datasets.schema import DatasetError, StudyIndex
from ecgmoe.datasets.tables import folder_exists, join
from ecgmoe.datasets.wfdb_folder import read_wfdb_folder

_MIMIC_OPTIONS = {
    "split_seed",
    "split_shares",
    "split_file",
    "patients",
    "potassium_window_minutes",
    "hedged_statements",
}
_USED_OPTIONS = {
    "simulated": _MIMIC_OPTIONS,
    "mimic-iv-ecg": _MIMIC_OPTIONS,
    "ptbxl": {"sampling_rate", "test_fold", "rr_features"},
    "ludb": {"split_seed", "split_shares"},
    "cinc2021": {"split_seed", "split_shares"},
    "wfdb": {"split_seed", "split_shares", "csv"},
}


def build_index(
    dataset: Literal["simulated", "mimic-iv-ecg", "ptbxl", "ludb", "cinc2021", "wfdb"],
    root: str,
    hosp: str | None = None,
    *,
    options: IndexOptions | None = None,
) -> StudyIndex:
    """Index a dataset: one row per ECG with its path, patient, split and labels. No waveform is read.

    Args:
        dataset: which reader.
        root: folder or URL of the dataset.
        hosp: MIMIC-IV hosp tables; simulated data have theirs in root/hosp.
        options: labels and splits.

    Raises:
        DatasetError: the dataset cannot be read; the message names the file or column and the remedy.
        ValueError: an unknown dataset, or an option that it would ignore.
    """
    options = options or IndexOptions()
    _refuse_ignored(dataset, hosp, options)
    for name, folder in (("root", root), ("hosp", hosp)):
        if folder is not None and not folder_exists(folder):
            raise DatasetError(f"{name} {folder} is not a folder: check the path, and that every machine can see it")
    if dataset == "ptbxl":
        return read_ptbxl(root, options)
    if dataset == "ludb":
        return read_ludb(root, options)
    if dataset == "cinc2021":
        return read_cinc2021(root, options)
    if dataset == "wfdb":
        return read_wfdb_folder(root, options)
    if dataset == "simulated" and hosp is None and folder_exists(join(root, "hosp")):
        hosp = join(root, "hosp")
    return read_mimic(root, hosp, options, source=dataset)


def _refuse_ignored(dataset: str, hosp: str | None, options: IndexOptions) -> None:
    if dataset not in _USED_OPTIONS:
        raise ValueError(f"unknown dataset {dataset!r}: choose one of {', '.join(_USED_OPTIONS)}")
    if hosp is not None and dataset not in ("simulated", "mimic-iv-ecg"):
        raise ValueError(f"hosp belongs to MIMIC-IV, the dataset {dataset} would ignore it: leave it out")
    for field in fields(options):
        if field.name not in _USED_OPTIONS[dataset] and getattr(options, field.name) != field.default:
            raise ValueError(f"the dataset {dataset} would ignore {field.name}: leave it out")
