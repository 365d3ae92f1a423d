"""Simulated people and their hearts: who is recorded when, in which rhythm, and with which intervals and amplitudes.

Age, sex and potassium each move many traits a little, against a spread between people that is larger than any one of
the effects, so that no single amplitude or interval gives them away but all of them together do. The directions are
those of electrocardiography textbooks (with age the axis turns left, PR, QRS and QT lengthen and voltages fall; women
have a longer QTc, a narrower QRS and flatter ST-T; a high potassium gives tall narrow T waves, flat P waves and a wide
QRS, a low one flat T waves and U waves); the sizes are chosen for the purpose above and are not estimates of anything.

Everything is vectorised: an array has one entry per patient or per study.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Times = npt.NDArray[np.datetime64]

OLDEST_STORED_AGE = 89
DAY_MINUTES = 1440


class Rhythm(IntEnum):
    """The clinical rhythm classes, numbered as in the `rhythm15` taxonomy."""

    PACED = 0
    VENTRICULAR_TACHYCARDIA = 1
    AV_BLOCK = 2
    FLUTTER = 3
    FIBRILLATION = 4
    SUPRAVENTRICULAR_TACHYCARDIA = 5
    JUNCTIONAL = 6
    ECTOPIC_ATRIAL = 7
    VENTRICULAR_PREMATURE = 8
    ATRIAL_PREMATURE = 9
    FIRST_DEGREE_BLOCK = 10
    SINUS_TACHYCARDIA = 11
    SINUS_BRADYCARDIA = 12
    SINUS_ARRHYTHMIA = 13
    SINUS_RHYTHM = 14


class Occurrence(NamedTuple):
    """How often a rhythm occurs at 60 years, at which ventricular rates, and its change in log-odds per decade."""

    share: float
    slowest_bpm: float
    fastest_bpm: float
    decade: float


OCCURRENCE: dict[Rhythm, Occurrence] = {
    Rhythm.PACED: Occurrence(0.045, 60, 88, 0.35),
    Rhythm.VENTRICULAR_TACHYCARDIA: Occurrence(0.018, 70, 200, 0.1),
    Rhythm.AV_BLOCK: Occurrence(0.022, 33, 62, 0.3),
    Rhythm.FLUTTER: Occurrence(0.030, 65, 155, 0.2),
    Rhythm.FIBRILLATION: Occurrence(0.080, 52, 145, 0.35),
    Rhythm.SUPRAVENTRICULAR_TACHYCARDIA: Occurrence(0.024, 135, 210, -0.1),
    Rhythm.JUNCTIONAL: Occurrence(0.022, 38, 95, 0.1),
    Rhythm.ECTOPIC_ATRIAL: Occurrence(0.026, 52, 105, 0.0),
    Rhythm.VENTRICULAR_PREMATURE: Occurrence(0.048, 56, 105, 0.2),
    Rhythm.ATRIAL_PREMATURE: Occurrence(0.040, 56, 105, 0.2),
    Rhythm.FIRST_DEGREE_BLOCK: Occurrence(0.048, 50, 98, 0.3),
    Rhythm.SINUS_TACHYCARDIA: Occurrence(0.082, 101, 145, -0.15),
    Rhythm.SINUS_BRADYCARDIA: Occurrence(0.102, 41, 59.5, 0.0),
    Rhythm.SINUS_ARRHYTHMIA: Occurrence(0.034, 55, 92, -0.3),
    Rhythm.SINUS_RHYTHM: Occurrence(0.480, 60.5, 99.5, -0.05),
}
PERSISTENCE = 0.6
"""Spread of each patient's own log-odds per rhythm: some people are always in atrial fibrillation."""


class Trait(NamedTuple):
    """One property of the waveform: mean, spread, and what moves it.

    Attributes:
        mean: of a man-woman average aged 60 with a normal potassium.
        person: standard deviation between people.
        study: standard deviation between the ECGs of one person.
        decade: change per decade of age.
        female: woman minus man.
        hyper: change at a very high potassium.
        hypo: change at a very low potassium.
    """

    mean: float
    person: float
    study: float
    decade: float = 0.0
    female: float = 0.0
    hyper: float = 0.0
    hypo: float = 0.0


