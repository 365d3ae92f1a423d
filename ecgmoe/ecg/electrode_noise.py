"""Noise at a signal-to-noise ratio, drawn at the electrodes, so that the leads keep the relations between them.

Ten electrodes make twelve leads (the one on the right leg is the amplifier's ground). Noise of an electrode is in every
lead that it belongs to: leads I + III - II and aVR + aVL + aVF stay what they were, up to rounding.

Signal-to-noise ratio: 10 log10(S / N). S is the mean square of the record after a zero-phase high-pass at 0.5 Hz, which
takes the baseline away and leaves the beats; N is the mean square of the noise. Both are means over the same samples,
those of all leads that are not missing: one ratio for a record, while its leads differ as their sizes do.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import fft
from scipy.signal import butter, sosfiltfilt

from ecgmoe.ecg.record import MISSING, N_SAMPLES, SAMPLING_RATE_HZ, Signal
from ecgmoe.ecg.samples import Floats, filled, with_samples

Noise = Callable[[np.random.Generator], Floats]

ELECTRODES = ("RA", "LA", "LL", "V1", "V2", "V3", "V4", "V5", "V6")
WANDER_HZ = (0.05, 0.5)
"""From where a diagnostic recorder's own high-pass lets pass to where the ECG begins."""
MUSCLE_HZ = (20.0, 150.0)
"""To where a diagnostic recorder's low-pass ends."""
MAINS_HZ = 50.0
MAINS_HARMONICS = (1.0, 0.1, 0.2)
"""Size of 50, 100 and 150 Hz beside each other: chosen, odd ones larger."""

_BASELINE = butter(2, WANDER_HZ[1], "highpass", fs=SAMPLING_RATE_HZ, output="sos")
_SPAN = 2 * N_SAMPLES
"""Samples drawn: of twice the record, so that its end has nothing to do with its beginning."""


def lead_matrix() -> Floats:
    """What each lead sees of each electrode: (12, 9), in the order of `LEADS` and `ELECTRODES`."""
    ra, la, ll, *chest = np.eye(len(ELECTRODES))
    goldberger = [ra - (la + ll) / 2, la - (ra + ll) / 2, ll - (ra + la) / 2]
    wilson = (ra + la + ll) / 3
    return np.array([la - ra, ll - ra, ll - la, *goldberger, *(each - wilson for each in chest)])


_LEADS_OF_ELECTRODES = lead_matrix()


def baseline_wander(generator: np.random.Generator) -> Floats:
    """Gaussian noise of 0.05 to 0.5 Hz at every electrode, (9, 5000) of any scale: breathing, sweat, movement."""
    return _band(generator, *WANDER_HZ)


def muscle(generator: np.random.Generator) -> Floats:
    """Gaussian noise of 20 to 150 Hz at every electrode, (9, 5000) of any scale."""
    return _band(generator, *MUSCLE_HZ)


def mains(generator: np.random.Generator) -> Floats:
    """50 Hz with two harmonics, (9, 5000) of any scale: one source of random phases, coupled into each electrode by itself."""
    t = np.arange(N_SAMPLES) / SAMPLING_RATE_HZ
    phase = generator.uniform(0, 2 * np.pi, len(MAINS_HARMONICS))
    harmonics = enumerate(zip(MAINS_HARMONICS, phase, strict=True), start=1)
    source = sum(
        (size * np.sin(2 * np.pi * MAINS_HZ * n * t + p) for n, (size, p) in harmonics), start=np.zeros(N_SAMPLES)
    )
    return generator.standard_normal((len(ELECTRODES), 1)) * source


def _band(generator: np.random.Generator, low_hz: float, high_hz: float) -> Floats:
    frequency = fft.rfftfreq(_SPAN, 1 / SAMPLING_RATE_HZ)
    inside = (frequency >= low_hz) & (frequency <= high_hz)
    parts = generator.standard_normal((2, len(ELECTRODES), int(inside.sum())))
    spectrum = np.zeros((len(ELECTRODES), len(frequency)), dtype=np.complex128)
    spectrum[:, inside] = parts[0] + 1j * parts[1]
    noise: Floats = fft.irfft(spectrum, n=_SPAN)[:, :N_SAMPLES]
    return noise


def ecg_power(signal: Signal) -> float:
    """S of the module's head, in square microvolt; 0 where nothing moves."""
    present = signal != MISSING
    if not present.any():
        return 0.0
    return float(np.mean(np.square(sosfiltfilt(_BASELINE, filled(signal), axis=1))[present]))


def add_noise(signal: Signal, noise: Noise, snr_db: float, generator: np.random.Generator) -> Signal:
    """The record with noise added at its electrodes.

    Args:
        signal: int16 (12, 5000), microvolt; not changed.
        noise: draws that of the electrodes.
        snr_db: signal-to-noise ratio as the module's head defines it.
        generator: of the draw.

    Returns:
        The noisy record, cut at the ends of int16; missing samples stay missing. A record in which nothing moves has no
        ratio and comes back as it is.
    """
    present = signal != MISSING
    power = ecg_power(signal)
    if power == 0:
        return signal.copy()
    leads = _LEADS_OF_ELECTRODES @ noise(generator)
    leads *= np.sqrt(power / np.mean(np.square(leads[present])) / 10 ** (snr_db / 10))
    return with_samples(signal, signal + leads)
