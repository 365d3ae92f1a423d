"""WFDB records of twelve leads for tests that read files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ecgmoe.ecg.record import LEADS


def write_record(folder: Path, name: str, signal: np.ndarray, leads: tuple[str, ...] = LEADS) -> None:
    """A 500 Hz WFDB record in format 16 at 1000 units per mV, with a checksum of 0."""
    lines = [f"{name} {len(leads)} 500 {signal.shape[1]}"]
    lines += [f"{name}.dat 16 1000/mV 16 0 0 0 0 {lead}" for lead in leads]
    (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")
    signal.T.astype("<i2").tofile(folder / f"{name}.dat")


def an_ecg(seed: int) -> np.ndarray:
    """Twelve leads of spikes every 800 ms; the checksum of 0 in the header is met by a last sample that cancels the sum."""
    generator = np.random.default_rng(seed)
    signal = generator.normal(0, 20, (12, 5000)).round()
    signal[:, 200::400] += 1000
    signal -= np.round(signal.mean(1, keepdims=True))
    signal[:, -1] -= signal.sum(1)
    return signal
