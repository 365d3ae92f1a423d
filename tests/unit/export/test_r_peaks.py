"""The exported detector of R peaks finds exactly what `detect_r_peaks` finds, in torch and in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
import wfdb
from scipy.signal import find_peaks, resample_poly

from ecgmoe.ecg import beats
from ecgmoe.ecg.beats import detect_r_peaks
from ecgmoe.ecg.perturb import conditions, perturb
from ecgmoe.ecg.physiology import draw_patients, draw_studies
from ecgmoe.ecg.record import MISSING, Signal
from ecgmoe.ecg.waveform import draw_timeline, synthesise
from ecgmoe.ecg.wfdb_file import read_wfdb
from ecgmoe.export.r_peaks import _NO_BEAT, MAX_BEATS, RPeaks, _humps, _r_wave_shifts

DATA = Path(__file__).resolve().parents[3].parent / "shared" / "data"
FOLDERS = {"ptbxl": "ptbxl/records500", "ludb": "ludb/data", "cinc2021": "cinc2021"}
DYNAMIC = ({0: torch.export.Dim("batch", min=1)},)

Found = npt.NDArray[np.int32]
Run = Callable[[Signal], Found]
"""int16 (B, 12, 5000) to int32 (B, N)."""


def simulated(count: int, seed: int = 0) -> Signal:
    """Whole multiples of 5 microvolt, as the simulator writes them: (count, 12, 5000)."""
    people, hearts = np.random.default_rng((seed, 0)), np.random.default_rng((seed, 1))
    studies = draw_studies(people, draw_patients(people, count), count)
    leads = synthesise(seed, studies, draw_timeline(hearts, studies))
    return np.clip(5 * np.rint(200 * leads), -32767, 32767).astype(np.int16)


def in_torch(signals: Signal) -> Found:
    with torch.inference_mode():
        return RPeaks()(torch.from_numpy(signals)).numpy()


def peaks_of(row: Found) -> list[int]:
    """The peaks of one row, behind which there is padding only."""
    count = int((row >= 0).sum())
    assert (row[count:] == -1).all()
    assert (np.diff(row[:count]) > 0).all()
    return row[:count].tolist()


def differing(signals: Signal, run: Run = in_torch, batch: int = 16) -> list[int]:
    """Which records get other peaks than `detect_r_peaks` finds."""
    found = np.concatenate([run(signals[start : start + batch]) for start in range(0, len(signals), batch)])
    assert found.dtype == np.int32
    assert found.shape == (len(signals), MAX_BEATS)
    pairs = enumerate(zip(signals, found, strict=True))
    return [number for number, (signal, row) in pairs if detect_r_peaks(signal).tolist() != peaks_of(row)]


@pytest.fixture(scope="module")
def records() -> Signal:
    return simulated(48)


@pytest.fixture(scope="module")
def program() -> torch.export.ExportedProgram:
    """As torch.compile's front end sees it, without a step that Python alone could take."""
    return torch.export.export(RPeaks(), (torch.from_numpy(simulated(2)),), dynamic_shapes=DYNAMIC, strict=True)


