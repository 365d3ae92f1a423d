"""R peaks against constructed beats and against people's marks (LUDB)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import wfdb

from ecgmoe.ecg.beats import detect_r_peaks, detect_r_peaks_neurokit, median_rr_ms, rr_intervals_ms
from ecgmoe.ecg.record import MISSING, Signal
from ecgmoe.ecg.wfdb_file import read_wfdb

LUDB = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "ludb" / "data"


def record(beats: npt.NDArray[np.int64], t_wave_uv: float = 250, noise_uv: float = 0) -> Signal:
    """Beats as a narrow QRS with a broad T wave 300 ms behind, of another size and sign in each lead."""
    time = np.arange(5000)
    qrs = sum((1000 * np.exp(-(((time - beat) / 8) ** 2)) for beat in beats), start=np.zeros(5000))
    t_wave = sum((t_wave_uv * np.exp(-(((time - beat - 150) / 40) ** 2)) for beat in beats), start=np.zeros(5000))
    gains = np.linspace(-1.2, 1.5, 12)[:, None]
    noise = np.random.default_rng(0).normal(0, noise_uv, (12, 5000))
    return np.rint(gains * (qrs + t_wave) + noise).astype(np.int16)


@pytest.mark.parametrize("interval_ms", [300, 400, 800, 1500, 2500])
@pytest.mark.parametrize("noise_uv", [0, 40])
def test_finds_constructed_beats_at_any_rate(interval_ms: int, noise_uv: float) -> None:
    beats = np.arange(120, 4900, interval_ms // 2)
    peaks = detect_r_peaks(record(beats, noise_uv=noise_uv))
    assert len(peaks) == len(beats)
    assert np.abs(peaks - beats).max() <= 5  # 10 ms, a tenth of a QRS
    assert median_rr_ms(peaks) == pytest.approx(interval_ms, abs=4)


def test_a_tall_t_wave_is_no_beat() -> None:
    beats = np.arange(150, 4900, 420)
    assert len(detect_r_peaks(record(beats, t_wave_uv=1200))) == len(beats)


def test_a_noisy_lead_and_dropouts_do_not_matter() -> None:
    beats = np.arange(150, 4900, 420)
    signal = record(beats)
    signal[2] = np.random.default_rng(1).normal(0, 2000, 5000)
    signal[5, 1000:2000] = MISSING
    signal[8] = MISSING
    assert np.abs(detect_r_peaks(signal) - beats).max() <= 5


def test_the_ends_of_the_record_make_no_beats() -> None:
    beats = np.arange(500, 4600, 400)
    drift = np.linspace(-3000, 3000, 5000).astype(np.int16)
    assert len(detect_r_peaks(record(beats) + drift)) == len(beats)


@pytest.mark.parametrize("value", [0, -500, MISSING])
def test_a_flat_record_has_no_beats(value: int) -> None:
    flat = np.full((12, 5000), value, dtype=np.int16)
    assert detect_r_peaks(flat).tolist() == []
    assert detect_r_peaks(flat).dtype == np.int32
    assert detect_r_peaks_neurokit(flat).tolist() == []


def test_rr_intervals() -> None:
    assert rr_intervals_ms(np.array([100, 500, 950])).tolist() == [800, 900]
    assert median_rr_ms(np.array([100, 500, 950])) == 850
    assert median_rr_ms(np.array([100])) is None
    assert median_rr_ms(np.array([], dtype=np.int32)) is None


def test_the_yardstick_refuses_an_unknown_lead() -> None:
    with pytest.raises(ValueError, match="'V7'"):
        detect_r_peaks_neurokit(record(np.arange(150, 4900, 420)), lead="V7")


def _matches(peaks: npt.NDArray[np.int32], marks: npt.NDArray[np.int64], tolerance: float) -> npt.NDArray[np.int64]:
    """Hits among the marks, number of marks, hits among the peaks, number of peaks."""
    distance = np.abs(peaks[:, None] - marks[None])
    near = distance <= tolerance
    return np.array([near.any(axis=0).sum(), len(marks), near.any(axis=1).sum(), len(peaks)])


@pytest.mark.real_data
@pytest.mark.skipif(not LUDB.is_dir(), reason="LUDB is not in ../shared/data")
def test_against_peoples_marks() -> None:
    strict, lenient = np.zeros(4), np.zeros(4)
    errors, errors_neurokit = [], []
    for header in sorted(LUDB.glob("*.hea")):
        path = str(header.with_suffix(""))
        annotation = wfdb.rdann(path, "ii")
        marks = annotation.sample[np.array(annotation.symbol) == "N"]
        signal = read_wfdb(path)
        first, last = marks[0] - 37, marks[-1] + 37  # the first and last beats of a record are not marked

        peaks = detect_r_peaks(signal)
        peaks = peaks[(peaks >= first) & (peaks <= last)]
        strict += _matches(peaks, marks, 37.5)  # 75 ms
        lenient += _matches(peaks, marks, 75)  # 150 ms, ANSI/AAMI EC57
        rr = np.median(rr_intervals_ms(marks))
        errors.append(abs((median_rr_ms(peaks) or 0) - rr))
        single = detect_r_peaks_neurokit(signal)
        errors_neurokit.append(abs((median_rr_ms(single[(single >= first) & (single <= last)]) or 0) - rr))
    # Measured 0.999 and 0.999. In two records with ventricular pacing the marks lie about 85 ms before the peak of the
    # energy of the wide QRS, which leaves 0.987 at 75 ms.
    assert lenient[0] / lenient[1] >= 0.998
    assert lenient[2] / lenient[3] >= 0.998
    assert min(strict[0] / strict[1], strict[2] / strict[3]) >= 0.985
    assert np.mean(errors) <= 2.5  # measured 1.6 ms; one sample is 2 ms
    assert np.mean(errors) < np.mean(errors_neurokit)
