"""The CSV file that may name own records, their patients, splits and labels: what people write is read, or refused by row.

Every cell is read as text first, so that a wrong one can be named with its column, its row and what is allowed there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv

from ecgmoe.datasets.labs import PLAUSIBLE_MMOL
from ecgmoe.datasets.mimic import AGE_RANGE_YEARS, RR_RANGE_MS
from ecgmoe.datasets.schema import SPLITS, DatasetError
from ecgmoe.datasets.splits import split_of
from ecgmoe.datasets.tables import column_names, read_csv, within
from ecgmoe.ecg.rhythm import TAXONOMIES

_RANGES = {"rr_label_ms": RR_RANGE_MS, "age_years": AGE_RANGE_YEARS, "potassium_mmol": PLAUSIBLE_MMOL}
"""Values outside are sentinels or artefacts, as in the datasets: no label."""
_SEX = {"m": 0.0, "male": 0.0, "f": 1.0, "female": 1.0}
_CLASS_NAMES: dict[str, dict[str, float]] = {
    "sex_female": _SEX,
    "potassium_abnormal": {},
    **{name: {text.lower(): float(i) for i, text in enumerate(classes)} for name, classes in TAXONOMIES.items()},
}
_CLASS_COUNTS = {"sex_female": 2, "potassium_abnormal": 2, **{name: len(TAXONOMIES[name]) for name in TAXONOMIES}}
_COLUMNS = ("path", "patient_id", "split", *_RANGES, *_CLASS_NAMES)
_MISSING = frozenset(pa_csv.ConvertOptions().null_values)
"""What stands for "nothing" in tables: an empty cell, NA, NaN, null and their like."""
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)


def read_own_csv(path: str) -> pd.DataFrame:
    """Read the file.

    Args:
        path: local path or URL.

    Returns:
        path as written, and of patient_id (text), split and the labels the columns that the file has, None or NaN where
        nothing is known; rr_source beside rr_label_ms.

    Raises:
        DatasetError: the file cannot be read, has a column that is not known, or a cell that is not allowed.
    """
    present = column_names(path)
    unknown = next((name for name in present if name not in _COLUMNS), None)
    if unknown is not None:
        hint = "; separate columns by commas" if ";" in unknown or "\t" in unknown else ""
        raise DatasetError(f"{path} has the unknown column {unknown!r}: allowed are {', '.join(_COLUMNS)}{hint}")
    # "path" even where it is missing, because the reader then says so.
    frame = read_csv(path, dict.fromkeys(["path", *present], pa.string()))
    for name in present:
        if name == "patient_id":
            frame[name] = _known(frame[name])
        elif name == "split":
            frame[name] = _converted(frame[name], split_of, ", ".join(SPLITS), path)
        elif name in _RANGES:
            frame[name] = within(_converted(frame[name], _number, "numbers", path), *_RANGES[name])
        elif name in _CLASS_NAMES:
            names, count = _CLASS_NAMES[name], _CLASS_COUNTS[name]
            allowed = ", ".join([*(str(number) for number in range(count)), *names])
            frame[name] = _converted(frame[name], _class_reader(names, count), allowed, path).astype(float)
    if "rr_label_ms" in frame:
        frame["rr_source"] = frame["rr_label_ms"].notna().map({True: "user"})
    return frame


def _known(column: pd.Series) -> pd.Series:
    """The cells without blanks around them, None where they stand for nothing."""
    texts = column.str.strip()
    return texts.mask(texts.isin(_MISSING), None)


def _converted(column: pd.Series, read: Callable[[str], float | str | None], allowed: str, path: str) -> pd.Series:
    """Each cell's value; `read` gives None for a cell that is not allowed."""
    texts = _known(column)
    values = {text: read(text) for text in texts.dropna().unique()}
    wrong = texts[texts.map(values).isna() & texts.notna()]
    if len(wrong):
        text = wrong.iloc[0]
        hint = ", with a decimal point" if re.search(r"\d,\d", text) else ""
        raise DatasetError(
            f"{path}: {column.name} is {text[:80]!r} in row {wrong.index[0] + 2}, allowed are {allowed} or nothing{hint}"
        )
    return texts.map(values)


def _number(text: str) -> float | None:
    return float(text) if _NUMBER.fullmatch(text) else None


def _class_reader(names: Mapping[str, float], count: int) -> Callable[[str], float | None]:
    """Reads a class by its number or by its name."""

    def read(text: str) -> float | None:
        number = _number(text)
        if number is None:
            return names.get(" ".join(text.lower().split()))
        return number if number in range(count) else None

    return read
