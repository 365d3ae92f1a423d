"""Good and damaged WFDB records, all drawn from one seed: what a folder of a million files holds sooner or later."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from damage_kinds import KINDS
from ecgmoe.ecg.record import LEADS
from record_draft import MIMIC_ORDER, Draft, Samples, draw_samples


@dataclass(frozen=True)
class GoodRecord:
    path: str
    microvolt: Samples


@dataclass(frozen=True)
class DamagedRecord:
    """Attributes: kind: key of `KINDS`; path: without extension; message: pattern of what has to be said."""

    kind: str
    path: str
    message: str


def write_good(folder: Path, count: int, seed: int) -> list[GoodRecord]:
    """Good records: three in four in format 16, the others with a MATLAB file, as CinC has them."""
    rng = np.random.default_rng([seed, 0])
    order = [MIMIC_ORDER.index(lead) for lead in LEADS]
    records = []
    for i in range(count):
        draft = Draft(f"good/{i:03d}", rng, draw_samples(rng), gain=(200, 500, 1000)[i % 3], mat=i % 4 == 3)
        path = draft.write(folder)
        records.append(GoodRecord(str(path), draft.samples[:, order].T * np.int16(1000 // draft.gain)))
    return records


def write_damaged(folder: Path, per_kind: int, seed: int) -> list[DamagedRecord]:
    """`per_kind` records of each kind in `KINDS`; the mode of a file says nothing to root, who gets none of that kind."""
    rng = np.random.default_rng([seed, 1])
    records = []
    for kind, (damage, message) in KINDS.items():
        if kind == "signal file without permission" and os.geteuid() == 0:
            continue
        for i in range(per_kind):
            draft = Draft(f"{kind.replace(' ', '-')}-{i}", rng, draw_samples(rng))
            damage(draft)
            records.append(DamagedRecord(kind, str(draft.write(folder)), message))
    return records


def write_directory_loops(folder: Path) -> None:
    """Folders that contain themselves, for a search that would follow them."""
    (folder / "loops" / "deep").mkdir(parents=True)
    (folder / "loops" / "deep" / "up").symlink_to(folder, target_is_directory=True)
    (folder / "loops" / "self").symlink_to("self")
    (folder / "loops" / "one").symlink_to("two")
    (folder / "loops" / "two").symlink_to("one")
