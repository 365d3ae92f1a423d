"""R peaks: beats from the agreement of the leads, each placed on the R wave of one lead, lead II first.

One lead is not enough to find beats: in lead II alone a QRS across that lead's axis is small and is lost beside its T
wave. So beats are the peaks of an energy over all leads: the RMS of the band-passed leads (5-25 Hz, where the QRS
dominates), each divided by its median magnitude, so that a noisy lead weighs little, and none counted for more than the
third-largest lead at that moment, so that an electrode's artefact makes no beat; a 12 Hz low-pass leaves one hump per QRS.
A hump soon after another and less than half as high is a T wave (Pan and Tompkins, IEEE Trans Biomed Eng 32 (1985)).
The hump of a wide QRS has its top where the leads are steepest, which wanders from beat to beat; people mark the R wave.
So each beat is then moved to the R wave of lead II, or of the clearest lead where that one has none.

The constants were chosen on the records of LUDB with odd ids; tests/unit/ecg/test_beats.py reports those with even ids.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import fft
from scipy.signal import butter, find_peaks, freqz_sos

from ecgmoe.ecg.record import LEADS, MISSING, N_SAMPLES, SAMPLING_RATE_HZ, Signal

Peaks = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]

MS_PER_SAMPLE = 1000 / SAMPLING_RATE_HZ

_QRS_BAND_HZ = (5.0, 25.0)
_ENERGY_LOW_PASS_HZ = 12.0
THRESHOLD = 0.35
"""Share of the 99th percentile of the energy that a QRS reaches."""
MIN_DISTANCE_MS = 250
FLAT_UV = 5.0
MIN_RELATIVE_SCALE = 0.01
"""Of a lead's largest deflection: without it a lead free of noise would outweigh all others."""
AGREEING_LEADS = 3
T_WAVE_REACH = 180
"""Samples: 360 ms, as Pan and Tompkins have it."""
T_WAVE_HEIGHT = 0.5

R_WAVE_REACH = 50
"""Samples (100 ms) between the energy's peak and the R wave: a pacing spike lies that far ahead of its wide QRS."""
R_WAVE_PROMINENCE = 0.2
"""Share of the lead's range around the beat by which an R wave stands out, and rises above the lead's median."""
R_WAVE_SPREAD = 20
"""Samples (40 ms): a beat whose R wave lies further from where the record's others lie is placed as they are."""
TRIED_LEADS = 3
LEAD_II = LEADS.index("II")

PAD = 200  # with it the transform's length is 5400 = 2^3 3^3 5^2
PADDED = N_SAMPLES + 2 * PAD


def _zero_phase_gain(sections: npt.NDArray[np.float64]) -> Floats:
    """Gain of a filter run forwards and backwards, at the frequencies of the padded record."""
    _, response = freqz_sos(sections, worN=fft.rfftfreq(PADDED, 1 / SAMPLING_RATE_HZ), fs=SAMPLING_RATE_HZ)
    return (np.abs(response) ** 2).astype(np.float32)


BAND_PASS = _zero_phase_gain(butter(2, _QRS_BAND_HZ, "bandpass", fs=SAMPLING_RATE_HZ, output="sos"))
LOW_PASS = _zero_phase_gain(butter(2, _ENERGY_LOW_PASS_HZ, "lowpass", fs=SAMPLING_RATE_HZ, output="sos"))


def _filtered(signal: Floats, gain: Floats) -> Floats:
    """Zero-phase filter along the last axis (5000), by FFT, which is cheaper than running the sections."""
    # Odd reflection: the circular transform then sees no jump from the end of the record to its beginning.
    before = 2 * signal[..., :1] - signal[..., PAD:0:-1]
    after = 2 * signal[..., -1:] - signal[..., -2 : -PAD - 2 : -1]
    spectrum = fft.rfft(np.concatenate([before, signal, after], axis=-1))
    return fft.irfft(spectrum * gain, n=PADDED)[..., PAD:-PAD]