# Names that begin with log_ are natural logarithms of a factor; the others carry their unit.
TRAITS: dict[str, Trait] = {
    "rate_z": Trait(0.0, 0.45, 0.45, -0.04, 0.30),
    "log_variability": Trait(-3.6, 0.40, 0.25, -0.14),
    "log_qrs_gain": Trait(0.0, 0.21, 0.06, -0.025, -0.05),
    "log_precordial_gain": Trait(0.0, 0.18, 0.06, 0.0, -0.05),
    "axis_deg": Trait(50.0, 21.0, 4.0, -4.4, 8.0),
    "posterior": Trait(0.30, 0.13, 0.03, 0.030, 0.05),
    "log_septal_gain": Trait(0.0, 0.28, 0.08, -0.06, -0.14),
    "log_basal_gain": Trait(0.0, 0.28, 0.08, -0.01, -0.12),
    "pr_ms": Trait(154.0, 15.0, 5.0, 5.0, -7.0, 14.0, 2.0),
    "p_ms": Trait(104.0, 9.0, 3.0, 3.0, -5.5, 6.0),
    "log_p_gain": Trait(0.0, 0.18, 0.08, -0.03, -0.03, -0.45, 0.10),
    "log_p_left_gain": Trait(0.0, 0.28, 0.08, 0.11),
    "qrs_ms": Trait(93.0, 8.5, 2.0, 1.5, -7.5, 15.0),
    "qtc_ms": Trait(412.0, 17.0, 5.0, 4.8, 15.0, -5.0, 22.0),
    "log_t_gain": Trait(-0.05, 0.20, 0.08, -0.05, -0.11, 0.50, -0.50),
    "t_axis_deg": Trait(38.0, 13.0, 4.0, -3.0, 3.0),
    "t_anterior": Trait(0.45, 0.20, 0.05, -0.06, -0.15, 0.15),
    "log_t_width": Trait(0.0, 0.10, 0.05, 0.015, 0.05, -0.30, 0.12),
    "t_asymmetry": Trait(1.55, 0.15, 0.06, -0.02, -0.13, -0.20),
    "st_mv": Trait(0.055, 0.030, 0.012, -0.005, -0.025, 0.0, -0.05),
    "u_mv": Trait(0.024, 0.012, 0.008, 0.0, 0.0, -0.012, 0.070),
}
ELECTRODE_SPREAD = 0.12
"""Spread of the logarithm of each precordial lead's gain: where the electrode was put, and what lies under it."""

POTASSIUM_ITEMS = {"serum": 0.80, "serum_other": 0.05, "whole_blood": 0.12, "whole_blood_other": 0.03}
"""Which potassium test is asked for, and how often."""


@dataclass(frozen=True, kw_only=True)
class Patients:
    """One entry per patient; `anchor_age` is the true one, also above 89."""

    subject_id: Ints
    female: Bools
    anchor_age: Ints
    anchor_year: Ints
    poor_kidneys: Bools

    def __len__(self) -> int:
        return len(self.subject_id)


@dataclass(frozen=True, kw_only=True)
class Studies:
    """One entry per ECG, in the order of patient and time.

    Attributes:
        study_id: eight digits.
        patient: row in `Patients`.
        time: datetime64[s].
        age: years, by the calendar year as in MIMIC-IV.
        female: of the patient.
        potassium: mmol/L at the time of the ECG.
        rhythm: values of `Rhythm`.
        rate_bpm: ventricular rate the rhythm aims at.
        traits: name of `TRAITS` to values.
        electrode_gain: (n, 6) factors on V1..V6.
        focus: (n, 3) unit vector along which ventricular ectopic beats of this patient spread.
        right_bundle_block: terminal forces to the right, wide QRS.
        st_elevation: acute anterior ST elevation.
        poor_quality: several times the usual muscle noise.
    """

    study_id: Ints
    patient: Ints
    time: Times
    age: Ints
    female: Bools
    potassium: Floats
    rhythm: Ints
    rate_bpm: Floats
    traits: dict[str, Floats]
    electrode_gain: Floats
    focus: Floats
    right_bundle_block: Bools
    st_elevation: Bools
    poor_quality: Bools

    def __len__(self) -> int:
        return len(self.study_id)

    def rows(self, chosen: slice) -> Studies:
        """The same for some studies."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        traits = {name: value[chosen] for name, value in values.pop("traits").items()}
        return Studies(traits=traits, **{name: value[chosen] for name, value in values.items()})


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Laboratory samples, one entry each, in no particular order.

    Attributes:
        study: row in `Studies` of the ECG near which it was drawn.
        item: key of `POTASSIUM_ITEMS`, or creatinine, sodium, urine (potassium).
        time: datetime64[s] of the draw.
        value: in the item's unit, as measured.
        haemolysed: red cells burst in the tube, and their potassium came out.
    """

    study: Ints
    item: npt.NDArray[np.str_]
    time: Times
    value: Floats
    haemolysed: Bools