@pytest.fixture(scope="module")
def in_onnxruntime(program: torch.export.ExportedProgram, tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("onnx") / "r_peaks.onnx"
    example = (torch.from_numpy(simulated(2)),)
    names = {"input_names": ["signal"], "output_names": ["r_peaks"]}
    onnx = torch.onnx.export(program, example, dynamo=True, dynamic_shapes=DYNAMIC, verbose=False, **names)
    assert onnx is not None
    onnx.save(str(path))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda signals: session.run(None, {"signal": signals})[0]


def with_few_leads(signals: Signal, count: int) -> Signal:
    random, changed = np.random.default_rng(count), np.full_like(signals, MISSING)
    for row in range(len(signals)):
        kept = random.permutation(12)[:count]
        changed[row, kept] = signals[row, kept]
    return changed


def with_flat_leads(signals: Signal, count: int) -> Signal:
    random, changed = np.random.default_rng(count), signals.copy()
    for row in range(len(signals)):
        changed[row, random.permutation(12)[:count]] = random.integers(-500, 500, (count, 1))
    return changed


def with_gaps(signals: Signal) -> Signal:
    random, changed = np.random.default_rng(1), signals.copy()
    for row in range(len(signals)):
        for start in random.integers(0, 5000, 8):
            changed[row, random.integers(0, 12), start : start + random.integers(1, 2000)] = MISSING
    return changed


def with_a_lead_and_its_reverse(signals: Signal) -> Signal:
    """Equally clear, and with other R waves."""
    changed = np.full_like(signals, MISSING)
    changed[:, 4], changed[:, 9] = signals[:, 7], -signals[:, 7]
    return changed


def with_beats_at(*at: int) -> Signal:
    """One record with some noise, of beats at these samples only: (1, 12, 5000)."""
    time = np.arange(5000)
    qrs = sum((1000 * np.exp(-(((time - beat) / 8) ** 2)) for beat in at), start=np.zeros(5000))
    noise = np.random.default_rng(0).normal(0, 5, (1, 12, 5000))
    return np.rint(np.linspace(-1.2, 1.5, 12)[:, None] * qrs + noise).astype(np.int16)


CHANGES: dict[str, Callable[[Signal], Signal]] = {
    "as they are": lambda signals: signals,
    **{f"{count} leads": lambda signals, count=count: with_few_leads(signals, count) for count in (1, 2, 3, 4, 5)},
    **{f"{count} flat leads": lambda signals, count=count: with_flat_leads(signals, count) for count in (1, 6, 11)},
    "gaps": with_gaps,
    "samples missing here and there": lambda signals: np.where(
        np.random.default_rng(2).random(signals.shape) < 0.3, MISSING, signals
    ).astype(np.int16),
    "upside down": lambda signals: -signals,
    "saturated": lambda signals: np.clip(signals.astype(np.int64) * 60, -32767, 32767).astype(np.int16),
    "flat tops": lambda signals: np.clip(signals, -300, 300),
    "a few microvolt": lambda signals: (signals // 20).astype(np.int16),
    "a lead and its reverse": with_a_lead_and_its_reverse,
    "the same lead several times": lambda signals: signals[:, [1, 1, 1, 3, 3, 5, 1, 1, 8, 9, 1, 1]],
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_same_peaks(change: str, records: Signal) -> None:
    assert differing(CHANGES[change](records)) == []


@pytest.mark.parametrize(
    "name", ["baseline_wander", "muscle_noise", "mains", "missing_leads", "cut", "premature_beats"]
)
def test_the_same_peaks_in_perturbed_records(name: str, records: Signal) -> None:
    hardest = conditions([name])[-1]
    pairs = enumerate(records)
    changed = [perturb(each, detect_r_peaks(each), hardest, seed=0, study_id=number) for number, each in pairs]
    assert differing(np.stack(changed)) == []


@pytest.mark.parametrize("value", [0, -500, MISSING])
def test_a_flat_record_has_no_peaks(value: int) -> None:
    assert (in_torch(np.full((2, 12, 5000), value, dtype=np.int16)) == -1).all()


@pytest.mark.parametrize("at", [(), (0,), (2500,), (40, 2500), (4970,), tuple(range(70, 4990, 126))])
def test_from_no_beat_to_as_many_as_there_is_room_for(at: tuple[int, ...]) -> None:
    signal = with_beats_at(*at)
    assert differing(signal) == []


def test_a_record_with_energy_and_without_a_beat() -> None:
    """A steep ramp: what is left of it in the band is largest at the ends of the record."""
    ramp = np.tile(np.linspace(-30000, 30000, 5000).astype(np.int16), (1, 12, 1))
    assert beats._qrs_energy(ramp[0]) is not None
    assert not len(detect_r_peaks(ramp[0]))
    assert differing(ramp) == []


def humps_as_scipy_has_them(energy: npt.NDArray[np.float32]) -> bool:
    height = beats.THRESHOLD * float(np.percentile(energy, 99))
    peaks, _ = find_peaks(energy, height=height, distance=125)
    found = _humps(torch.from_numpy(energy)[None])[0]
    return found[found < _NO_BEAT].tolist() == peaks.tolist()


@pytest.mark.parametrize("longest", [2, 5, 60, 400])
def test_humps_with_broad_tops(longest: int) -> None:
    """Runs of equal samples of any length, and no two runs of the same height, whose order scipy leaves open."""
    random = np.random.default_rng(longest)
    runs = np.repeat(random.permutation(5000), random.integers(1, longest + 1, 5000))
    assert humps_as_scipy_has_them(runs[:5000].astype(np.float32))


def test_humps_about_as_high_as_the_threshold() -> None:
    random = np.random.default_rng(3)
    levels = np.where(np.arange(80) % 2, random.uniform(0.3, 0.4, 80), random.uniform(0, 0.1, 80))
    levels[1] = 1.0
    assert humps_as_scipy_has_them(np.repeat(levels, 63)[:5000].astype(np.float32))


@pytest.mark.parametrize("largest", [2, 6, 40, 32767])
def test_r_waves_with_broad_tops_and_ties(largest: int) -> None:
    random = np.random.default_rng(largest)
    lead = np.repeat(random.integers(-largest, largest + 1, 5000), random.integers(1, 6, 5000))[:5000].astype(np.int16)
    lead[random.random(5000) < 0.1] = MISSING
    at = np.array([3, 49, 50, *range(180, 4800, 130), 4949, 4950, 4999])
    padded = torch.full((1, MAX_BEATS + 3), _NO_BEAT)
    padded[0, : len(at)] = torch.from_numpy(at)
    expected = beats._r_wave_shifts(lead, at)
    present = torch.from_numpy(lead != MISSING)[None, None]
    for start in (0, 3):  # the module's own number of beats at a time
        some = padded[:, start : start + MAX_BEATS]
        shift, known = _r_wave_shifts(torch.from_numpy(lead).float()[None, None], present, some)
        found = torch.where(known, shift, torch.nan)[0, 0].numpy()
        count = min(MAX_BEATS, len(at) - start)
        np.testing.assert_array_equal(found[:count], expected[start : start + count])


def test_a_record_does_not_depend_on_its_neighbours(records: Signal) -> None:
    noisy = np.random.default_rng(4).integers(-32768, 32768, records.shape).astype(np.int16)
    together = in_torch(records)
    for row in range(0, len(records), 6):
        np.testing.assert_array_equal(in_torch(records[row : row + 1])[0], together[row])
        np.testing.assert_array_equal(in_torch(np.concatenate([noisy[:2], records[row : row + 1]]))[2], together[row])


@pytest.mark.parametrize("strict", [True, False])
def test_exports_with_any_batch(strict: bool, program: torch.export.ExportedProgram, records: Signal) -> None:
    if not strict:
        program = torch.export.export(RPeaks(), (torch.from_numpy(records[:2]),), dynamic_shapes=DYNAMIC, strict=False)
    for batch in (1, 3, 7):
        assert differing(records[:7], lambda signals: program.module()(torch.from_numpy(signals)).numpy(), batch) == []


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_the_same_peaks_in_onnxruntime(batch: int, in_onnxruntime: Run, records: Signal) -> None:
    few, flat, nothing = with_few_leads(records[:4], 2), with_flat_leads(records[:4], 6), np.zeros_like(records[:1])
    several = np.concatenate([records[:16], few, flat, nothing, with_gaps(records[:4]), with_beats_at(2500)])
    assert differing(several, in_onnxruntime, batch) == []


def _real(name: str, step: int) -> Signal:
    headers = sorted((DATA / FOLDERS[name]).rglob("*.hea"))[::step]
    return np.stack([read_wfdb(str(header.with_suffix(""))) for header in headers])


@pytest.mark.real_data
@pytest.mark.skipif(not DATA.is_dir(), reason="there are no recordings in ../shared/data")
@pytest.mark.parametrize(("name", "step"), [("ptbxl", 28), ("ludb", 6), ("cinc2021", 2)])
def test_the_same_peaks_in_real_records(name: str, step: int) -> None:
    assert differing(_real(name, step)) == []


@pytest.mark.long
@pytest.mark.real_data
@pytest.mark.skipif(not DATA.is_dir(), reason="there are no recordings in ../shared/data")
@pytest.mark.parametrize("name", FOLDERS)
def test_the_same_peaks_in_every_real_record(name: str, in_onnxruntime: Run) -> None:
    signals = _real(name, 1)
    assert differing(signals) == []
    assert differing(signals, in_onnxruntime, batch=1) == []


@pytest.mark.long
@pytest.mark.real_data
@pytest.mark.skipif(not DATA.is_dir(), reason="there are no recordings in ../shared/data")
def test_the_same_peaks_in_two_leads_of_half_an_hour() -> None:
    for header in sorted((DATA / "mitbih").rglob("*.hea")):
        recording = wfdb.rdrecord(str(header.with_suffix("")))
        microvolt = np.clip(np.rint(resample_poly(recording.p_signal, 25, 18, axis=0).T * 1000), -32767, 32767)
        count = microvolt.shape[1] // 5000
        signals = np.full((count, 12, 5000), MISSING, dtype=np.int16)
        signals[:, [1, 6]] = microvolt[:, : count * 5000].reshape(2, count, 5000).transpose(1, 0, 2)
        assert differing(signals) == []


@pytest.mark.long
def test_the_same_peaks_in_many_simulated_records(in_onnxruntime: Run) -> None:
    for seed in range(1, 11):
        signals = simulated(200, seed)
        assert differing(signals) == []
        assert differing(signals, in_onnxruntime) == []
