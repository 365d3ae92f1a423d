"""Tiny datasets in the layouts of LUDB and of the PhysioNet/CinC Challenge 2021."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import scipy.io
import wfdb

from ecgmoe.ecg.record import LEADS
from small_records import an_ecg, write_record

LUDB_COLUMNS = (
    "ID",
    "Sex",
    "Age",
    "Rhythms",
    "Electric axis of the heart",
    "Conduction abnormalities",
    "Extrasystolies",
    "Hypertrophies",
    "Cardiac pacing",
)
BEATS = np.arange(600, 4600, 400)
"""R peaks of `an_ecg` but the first and the last, which people do not mark."""


def write_ludb(root: Path, rows: Sequence[Mapping[str, str]], waveforms: bool = True) -> str:
    """ludb.csv, records of 75 beats a minute and marks of their waves in lead II; `rows` fill columns by name, ID counts up."""
    (root / "data").mkdir(parents=True, exist_ok=True)
    lines = [",".join(LUDB_COLUMNS)]
    for number, row in enumerate(rows, 1):
        cells = {"ID": str(number), "Sex": "F\n", "Age": "51\n", "Rhythms": "Sinus rhythm", **row}
        lines.append(",".join(f'"{cells.get(name, "")}"' for name in LUDB_COLUMNS))
        if waveforms:
            write_record(root / "data", str(number), an_ecg(number), tuple(lead.lower() for lead in LEADS))
        write_marks(root / "data", str(number), BEATS)
    (root / "ludb.csv").write_text("\n".join(lines) + "\n")
    return str(root)


def write_marks(folder: Path, name: str, beats: np.ndarray) -> None:
    """Onset, peak and end of every QRS complex and a T wave after it, as cardiologists mark them."""
    samples = (beats[:, None] + np.array([-20, 0, 20, 120])).ravel()
    wfdb.wrann(name, "ii", samples, symbol=["(", "N", ")", "t"] * len(beats), write_dir=str(folder))


def write_cinc2021(
    root: Path,
    comments: Mapping[str, Sequence[str]],
    *,
    rate_hz: int = 500,
    samples: int = 5000,
    waveforms: bool = True,
) -> str:
    """Headers, by record path with their comment lines, over MATLAB v4 signals."""
    for path, lines in comments.items():
        name = path.rpartition("/")[2]
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        signal = an_ecg(len(path))[:, :samples].astype(np.int16)
        sums = signal.sum(1, dtype=np.int64) % 65536
        signals = [
            f"{name}.mat 16x1+24 1000.0(0)/mV 16 0 0 {total} 0 {lead}" for lead, total in zip(LEADS, sums, strict=True)
        ]
        text = "\n".join([f"{name} 12 {rate_hz} {samples}", *signals, *(f"# {line}" for line in lines)])
        (root / f"{path}.hea").write_text(text + "\n")
        if waveforms:
            scipy.io.savemat(root / f"{path}.mat", {"val": signal}, format="4")
    return str(root)
