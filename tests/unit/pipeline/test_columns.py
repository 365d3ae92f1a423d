"""Columns of a shard as arrays, whatever chunks Arrow hands them in."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ecgmoe.ecg.record import N_LEADS, N_SAMPLES
from ecgmoe.pipeline.schema import r_peaks_of, signals_of, signals_to_array

PEAKS = [[10, 400, 900], [], [5], [7, 8]]


@pytest.mark.parametrize("chunks", [[4], [1, 3], [2, 0, 2], [3]])
def test_r_peaks_of_whole_and_cut_columns(chunks: list[int]) -> None:
    whole = pa.array(PEAKS, pa.list_(pa.int32()))
    starts = np.cumsum([0, *chunks])
    column = pa.chunked_array([whole.slice(at, n) for at, n in zip(starts, chunks, strict=False)], whole.type)
    assert [each.tolist() for each in r_peaks_of(column)] == PEAKS[: len(column)]
    # As a slice of an array that begins before it.
    assert [each.tolist() for each in r_peaks_of(whole.slice(2))] == PEAKS[2:]
    assert r_peaks_of(pa.chunked_array([], whole.type)) == []


def test_signals_of_a_single_chunk_are_not_copied() -> None:
    signal = np.random.default_rng(0).integers(-300, 300, (3, N_LEADS, N_SAMPLES)).astype(np.int16)
    array = signals_to_array(list(signal))
    found = signals_of(pa.chunked_array([array.slice(1)]))
    assert np.array_equal(found, signal[1:])
    assert np.shares_memory(found, signals_of(array))
    assert np.array_equal(signals_of(pa.chunked_array([array.slice(0, 1), array.slice(1)])), signal)