def draw_patients(rng: np.random.Generator, count: int) -> Patients:
    """People of both sexes from 18 years up to the late nineties, older ones more often."""
    age = np.clip(np.rint(rng.normal(61, 18.5, count)), 18, 98).astype(np.int64)
    young = age == 18
    age[young] = rng.integers(18, 50, young.sum())
    return Patients(
        subject_id=10_000_000 + np.sort(rng.choice(10_000_000, count, replace=False)),
        female=rng.random(count) < 0.49,
        anchor_age=age,
        anchor_year=rng.integers(2110, 2200, count),
        poor_kidneys=rng.random(count) < 0.08 + 0.14 * (age > 60),
    )


def draw_studies(rng: np.random.Generator, patients: Patients, count: int) -> Studies:
    """ECGs of these patients: at least one each, the rest unevenly, months apart.

    Args:
        rng: the only source of randomness.
        patients: whose ECGs these are.
        count: of ECGs, at least the number of patients.
    """
    share = rng.gamma(0.6, size=len(patients)) + 1e-9
    per_patient = 1 + rng.multinomial(count - len(patients), share / share.sum())
    patient = np.repeat(np.arange(len(patients)), per_patient)
    time = _draw_times(rng, patients, patient)
    year = time.astype("datetime64[Y]").astype(np.int64) + 1970
    age = patients.anchor_age[patient] + year - patients.anchor_year[patient]
    female = patients.female[patient]
    potassium = _draw_potassium(rng, patients.poor_kidneys[patient])
    rhythm = _draw_rhythm(rng, patient, age)
    traits = _draw_traits(rng, patient, age, female, potassium)
    slowest, fastest = (np.array([OCCURRENCE[r][i] for r in Rhythm])[rhythm] for i in (1, 2))
    right_bundle_block = rng.random(count) < 0.05 * np.exp(0.3 * (age - 60) / 10)
    traits["qrs_ms"] = np.clip(traits["qrs_ms"], 68, 150) + 38 * right_bundle_block
    traits["pr_ms"] = _pr_of_rhythm(rng, traits["pr_ms"], rhythm)
    focus = rng.normal(size=(len(patients), 3))
    focus /= np.linalg.norm(focus, axis=1, keepdims=True)
    electrode = rng.normal(0, ELECTRODE_SPREAD, (len(patients), 6))[patient] + rng.normal(0, 0.04, (count, 6))
    return Studies(
        study_id=rng.permutation(40_000_000 + rng.choice(10_000_000, count, replace=False)),
        patient=patient,
        time=time,
        age=age,
        female=female,
        potassium=potassium,
        rhythm=rhythm,
        rate_bpm=slowest + (fastest - slowest) * ndtr(traits["rate_z"]),
        traits=traits,
        electrode_gain=np.exp(electrode),
        focus=focus[patient],
        right_bundle_block=right_bundle_block,
        st_elevation=rng.random(count) < 0.012,
        poor_quality=rng.random(count) < 0.010,
    )


def _draw_times(rng: np.random.Generator, patients: Patients, patient: Ints) -> Times:
    """The first ECG in the anchor year, each further one some months later; to the minute, as the carts store it."""
    first = np.r_[True, patient[1:] != patient[:-1]]
    gap_days = np.where(first, 0.0, rng.exponential(140.0, len(patient)) + 0.05)
    elapsed = np.cumsum(gap_days)
    elapsed -= elapsed[first][patient]
    start = (patients.anchor_year - 1970).astype("datetime64[Y]").astype("datetime64[m]")
    start = start + (rng.random(len(patients)) * 365 * DAY_MINUTES).astype("timedelta64[m]")
    return (start[patient] + (elapsed * DAY_MINUTES).astype("timedelta64[m]")).astype("datetime64[s]")


def _draw_potassium(rng: np.random.Generator, poor_kidneys: Bools) -> Floats:
    """Mostly normal; high above all where the kidneys are poor, low mostly where they are not. mmol/L."""
    count = len(poor_kidneys)
    u = rng.random(count)
    high = u < np.where(poor_kidneys, 0.42, 0.08)
    low = u > np.where(poor_kidneys, 0.95, 0.85)
    normal = np.clip(rng.normal(4.2, 0.33, count), 3.3, 5.2)
    potassium = np.where(high, 5.0 + rng.gamma(2.0, 0.50, count), normal)
    potassium = np.where(low, 3.5 - rng.gamma(2.0, 0.22, count), potassium)
    return np.clip(potassium, 2.1, 8.5)


