"""The front end against plain numpy, and its edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ecgmoe.ecg.record import MISSING
from ecgmoe.model.batch import pad_r_peaks
from ecgmoe.model.frontend import CHARACTERISTICS, MAX_AFTER, MAX_BEFORE, characteristics, cut_beats, rr_summary


def peaks(*records: list[int]) -> torch.Tensor:
    return pad_r_peaks([np.array(record, dtype=np.int32) for record in records])


@pytest.mark.parametrize("record", [[100, 500, 880], [10, 400, 810, 1190, 1600], [5, 2000]])
def test_rr_summary_is_numpys(record: list[int]) -> None:
    rr = np.diff(record) * 2.0
    rmssd = np.sqrt(np.mean(np.diff(rr) ** 2)) if len(rr) > 1 else 0.0
    expected = [np.median(rr), rr.mean(), rr.std(), rr.min(), rr.max(), rmssd]
    longer = list(range(0, 4000, 100))
    found = rr_summary(peaks(record, longer))[0]
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float32), rtol=1e-6)


def test_rr_summary_without_an_interval_is_zero() -> None:
    assert torch.equal(rr_summary(peaks([], [1500])), torch.zeros(2, 6))


def test_a_beat_runs_from_midpoint_to_midpoint() -> None:
    ramp = torch.arange(5000, dtype=torch.float32).expand(1, 12, -1)
    beats = cut_beats(ramp, peaks([1000, 1300, 1700]), samples=101, max_beats=10)
    middle = beats.waveform[0, 1, 0]
    # RR 300 and 400 samples: from 1150 to 1500; the moving average does not change a ramp.
    assert middle[0].item() == pytest.approx(1150, abs=1e-2)
    assert middle[-1].item() == pytest.approx(1500, abs=1e-2)
    assert beats.timing[0, 1].tolist() == pytest.approx([0.6, 0.8, 1.0, 1.0, 0.3, 0.4])


def test_beats_without_neighbours_reach_to_the_bounds() -> None:
    ramp = torch.arange(5000, dtype=torch.float32).expand(1, 12, -1)
    beats = cut_beats(ramp, peaks([2000]), samples=64, max_beats=10)
    ends = beats.waveform[0, 0, 0, [0, -1]].tolist()
    assert ends == pytest.approx([2000 - MAX_BEFORE, 2000 + MAX_AFTER], abs=1e-2)
    assert beats.timing[0, 0, :4].tolist() == [0, 0, 0, 0]


def test_beats_at_the_edges_of_the_record_are_finite() -> None:
    x = torch.randn(1, 12, 5000)
    beats = cut_beats(x, peaks([0, 4999]), samples=64, max_beats=10)
    assert beats.waveform.isfinite().all()


def test_padding_and_the_number_of_beats_kept_do_not_change_a_beat() -> None:
    x = torch.randn(2, 12, 5000)
    alone = cut_beats(x[:1], peaks([300, 700, 1200]), samples=64, max_beats=3)
    beside = cut_beats(x, peaks([300, 700, 1200], list(range(100, 4900, 90))), samples=64, max_beats=40)
    first = cut_beats(x[:1], peaks([300, 700, 1200]), samples=64, max_beats=2)
    assert torch.equal(alone.waveform[0], beside.waveform[0, :3])
    assert beside.mask[0].sum() == 3
    # The third beat is not looked at, but the second still ends half-way to it.
    assert torch.equal(first.waveform[0], alone.waveform[0, :2])


def test_characteristics_are_numpys_and_count_faults() -> None:
    signal = np.random.default_rng(0).normal(0, 300, (1, 12, 5000)).astype(np.int16)
    signal[0, 3] = 0
    signal[0, 7, :500] = MISSING
    found = dict(
        zip(CHARACTERISTICS, characteristics(torch.from_numpy(signal), peaks([100, 600]))[0].tolist(), strict=True)
    )
    mv = signal[0, 0] / 1000
    assert found["mean_0"] == pytest.approx(mv.mean(), abs=1e-6)
    assert found["spread_0"] == pytest.approx(mv.std(), rel=1e-5)
    assert found["range_0"] == pytest.approx(mv.max() - mv.min(), rel=1e-6)
    assert found["flat_leads"] == 1
    assert found["missing_share"] == pytest.approx(500 / 60_000)
    assert found["heart_rate"] == pytest.approx(60)
    assert found["few_beats"] == 1
