"""Simulated 12-lead waveforms: beats placed in time, waves as Gaussians of a heart vector, leads, noise.

Legend: n studies, B beats, K components, T samples, 8 independent leads (I, II, V1..V6).

Every wave is a component with one direction of the heart vector (X left, Y down, Z back; mV), seen by the leads through
Dower's matrix (Dower et al., J Electrocardiol 1980). III, aVR, aVL and aVF follow from I and II, noise included, so
that Einthoven's and Goldberger's relations hold up to the quantisation.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from ecgmoe.ecg.physiology import Bools, Floats, Ints, Rhythm, Studies
from ecgmoe.ecg.record import DURATION_S, N_SAMPLES, SAMPLING_RATE_HZ

Signals = npt.NDArray[np.float32]
BEATS = 56
"""Enough for 13 s at 250 per minute."""
MARGIN_S = 1.5
"""Beats are placed this far beyond both ends, so that their waves are cut rather than missing."""

DOWER = np.array(
    [
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)
FIRST_PRECORDIAL = 2
LIMB_TO_12 = np.zeros((12, 8))
LIMB_TO_12[:6, :2] = np.array([[1, 0], [0, 1], [-1, 1], [-0.5, -0.5], [1, -0.5], [-0.5, 1]])
LIMB_TO_12[6:, 2:] = np.eye(6)


class Component(IntEnum):
    """What a heart vector is made of; one row each in the mixing matrix."""

    P_RIGHT = 0
    P_LEFT = 1
    P_ECTOPIC = 2
    SEPTAL = 3
    MAIN = 4
    BASAL = 5
    ST = 6
    T = 7
    U = 8
    WIDE_FIRST = 9
    WIDE_SECOND = 10
    WIDE_T = 11
    SPIKE = 12
    ATRIAL = 13
    ATRIAL_SIDE = 14


class AVBlock(IntEnum):
    """How beats are lost between atria and ventricles."""

    NONE = 0
    WENCKEBACH = 1
    TWO_TO_ONE = 2
    COMPLETE = 3


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """When the heart beats. Times are seconds from the start of the record, NaN where there is nothing.

    Attributes:
        r: (n, B) R peaks, or the main deflection of a wide beat.
        wide: (n, B) the beat starts in a ventricle.
        p: (n, B) onsets of P waves.
        p_ectopic: (n, B) that P wave does not come from the sinus node.
        atrial_hz: (n,) rate of flutter or fibrillation waves, 0 without.
        av_block: (n,) values of `AVBlock`.
    """

    r: Floats
    wide: Bools
    p: Floats
    p_ectopic: Bools
    atrial_hz: Floats
    av_block: Ints

    def rows(self, chosen: slice) -> Timeline:
        """The same for some studies."""
        return Timeline(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})

    def r_samples(self) -> list[Ints]:
        """R peaks inside the record, as sample numbers."""
        samples = np.rint(self.r * SAMPLING_RATE_HZ)
        return [row[inside].astype(np.int64) for row, inside in zip(samples, self._inside(), strict=True)]

    def median_rr_ms(self) -> Floats:
        """Median R-R of the beats inside the record: (n,)."""
        inside = np.where(self._inside(), self.r, np.nan)
        return 1000 * np.nanmedian(np.diff(inside, axis=1), axis=1)

    def _inside(self) -> Bools:
        samples = np.rint(self.r * SAMPLING_RATE_HZ)
        return (samples >= 0) & (samples < N_SAMPLES)


# Share of R-R by which it varies, where the rhythm sets it rather than breathing and the person's own variability.
OWN_VARIABILITY = {
    Rhythm.PACED: 0.002,
    Rhythm.VENTRICULAR_TACHYCARDIA: 0.015,
    Rhythm.SUPRAVENTRICULAR_TACHYCARDIA: 0.004,
    Rhythm.JUNCTIONAL: 0.010,
    Rhythm.FLUTTER: 0.003,
}


def draw_timeline(rng: np.random.Generator, studies: Studies) -> Timeline:
    """Place the beats of every study according to its rhythm."""
    n, rhythm = len(studies), studies.rhythm
    rr0 = 60 / studies.rate_bpm
    rr = rr0[:, None] * _variation(rng, studies, rr0)
    atrial_hz = np.where(rhythm == Rhythm.FIBRILLATION, rng.uniform(5.0, 8.0, n), 0.0)
    flutter = rhythm == Rhythm.FLUTTER
    atrial_hz[flutter], rr[flutter] = _flutter(rng, studies.rate_bpm[flutter])
    early = _premature(rng, rhythm)
    after = np.roll(early, 1, axis=1) & (np.arange(BEATS) > 0)
    coupling = rng.uniform(0.55, 0.74, (n, 1))
    ventricular = (rhythm == Rhythm.VENTRICULAR_PREMATURE)[:, None]
    rr = np.where(early, coupling * rr, rr)
    # The sinus node goes on undisturbed under a ventricular beat; an atrial one resets it.
    rr = np.where(after, np.where(ventricular, 2 - coupling, 1.08) * rr, rr)
    r = -MARGIN_S + np.cumsum(rr, axis=1) - rr0[:, None] * rng.random((n, 1))
    wide = (early & ventricular) | np.isin(rhythm, (Rhythm.PACED, Rhythm.VENTRICULAR_TACHYCARDIA))[:, None]
    p, p_ectopic = _atrial_beats(rng, studies, r, early, wide)
    blocked = rhythm == Rhythm.AV_BLOCK
    av_block = np.where(blocked, rng.integers(AVBlock.WENCKEBACH, AVBlock.COMPLETE + 1, n), AVBlock.NONE)
    p[blocked], r[blocked], wide[blocked] = _av_block(rng, studies, blocked, av_block[blocked, None])
    return Timeline(r=r, wide=wide, p=p, p_ectopic=p_ectopic, atrial_hz=atrial_hz, av_block=av_block)


def _variation(rng: np.random.Generator, studies: Studies, rr0: Floats) -> Floats:
    """Factor on R-R, (n, B): breathing and a random part, or irregular altogether in atrial fibrillation."""
    n, rhythm = len(studies), studies.rhythm
    swing = np.exp(np.minimum(studies.traits["log_variability"], -2.8))
    for own, share in OWN_VARIABILITY.items():
        swing[rhythm == own] = share
    arrhythmic = rhythm == Rhythm.SINUS_ARRHYTHMIA
    swing[arrhythmic] = rng.uniform(0.10, 0.20, arrhythmic.sum())
    turns = rng.uniform(0.17, 0.28, (n, 1)) * rr0[:, None] * np.arange(BEATS) + rng.random((n, 1))
    noise = rng.normal(size=(n, BEATS))
    regular = 1 + swing[:, None] * (np.sin(2 * np.pi * turns) + 0.35 * np.clip(noise, -3, 3))
    irregular = np.clip(np.exp(0.22 * noise - 0.02), 0.30 / rr0[:, None], 2.2)
    return np.where((rhythm == Rhythm.FIBRILLATION)[:, None], irregular, regular)


def _flutter(rng: np.random.Generator, rate_bpm: Floats) -> tuple[Floats, Floats]:
    """Atrial rate in Hz, and R-R as a multiple of its cycle: fixed 2:1 to 4:1 conduction, or a changing one."""
    n = len(rate_bpm)
    ratio = np.clip(np.rint(280 / rate_bpm), 2, 4)[:, None].repeat(BEATS, axis=1)
    changing = rng.choice(np.array([2.0, 3.0, 4.0]), size=(n, BEATS), p=[0.35, 0.25, 0.40])
    ratio = np.where(rng.random((n, 1)) < 0.3, changing, ratio)
    atrial_hz = rng.uniform(240, 320, n) / 60
    return atrial_hz, ratio / atrial_hz[:, None]


def _premature(rng: np.random.Generator, rhythm: Ints) -> Bools:
    """Every 2nd to 6th beat is early, (n, B): often enough that a record always holds one."""
    n = len(rhythm)
    every = rng.choice(np.array([2, 3, 4, 5, 6]), size=(n, 1), p=[0.12, 0.18, 0.25, 0.25, 0.20])
    early = (np.arange(BEATS) + rng.integers(0, 6, (n, 1))) % every == 0
    premature = np.isin(rhythm, (Rhythm.VENTRICULAR_PREMATURE, Rhythm.ATRIAL_PREMATURE))
    return early & premature[:, None] & (np.arange(BEATS) > 0)


def _atrial_beats(
    rng: np.random.Generator, studies: Studies, r: Floats, early: Bools, wide: Bools
) -> tuple[Floats, Bools]:
    """P onsets and whether they are ectopic, both (n, B)."""
    n, rhythm = len(studies), studies.rhythm
    qrs_s, pr_s = studies.traits["qrs_ms"] / 1000, studies.traits["pr_ms"] / 1000
    before = r - (0.45 * qrs_s + pr_s)[:, None]
    junctional, svt = rhythm == Rhythm.JUNCTIONAL, rhythm == Rhythm.SUPRAVENTRICULAR_TACHYCARDIA
    place = rng.random(n)
    # Retrograde: shortly before or after the QRS, more often hidden in it.
    retrograde = np.where(place < 0.25, -0.115 - 0.45 * qrs_s, np.where(place < 0.4, 0.06, np.nan))
    retrograde = np.where(svt, np.where(place < 0.5, 0.03, np.nan), retrograde)
    p = np.where((junctional | svt)[:, None], r + retrograde[:, None], before)
    tracked = rhythm == Rhythm.PACED
    sinus_paced = tracked & (rng.random(n) < 0.4)
    none = np.isin(rhythm, (Rhythm.FIBRILLATION, Rhythm.FLUTTER)) | (tracked & ~sinus_paced)
    p = np.where(none[:, None] | (wide & ~sinus_paced[:, None]), np.nan, p)
    dissociated = rhythm == Rhythm.VENTRICULAR_TACHYCARDIA
    p[dissociated] = _regular(rng, rng.uniform(0.6, 0.9, dissociated.sum()))
    ectopic = junctional | svt | (rhythm == Rhythm.ECTOPIC_ATRIAL)
    return p, ectopic[:, None] | (early & (rhythm == Rhythm.ATRIAL_PREMATURE)[:, None])


def _regular(rng: np.random.Generator, interval_s: Floats) -> Floats:
    """Times at a nearly regular interval from before the record on: (n, B)."""
    steps = interval_s[:, None] * (1 + 0.015 * rng.normal(size=(len(interval_s), BEATS)))
    return -MARGIN_S - interval_s[:, None] * rng.random((len(interval_s), 1)) + np.cumsum(steps, axis=1)


def _av_block(rng: np.random.Generator, studies: Studies, rows: Bools, kind: Ints) -> tuple[Floats, Floats, Bools]:
    """P onsets, R peaks and wide beats of the studies in `rows`, each (n, B); `kind` (n, 1) holds `AVBlock`."""
    n = len(kind)
    p = _regular(rng, rng.uniform(0.62, 0.95, n))
    order = np.arange(BEATS)
    position = order % rng.integers(3, 6, (n, 1))
    last = np.roll(position, -1, axis=1) == 0
    pr = (studies.traits["pr_ms"][rows] + 25)[:, None] / 1000 + 0.45 * studies.traits["qrs_ms"][rows, None] / 1000
    wenckebach = np.where(last, np.nan, p + pr + 0.07 * np.sqrt(position))
    two_to_one = np.where(order % 2 == 0, p + pr, np.nan)
    escape = _regular(rng, rng.uniform(1.15, 1.75, n))
    second_degree = [kind == AVBlock.WENCKEBACH, kind == AVBlock.TWO_TO_ONE]
    r = np.sort(np.select(second_degree, [wenckebach, two_to_one], escape), axis=1)
    wide = (kind == AVBlock.COMPLETE) & (rng.random((n, 1)) < 0.5)
    return p, r, np.broadcast_to(wide, r.shape)


def synthesise(seed: int, studies: Studies, timeline: Timeline) -> Signals:
    """The 12 leads in the order of `record.LEADS`: (n, 12, T) mV, before quantisation.

    The noise of a record depends on `seed` and its study_id alone, not on which records are made together.
    """
    sources = _sources(seed, studies, timeline)
    leads = _lead_weights(studies).astype(np.float32) @ sources
    for row, study_id in enumerate(studies.study_id):
        rng = np.random.default_rng((seed, int(study_id)))
        leads[row] += _noise(rng, 6.0 if studies.poor_quality[row] else 1.0)
    return LIMB_TO_12.astype(np.float32) @ leads


def _lead_weights(studies: Studies) -> Floats:
    """What each independent lead sees of each component: (n, 8, K) mV."""
    n, traits = len(studies), studies.traits
    vectors = np.zeros((n, 3, len(Component)))
    gain = np.exp(traits["log_qrs_gain"])
    # The leads' own axes are turned against the heart vector's by about 18 degrees in Dower's torso.
    axis, t_axis = np.deg2rad(traits["axis_deg"] - 18), np.deg2rad(traits["t_axis_deg"])
    block = studies.right_bundle_block
    t = 0.36 * np.exp(traits["log_t_gain"])
    p, st = np.exp(traits["log_p_gain"]), traits["st_mv"] + 0.22 * studies.st_elevation
    ectopic = np.where(studies.rhythm == Rhythm.ATRIAL_PREMATURE, 0.35, -0.9)
    basal = np.exp(traits["log_basal_gain"]) * gain
    paced = studies.rhythm == Rhythm.PACED
    focus = 1.35 * np.where(paced[:, None], [0.52, -0.66, 0.54], studies.focus)
    for component, (left, down, back) in {
        Component.P_RIGHT: (0.030 * p, 0.090 * p, -0.045 * p),
        Component.P_LEFT: tuple(x * p * np.exp(traits["log_p_left_gain"]) for x in (0.055, 0.050, 0.055)),
        Component.P_ECTOPIC: (0.035 * p, 0.095 * p * ectopic, 0.030 * p),
        Component.SEPTAL: tuple(x * gain * np.exp(traits["log_septal_gain"]) for x in (-0.12, -0.05, -0.20)),
        Component.MAIN: (1.18 * gain * np.cos(axis), 1.18 * gain * np.sin(axis), 1.18 * gain * traits["posterior"]),
        Component.BASAL: tuple(np.where(block, b, a) * basal for a, b in ((-0.05, -0.45), (-0.10, 0.0), (0.60, -0.55))),
        Component.ST: (0.25 * st, 0.08 * st, -0.70 * st),
        Component.T: (t * np.cos(t_axis), t * np.sin(t_axis), -t * traits["t_anterior"]),
        Component.U: tuple(x * traits["u_mv"] for x in (0.55, 0.40, -0.65)),
        Component.WIDE_FIRST: tuple(focus.T * gain),
        Component.WIDE_SECOND: tuple(0.45 * focus[:, [1, 2, 0]].T * gain),
        Component.WIDE_T: tuple(-0.38 * focus.T * gain),
        Component.SPIKE: (0.25, -0.65, 0.35),
        Component.ATRIAL: (0.02, 0.16, -0.08),
        Component.ATRIAL_SIDE: (-0.03, 0.02, -0.10),
    }.items():
        vectors[:, :, component] = np.stack([np.broadcast_to(x, n) for x in (left, down, back)], axis=1)
    weights = DOWER @ vectors
    weights[:, FIRST_PRECORDIAL:] *= studies.electrode_gain[:, :, None]
    ventricles = [Component.SEPTAL, Component.MAIN, Component.BASAL]
    weights[:, FIRST_PRECORDIAL:, ventricles] *= np.exp(traits["log_precordial_gain"])[:, None, None]
    return weights


def _sources(seed: int, studies: Studies, timeline: Timeline) -> Signals:
    """Each component over time, of height 1: (n, K, T)."""
    traits, r = studies.traits, timeline.r
    qrs, p_s = (traits[name][:, None] / 1000 for name in ("qrs_ms", "p_ms"))
    rr_s = np.clip(timeline.median_rr_ms()[:, None] / 1000, 0.30, 1.6)
    block = studies.right_bundle_block[:, None]
    narrow, wide = np.where(timeline.wide, np.nan, r), np.where(timeline.wide, r, np.nan)
    normal_p, ectopic_p = (np.where(e, timeline.p, np.nan) for e in (~timeline.p_ectopic, timeline.p_ectopic))
    # Fridericia: QT grows with the cube root of R-R.
    qt = traits["qtc_ms"][:, None] / 1000 * np.cbrt(rr_s)
    fall = 0.043 * np.exp(traits["log_t_width"][:, None]) * np.sqrt(rr_s / 0.85)
    rise = fall * np.clip(traits["t_asymmetry"][:, None], 1.0, 2.2)
    t_peak = narrow - 0.45 * qrs + qt - 2.1 * fall
    depolarised = np.where(studies.rhythm[:, None] == Rhythm.PACED, 0.150, 0.138) + 0.3 * (qrs - 0.093)
    spike = np.where(studies.rhythm[:, None] == Rhythm.PACED, wide - 0.45 * depolarised - 0.012, np.nan)
    sources = np.zeros((len(studies), len(Component), N_SAMPLES), dtype=np.float32)
    for component, centre, left, right in (
        (Component.P_RIGHT, normal_p + 0.36 * p_s, 0.15 * p_s, 0.15 * p_s),
        (Component.P_LEFT, normal_p + 0.66 * p_s, 0.15 * p_s, 0.15 * p_s),
        (Component.P_ECTOPIC, ectopic_p + 0.45 * p_s, 0.17 * p_s, 0.17 * p_s),
        (Component.SEPTAL, narrow - 0.29 * qrs, 0.09 * qrs, 0.09 * qrs),
        (Component.MAIN, narrow, 0.125 * qrs, 0.125 * qrs),
        (Component.BASAL, narrow + np.where(block, 0.36, 0.28) * qrs, 0.12 * qrs, 0.12 * qrs),
        (Component.ST, narrow + 0.55 * qrs + 0.16 * qt, 0.09 * qt, 0.12 * qt),
        (Component.T, t_peak, rise, fall),
        (Component.U, t_peak + 2.1 * fall + 0.085 * np.sqrt(rr_s), 0.034 + 0 * fall, 0.042 + 0 * fall),
        (Component.WIDE_FIRST, wide, 0.20 * depolarised, 0.24 * depolarised),
        (Component.WIDE_SECOND, wide + 0.42 * depolarised, 0.20 * depolarised, 0.20 * depolarised),
        (Component.WIDE_T, wide - 0.45 * depolarised + 1.04 * qt - 2.1 * fall, 1.3 * fall, fall),
        (Component.SPIKE, spike, 0.0012 + 0 * qrs, 0.0016 + 0 * qrs),
    ):
        sources[:, component] = _bumps(centre, left[:, 0], right[:, 0])
    _atrial_waves(seed, studies, timeline, sources)
    return sources


def _bumps(centre_s: Floats, left_s: Floats, right_s: Floats) -> Signals:
    """Sum over beats of Gaussians with their own width on either side: (n, B), (n,), (n,) in seconds to (n, T)."""
    n, reach = len(centre_s), int(0.35 * SAMPLING_RATE_HZ)
    row, beat = np.nonzero((centre_s > -0.3) & (centre_s < DURATION_S + 0.3))
    centre = (centre_s[row, beat] * SAMPLING_RATE_HZ)[:, None]
    half = min(reach, int(np.ceil(4.5 * SAMPLING_RATE_HZ * max(left_s.max(), right_s.max()))) + 1)
    sample = np.floor(centre).astype(np.int64) + np.arange(-half, half + 1)
    distance = (sample - centre).astype(np.float32)
    left, right = ((-0.5 / (x[row, None] * SAMPLING_RATE_HZ) ** 2).astype(np.float32) for x in (left_s, right_s))
    exponent = distance * distance * np.where(distance < 0, left, right)
    # Below exp(-10) a bump is cut, however wide the others are: a record must not depend on its neighbours.
    height = np.where(exponent > -10, np.exp(np.maximum(exponent, -10)), 0)
    padded = N_SAMPLES + 4 * reach
    place = row[:, None] * padded + sample + 2 * reach
    total = np.bincount(place.ravel(), weights=height.ravel(), minlength=n * padded)
    return total.reshape(n, padded)[:, 2 * reach : 2 * reach + N_SAMPLES].astype(np.float32)


def _atrial_waves(seed: int, studies: Studies, timeline: Timeline, sources: Signals) -> None:
    """Write the sawtooth of flutter, locked to the beats, and the restless waves of fibrillation into `sources`."""
    t = np.arange(N_SAMPLES) / SAMPLING_RATE_HZ
    for row in np.flatnonzero(timeline.atrial_hz > 0):
        phase = 2 * np.pi * timeline.atrial_hz[row] * (t - timeline.r[row, 0])
        if studies.rhythm[row] == Rhythm.FLUTTER:
            sources[row, Component.ATRIAL] = sum(np.sin(k * phase) / k for k in (1, 2, 3)) * 0.75
            continue
        whim = np.random.default_rng((seed, int(studies.study_id[row]), 2))
        angle = 2 * np.pi * np.array([[0.45], [1.3], [0.35]]) * t + 2 * np.pi * whim.random((3, 1))
        slow, fast, breath = np.sin(angle)
        size = whim.uniform(0.25, 0.6) * (1 + 0.4 * breath)
        wave = phase + 1.4 * slow + 0.9 * fast
        sources[row, Component.ATRIAL] = 0.4 * size * np.sin(wave + 1)
        sources[row, Component.ATRIAL_SIDE] = size * (np.sin(wave) + 0.3 * np.sin(2 * wave))


def _noise(rng: np.random.Generator, factor: float) -> Signals:
    """Baseline wander, muscle noise and a trace of mains for the independent leads: (8, T) mV."""
    t = np.arange(N_SAMPLES, dtype=np.float32) * np.float32(2 * np.pi / SAMPLING_RATE_HZ)
    hz = np.array([*rng.uniform(0.05, 0.45, 3), 60.0], dtype=np.float32)
    size = np.array([0.035, 0.025, 0.020, 0.0015], dtype=np.float32) * np.exp(rng.normal(0, 0.4))
    angle = hz[:, None] * t + rng.uniform(0, 2 * np.pi, (4, 1)).astype(np.float32)
    wander = (rng.standard_normal((8, 4), dtype=np.float32) * size) @ np.sin(angle)
    white = rng.standard_normal((8, N_SAMPLES + 1), dtype=np.float32)
    muscle = factor * 0.0065 * np.exp(rng.normal(0, 0.35))
    return wander + np.float32(muscle) * (white[:, 1:] + white[:, :-1])