def _draw_rhythm(rng: np.random.Generator, patient: Ints, age: Ints) -> Ints:
    """Each rhythm's share, tilted by age and by the patient's own leanings."""
    share, decade = (np.array([OCCURRENCE[r][i] for r in Rhythm]) for i in (0, 3))
    leaning = rng.normal(0, PERSISTENCE, (patient[-1] + 1, len(Rhythm)))
    log_odds = np.log(share) + decade * (age[:, None] - 60) / 10 + leaning[patient]
    return np.argmax(log_odds + rng.gumbel(size=log_odds.shape), axis=1)


def potassium_doses(potassium: Floats) -> tuple[Floats, Floats]:
    """How strongly a high and a low potassium act on the waveform: 0 in the middle of the normal range, towards 1."""
    high = 1 - np.exp(-np.maximum(potassium - 4.85, 0) / 0.8)
    low = 1 - np.exp(-np.maximum(3.75 - potassium, 0) / 0.5)
    return high, low


def _draw_traits(
    rng: np.random.Generator, patient: Ints, age: Ints, female: Bools, potassium: Floats
) -> dict[str, Floats]:
    people, count = patient[-1] + 1, len(patient)
    decades = (age - 60) / 10
    high, low = potassium_doses(potassium)
    traits = {}
    for name, trait in TRAITS.items():
        spread = rng.normal(0, trait.person, people)[patient] + rng.normal(0, trait.study, count)
        moved = trait.decade * decades + trait.female * (female - 0.5) + trait.hyper * high + trait.hypo * low
        traits[name] = trait.mean + spread + moved
    traits["u_mv"] = np.maximum(traits["u_mv"], 0.0)
    traits["p_ms"] = np.clip(traits["p_ms"], 70, 150)
    return traits


def _pr_of_rhythm(rng: np.random.Generator, pr_ms: Floats, rhythm: Ints) -> Floats:
    """PR is below 200 ms by definition without a first-degree block, and shorter when the heart is fast."""
    blocked = 205 + rng.gamma(1.6, 22.0, len(pr_ms)) + 0.3 * (pr_ms - 154)
    pr = np.clip(pr_ms, 105, 198)
    pr = np.where(rhythm == Rhythm.SINUS_TACHYCARDIA, 0.85 * pr, pr)
    return np.where(rhythm == Rhythm.FIRST_DEGREE_BLOCK, np.clip(blocked, 202, 330), pr)


def draw_samples(rng: np.random.Generator, patients: Patients, studies: Studies) -> Samples:
    """Potassium near most ECGs (within the hour for about 60 %), other potassium far from them, and other tests."""
    names, shares = list(POTASSIUM_ITEMS), list(POTASSIUM_ITEMS.values())
    parts: list[tuple[Ints, npt.NDArray[np.str_], Floats, Floats, Bools]] = []
    for share, near in ((0.68, True), (0.35, False)):
        study = np.flatnonzero(rng.random(len(studies)) < share)
        n = len(study)
        minutes = rng.normal(0, 30, n) if near else rng.choice([-1.0, 1.0], n) * rng.uniform(65, 900, n)
        haemolysed = rng.random(n) < 0.035
        # Hours away the blood has changed; within the hour only the assay's own error counts.
        error = rng.normal(0, 0.07 if near else 0.5, n) + haemolysed * rng.gamma(2.0, 0.4, n)
        parts.append((study, rng.choice(names, n, p=shares), minutes, studies.potassium[study] + error, haemolysed))
    poor = patients.poor_kidneys[studies.patient].astype(np.float64)
    others: dict[str, Floats] = {"creatinine": 0.9 + 2.2 * poor, "sodium": 139.0 + 0 * poor, "urine": 45.0 + 0 * poor}
    for test, typical in others.items():
        study = np.flatnonzero(rng.random(len(studies)) < (0.04 if test == "urine" else 0.5))
        n = len(study)
        value = typical[study] * np.exp(rng.normal(0, 0.02 if test == "sodium" else 0.25, n))
        parts.append((study, np.full(n, test), rng.normal(0, 90, n), value, np.zeros(n, dtype=bool)))
    study, minutes, value, haemolysed = (np.concatenate([part[i] for part in parts]) for i in (0, 2, 3, 4))
    return Samples(
        study=study,
        item=np.concatenate([part[1] for part in parts]),
        time=studies.time[study] + np.rint(minutes).astype("timedelta64[m]"),
        value=value,
        haemolysed=haemolysed,
    )
