"""Conversion to the canonical record."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from ecgmoe.ecg.convert import to_canonical
from ecgmoe.ecg.record import LEADS, MISSING, RecordFault


def leads_mv(rate: float = 500, seconds: float = 10, hz: float = 3) -> npt.NDArray[np.float64]:
    """(n, 12): lead i is a sine of (i + 1) / 10 mV."""
    time = np.arange(round(rate * seconds)) / rate
    return np.sin(2 * np.pi * hz * time)[:, None] * (np.arange(12) + 1) / 10


def test_leads_are_matched_by_name_and_in_any_case() -> None:
    # MIMIC-IV-ECG has aVF before aVL, PTB-XL writes upper case, LUDB lower case.
    names = ["I", "ii", "III", "AVR", "AVF", "avl", *(f"v{i}" for i in range(1, 7)), "vx"]
    columns = [*range(4), 5, 4, *range(6, 12), 0]
    expected = to_canonical(leads_mv(), 500, LEADS)
    assert np.array_equal(to_canonical(leads_mv()[:, columns], 500, names), expected)
    assert expected.dtype == np.int16
    assert expected.shape == (12, 5000)
    assert expected[11].max() == 1200


def test_missing_and_duplicate_leads_are_named() -> None:
    with pytest.raises(RecordFault, match="lead aVF is missing"):
        to_canonical(leads_mv()[:, :11], 500, [lead for lead in LEADS if lead != "aVF"])
    with pytest.raises(RecordFault, match="lead II is there 2 times"):
        to_canonical(np.c_[leads_mv(), leads_mv()[:, 0]], 500, [*LEADS, "ii"])


def test_rounds_to_the_nearest_microvolt() -> None:
    signal = np.full((5000, 12), 0.0016)
    signal[:, 1] = -0.0016
    signal[:, 2] = 0.0014
    assert to_canonical(signal, 500, LEADS)[:3, 0].tolist() == [2, -2, 1]


def test_nan_becomes_missing_and_nothing_else_does() -> None:
    signal = leads_mv()
    signal[100:110, 4] = np.nan
    canonical = to_canonical(signal, 500, LEADS)
    assert np.argwhere(canonical == MISSING).tolist() == [[4, sample] for sample in range(100, 110)]


@pytest.mark.parametrize("rate", [100.0, 128.0, 250.0, 257.0, 360.0, 400.0, 1000.0])
def test_resampling_keeps_the_waveform(rate: float) -> None:
    canonical = to_canonical(leads_mv(rate, seconds=10.3), rate, LEADS)
    error = np.abs(canonical - to_canonical(leads_mv(), 500, LEADS)) / 1200
    # The filter rings at the start of the record, where it knows nothing of what came before.
    assert error[:, 250:].max() < 0.01


def test_resampling_does_not_alias() -> None:
    # 450 Hz at 1000 Hz would appear at 50 Hz if every second sample were taken.
    assert np.abs(to_canonical(leads_mv(1000, hz=450), 1000, LEADS)[:, 100:-100]).max() <= 12


def test_resampling_keeps_an_offset_and_a_flat_lead() -> None:
    signal = leads_mv(400) + 2.0
    signal[:, 3] = 0.25
    canonical = to_canonical(signal, 400, LEADS)
    assert np.all(canonical[3] == 250)
    assert abs(int(canonical[0, 0]) - 2000) < 20


def test_missing_samples_stay_missing_and_do_not_spread_when_resampled() -> None:
    signal = leads_mv(1000)
    signal[2000:2100, 7] = np.nan
    signal[:, 9] = np.nan
    canonical = to_canonical(signal, 1000, LEADS)
    assert np.flatnonzero(canonical[7] == MISSING).tolist() == list(range(1000, 1050))
    assert np.all(canonical[9] == MISSING)
    assert not np.any(canonical[8] == MISSING)


def test_longer_records_are_cut_to_their_first_ten_seconds() -> None:
    signal = leads_mv(seconds=30)
    assert np.array_equal(to_canonical(signal, 500, LEADS), to_canonical(signal[:5000], 500, LEADS))


def test_shorter_records_are_refused_or_padded_with_missing() -> None:
    signal = leads_mv(seconds=7.5)
    with pytest.raises(RecordFault, match=r"lasts 7\.5 s, 10 s are needed"):
        to_canonical(signal, 500, LEADS)
    padded = to_canonical(signal, 500, LEADS, pad_short=True)
    assert np.all(padded[:, 3750:] == MISSING)
    assert not np.any(padded[:, :3750] == MISSING)
    assert np.all(to_canonical(signal[:0], 400, LEADS, pad_short=True) == MISSING)


def test_amplitude_beyond_int16_is_refused_and_the_limit_itself_is_not() -> None:
    signal = leads_mv()
    signal[17, 6] = -32.767
    assert to_canonical(signal, 500, LEADS)[6, 17] == -32767
    signal[17, 6] = -32.768
    with pytest.raises(RecordFault, match=r"lead V1 reaches 32\.768 mV"):
        to_canonical(signal, 500, LEADS)
    signal[17, 6] = np.inf
    with pytest.raises(RecordFault, match="infinite"):
        to_canonical(signal, 500, LEADS)


@pytest.mark.parametrize("rate", [0.0, -500.0, 1.0, 1e9, float("nan"), float("inf")])
def test_implausible_rates_are_refused(rate: float) -> None:
    with pytest.raises(RecordFault, match="sampling rate"):
        to_canonical(leads_mv(), rate, LEADS)


def test_a_signal_that_does_not_fit_its_names_is_refused() -> None:
    with pytest.raises(RecordFault, match="12 leads"):
        to_canonical(leads_mv()[:, :11], 500, LEADS)
