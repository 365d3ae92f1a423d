"""DS_k equals scipy.signal.resample and treats every record by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import torch

from ecgmoe.backbones.resample import fourier_resample

REAL_RECORDS = 12
"""Some real records, spread over the folder, so that the test stays under a second."""


@pytest.mark.parametrize(
    ("length", "samples"), [(5000, 500), (5000, 512), (5000, 336), (5000, 501), (5001, 500), (500, 5000), (501, 5000)]
)
def test_it_is_scipys(length: int, samples: int) -> None:
    x = np.random.default_rng(0).normal(0, 1, (3, length))
    found = fourier_resample(torch.from_numpy(x), samples).numpy()
    # fp32 against fp64 on a few mV.
    assert np.abs(found - scipy.signal.resample(x, samples, axis=1)).max() < 1e-5


def test_a_tone_at_the_new_nyquist_frequency_keeps_its_amplitude_as_in_scipy() -> None:
    x = np.cos(np.pi * np.arange(5000) / 10)[None]
    found = fourier_resample(torch.from_numpy(x), 500).numpy()
    assert np.abs(found - scipy.signal.resample(x, 500, axis=1)).max() < 1e-5
    assert np.abs(np.abs(found) - 1).max() < 1e-5


def test_it_computes_in_fp32_under_autocast_and_on_bf16() -> None:
    x = torch.randn(2, 12, 5000, generator=torch.Generator().manual_seed(0))
    expected = fourier_resample(x, 500)
    with torch.autocast("cpu", torch.bfloat16):
        found = fourier_resample(x, 500)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert torch.equal(fourier_resample(x.bfloat16(), 500), fourier_resample(x.bfloat16().float(), 500))


def test_a_record_does_not_depend_on_its_neighbours() -> None:
    x = torch.randn(5, 12, 5000, generator=torch.Generator().manual_seed(0))
    together = fourier_resample(x, 512)
    x[torch.tensor([0, 1, 3, 4])] *= 1e6
    # Nothing but the last bits may depend on how the FFT is batched.
    assert (fourier_resample(x, 512)[2] - together[2]).norm() / together[2].norm() < 1e-6
    assert (fourier_resample(x[2:3], 512)[0] - together[2]).norm() / together[2].norm() < 1e-6


@pytest.mark.real_data
def test_it_is_scipys_on_real_records(shared_data: Path) -> None:
    files = sorted((shared_data / "ptbxl" / "records500").glob("*/*.dat"))
    assert len(files) >= REAL_RECORDS
    for file in files[:: len(files) // REAL_RECORDS]:
        # PTB-XL's files are int16, one sample of all leads after the other, 1000 per mV.
        raw = np.fromfile(file, "<i2").reshape(-1, 12).T / 1000
        for samples in (250, 336, 500, 512, 2500):
            found = fourier_resample(torch.from_numpy(raw), samples).numpy()
            assert np.abs(found - scipy.signal.resample(raw, samples, axis=1)).max() < 1e-4, file.name