def _qrs_energy(signal: Signal) -> tuple[Floats, Floats, npt.NDArray[np.intp]] | None:
    """Smoothed energy (5000,), the scaled leads (n, 5000) that it comes from and which they are; None where all are flat."""
    missing = signal == MISSING
    leads = np.where(missing, 0, signal).astype(np.float32)
    leads -= np.median(leads[:, ::5], axis=1, keepdims=True)
    leads[missing] = 0
    leads = np.abs(_filtered(leads, BAND_PASS))
    magnitude = leads[:, ::4]  # 125 Hz still holds what lies below 25 Hz
    largest = magnitude.max(axis=1)
    usable = np.flatnonzero(largest > FLAT_UV)
    if not len(usable):
        return None
    scale = np.maximum(np.median(magnitude[usable], axis=1), MIN_RELATIVE_SCALE * largest[usable])
    scaled = leads[usable] / scale[:, None]
    # Where there are fewer leads, half of them have to agree.
    agreeing = min(AGREEING_LEADS, (len(usable) + 1) // 2)
    capped = np.minimum(scaled, np.partition(scaled, -agreeing, axis=0)[-agreeing])
    return _filtered(np.sqrt(np.mean(capped * capped, axis=0)), LOW_PASS), scaled, usable


def detect_r_peaks(signal: Signal) -> Peaks:
    """R peaks of a canonical record.

    Args:
        signal: int16 (12, 5000), microvolt; missing samples count as zero.

    Returns:
        int32 (beats,): ascending positions in samples at 500 Hz; empty where every lead is flat.
    """
    found = _qrs_energy(signal)
    if found is None:
        return np.empty(0, dtype=np.int32)
    energy, scaled, usable = found
    threshold = THRESHOLD * float(np.percentile(energy, 99))
    humps, _ = find_peaks(energy, height=threshold, distance=round(MIN_DISTANCE_MS / MS_PER_SAMPLE))
    beats = _without_t_waves(humps, energy)
    if not len(beats):
        return np.empty(0, dtype=np.int32)
    clearest = usable[np.argsort(-np.median(scaled[:, beats], axis=1), kind="stable")]
    return _on_r_waves(signal, beats, clearest).astype(np.int32)


def _without_t_waves(humps: npt.NDArray[np.intp], energy: Floats) -> npt.NDArray[np.intp]:
    beats: list[int] = []
    for hump in humps.tolist():
        soon = bool(beats) and hump - beats[-1] <= T_WAVE_REACH
        if not (soon and energy[hump] < T_WAVE_HEIGHT * energy[beats[-1]]):
            beats.append(hump)
    return np.array(beats, dtype=np.intp)


def _on_r_waves(signal: Signal, beats: npt.NDArray[np.intp], clearest: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """The beats moved to the R waves of the first lead in which at least half of them have one."""
    order = [LEAD_II] * (LEAD_II in clearest) + [lead for lead in clearest[:TRIED_LEADS] if lead != LEAD_II]
    for lead in order:
        shifts = _r_wave_shifts(signal[lead], beats)
        known = ~np.isnan(shifts)
        if known.sum() * 2 < len(beats):
            continue
        usual = np.median(shifts[known])
        # A comparison with NaN is false: a beat without an R wave, or too near an end, is placed as the others are.
        placed = np.where(np.abs(shifts - usual) <= R_WAVE_SPREAD, shifts, usual)
        return np.clip(beats + np.rint(placed).astype(np.intp), 0, N_SAMPLES - 1)
    return beats


def _r_wave_shifts(lead: npt.NDArray[np.int16], beats: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """From each beat to its R wave, the tallest distinct positive wave of the lead around it; NaN where there is none."""
    shifts = np.full(len(beats), np.nan)
    present = lead != MISSING
    baseline = int(np.median(lead[present]))
    samples = np.where(present, lead, baseline).astype(np.int32) - baseline
    for number, beat in enumerate(beats):
        if not R_WAVE_REACH <= beat < N_SAMPLES - R_WAVE_REACH:
            continue
        around = samples[beat - R_WAVE_REACH : beat + R_WAVE_REACH + 1]
        least = max(1.0, R_WAVE_PROMINENCE * float(np.ptp(around)))
        waves, _ = find_peaks(around, prominence=least, height=least)
        if len(waves):
            shifts[number] = waves[around[waves].argmax()] - R_WAVE_REACH
    return shifts


def detect_r_peaks_neurokit(signal: Signal, lead: str = "II") -> Peaks:
    """R peaks of one lead by NeuroKit2's own method, the yardstick for `detect_r_peaks`.

    Makowski et al., Behavior Research Methods 53 (2021), doi 10.3758/s13428-020-01516-y.

    Raises:
        ValueError: `lead` is none of `LEADS`.
    """
    if lead not in LEADS:
        raise ValueError(f"unknown lead {lead!r}: choose one of {', '.join(LEADS)}")
    import neurokit2 as nk  # takes a second, and only the comparison needs it

    samples = signal[LEADS.index(lead)]
    if np.ptp(samples) == 0:
        return np.empty(0, dtype=np.int32)
    cleaned = nk.ecg_clean(np.where(samples == MISSING, 0, samples) / 1000, sampling_rate=SAMPLING_RATE_HZ)
    found = nk.ecg_findpeaks(cleaned, sampling_rate=SAMPLING_RATE_HZ, method="neurokit")
    return np.asarray(found["ECG_R_Peaks"], dtype=np.int32)


def rr_intervals_ms(r_peaks: npt.NDArray[np.integer]) -> Floats:
    """R-R intervals in ms, (beats - 1,), of ascending R peaks in samples at 500 Hz; empty under two beats."""
    return (np.diff(r_peaks) * MS_PER_SAMPLE).astype(np.float32)


def median_rr_ms(r_peaks: npt.NDArray[np.integer]) -> float | None:
    """Median R-R interval in ms; None under two beats."""
    intervals = rr_intervals_ms(r_peaks)
    return float(np.median(intervals)) if len(intervals) else None
