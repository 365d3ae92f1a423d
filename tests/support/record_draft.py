"""A 12-lead WFDB record before it is written, so that damage can be done to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

N_SAMPLES = 5000
MIMIC_ORDER = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")
# MATLAB version 4: little-endian int16, 12 rows, 5000 columns, no imaginary part, the name "val".
MAT_HEADER = np.array([30, 12, N_SAMPLES, 0, 4], dtype="<i4").tobytes() + b"val\0"

Samples = npt.NDArray[np.int16]
Header = list[list[str]]


@dataclass
class Draft:
    """One record before it is written; damage is done to these attributes.

    Attributes:
        name: path of the header under the folder, without extension.
        fields: the record line and one line per signal, each split into its fields.
        samples: (n, 12) digital samples, from which sums and signal file follow.
        header: bytes that take the header's place.
        signal: bytes that take the signal file's place.
        signal_name: of the signal file, where it is not the header's.
        on_disk: called with the paths of header and signal file once both are written.
    """

    name: str
    rng: np.random.Generator
    samples: Samples
    gain: int = 200
    mat: bool = False
    fields: Header = field(default_factory=list)
    header: bytes | None = None
    signal: bytes | None = None
    signal_name: str | None = None
    on_disk: Callable[[Path, Path], object] | None = None

    def __post_init__(self) -> None:
        self.describe()

    def describe(self) -> None:
        """Header lines that fit the samples."""
        file, form = ("r.mat", "16+24") if self.mat else ("r.dat", "16")
        sums = self.samples.astype(np.int64).sum(axis=0) % 65536
        self.fields = [["r", "12", "500", str(len(self.samples)), "12:04:00", "22/09/2182"]]
        for lead, name in enumerate(MIMIC_ORDER):
            first = str(self.samples[0, lead])
            self.fields.append([file, form, f"{self.gain}.0(0)/mV", "16", "0", first, str(sums[lead]), "0", name])

    def text(self) -> str:
        return "".join(" ".join(line) + "\n" for line in self.fields) + "# <subject_id>: 12177274\n"

    def one_line(self) -> list[str]:
        """The fields of a random signal."""
        return self.fields[int(self.rng.integers(1, 13))]

    def write(self, folder: Path) -> Path:
        header = folder / f"{self.name}.hea"
        signal = header.with_name(self.signal_name or f"{header.stem}{'.mat' if self.mat else '.dat'}")
        header.parent.mkdir(parents=True, exist_ok=True)
        for line in self.fields[1:]:
            line[0] = signal.name if line[0] in ("r.dat", "r.mat") else line[0]
        stored = self.samples.astype("<i2").tobytes()
        header.write_bytes(self.text().encode() if self.header is None else self.header)
        signal.write_bytes((MAT_HEADER if self.mat else b"") + stored if self.signal is None else self.signal)
        if self.on_disk is not None:
            self.on_disk(header, signal)
        return folder / self.name


def draw_samples(rng: np.random.Generator) -> Samples:
    """(5000, 12): a beat-like train in every lead, within +-2 mV at 200 steps per mV."""
    time = np.arange(N_SAMPLES)[:, None] / 500
    phase, rate = rng.uniform(0, 1, 12), rng.uniform(0.8, 1.8)
    beats = np.exp(-(((time * rate + 0.02 * phase) % 1 - 0.5) ** 2) / 0.0008)
    digital = rng.uniform(120, 300, 12) * beats + 20 * np.sin(6 * time + phase) + rng.normal(0, 2, (N_SAMPLES, 12))
    return digital.astype(np.int16)
