"""Front end, on the device: int16 to millivolt, beats cut at the R peaks, RR intervals, global characteristics.

Legend: B batch, C 12 leads, T 5000 samples, N beats (padded), L samples per beat, X global characteristics.
Nothing here has weights. A beat that is padding is False in `mask` and its values mean nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ecgmoe.backbones.signal import to_millivolt
from ecgmoe.ecg.record import MISSING, N_LEADS, SAMPLING_RATE_HZ

MS_PER_SAMPLE = 1000 / SAMPLING_RATE_HZ
MAX_BEFORE = int(0.40 * SAMPLING_RATE_HZ)
"""A beat reaches at most 400 ms before its R peak: enough for the P wave of a first-degree block."""
MAX_AFTER = int(0.60 * SAMPLING_RATE_HZ)
"""And at most 600 ms after it: the end of the T wave at slow rates."""

SUMMARY = ("median", "mean", "sd", "min", "max", "rmssd")
CHARACTERISTICS = (
    *(f"{kind}_{lead}" for kind in ("mean", "spread", "range") for lead in range(N_LEADS)),
    "heart_rate",
    "rr_spread",
    "beats",
    "missing_share",
    "flat_leads",
    "few_beats",
)


@dataclass(frozen=True, kw_only=True)
class Beats:
    """The beats of B records.

    Attributes:
        waveform: (B, N, C, L) mV, each beat resampled to L samples.
        timing: (B, N, 6): RR before and after in s (0 where there is none), their presence, and the beat's extent
            before and after the R peak in s, which the resampling would otherwise erase.
        mask: (B, N) bool, True for a real beat.
    """

    waveform: Tensor
    timing: Tensor
    mask: Tensor


def rr_before(r_peaks_BN: Tensor) -> tuple[Tensor, Tensor]:
    """RR interval that ends at each R peak: (B, N) in samples, and where there is one (not at the first beat)."""
    mask = r_peaks_BN >= 0
    rr = torch.zeros_like(r_peaks_BN, dtype=torch.float32)
    rr[:, 1:] = (r_peaks_BN[:, 1:] - r_peaks_BN[:, :-1]).float()
    present = mask.clone()
    present[:, 0] = False
    return rr * present, present


def rr_summary(r_peaks_BN: Tensor) -> Tensor:
    """Median, mean, sd, min, max and RMSSD of the RR intervals in ms: (B, 6); zeros with fewer than two beats."""
    rr, present = rr_before(r_peaks_BN)
    rr, count = rr * MS_PER_SAMPLE, present.sum(1)
    some = count.clamp(min=1)
    mean = rr.sum(1) / some
    sd = (((rr - mean[:, None]) * present).square().sum(1) / some).sqrt()
    lowest = rr.masked_fill(~present, torch.inf).amin(1).nan_to_num(posinf=0.0)
    ordered = rr.masked_fill(~present, torch.inf).sort(1).values.nan_to_num(posinf=0.0)
    middle = torch.stack([(some - 1) // 2, some // 2], 1)
    median = ordered.gather(1, middle).mean(1)
    successive = (rr[:, 1:] - rr[:, :-1]) * (present[:, 1:] & present[:, :-1])
    rmssd = (successive.square().sum(1) / (count - 1).clamp(min=1)).sqrt()
    return torch.stack([median, mean, sd, lowest, rr.amax(1), rmssd], 1)


def characteristics(signal_BCT: Tensor, r_peaks_BN: Tensor) -> Tensor:
    """Global signal characteristics x_bar of Eq. 3, before standardisation: (B, X), in the order of `CHARACTERISTICS`.

    Args:
        signal_BCT: int16 (B, 12, 5000) as stored, so that missing samples are known.
        r_peaks_BN: int32 (B, N), -1 in the padding.
    """
    x = to_millivolt(signal_BCT)
    mean, range_ = x.mean(-1), x.amax(-1) - x.amin(-1)
    # The standard deviation in a quarter of the time of torch.std on a CPU; its gradient is 0 in a flat lead as well.
    spread = torch.linalg.vector_norm(x - mean[..., None], dim=-1) / x.shape[-1] ** 0.5
    summary = rr_summary(r_peaks_BN)
    count = (r_peaks_BN >= 0).sum(1)
    heart_rate = torch.where(summary[:, 0] > 0, 60_000 / summary[:, 0].clamp(min=1.0), 0.0)
    others = [
        heart_rate,
        summary[:, 2],
        count.float(),
        (signal_BCT == MISSING).float().mean((1, 2)),
        (range_ == 0).float().sum(1),
        (count < 3).float(),
    ]
    return torch.cat([mean, spread, range_, torch.stack(others, 1)], 1)


def cut_beats(x_BCT: Tensor, r_peaks_BN: Tensor, samples: int, max_beats: int) -> Beats:
    """Cut and resample the first `max_beats` beats of each record.

    A beat runs from the midpoint towards the previous R peak to the midpoint towards the next, at most `MAX_BEFORE` and
    `MAX_AFTER`; where there is no neighbour, to that bound. Past the ends of the record its first or last sample is held.
    A moving average of one output step precedes the linear interpolation, against aliasing.

    Args:
        x_BCT: (B, C, T) mV.
        r_peaks_BN: int32 (B, N'), -1 in the padding.
        samples: L.
        max_beats: upper bound of N.
    """
    peaks = r_peaks_BN[:, :max_beats]
    before, has_before = rr_before(r_peaks_BN)
    after = torch.cat([before[:, 1:], torch.zeros_like(before[:, :1])], 1)[:, :max_beats]
    has_after = torch.cat([has_before[:, 1:], torch.zeros_like(has_before[:, :1])], 1)[:, :max_beats]
    before, has_before = before[:, :max_beats], has_before[:, :max_beats]
    left = torch.where(has_before, before / 2, torch.inf).clamp(max=MAX_BEFORE)
    right = torch.where(has_after, after / 2, torch.inf).clamp(max=MAX_AFTER)
    grid = torch.linspace(0, 1, samples, device=x_BCT.device)
    position = (peaks.float() - left)[..., None] + (left + right)[..., None] * grid
    seconds = 1 / SAMPLING_RATE_HZ
    timing = [before * seconds, after * seconds, has_before.float(), has_after.float(), left * seconds, right * seconds]
    return Beats(
        waveform=_interpolate(_smooth(x_BCT, (MAX_BEFORE + MAX_AFTER) // samples), position),
        timing=torch.stack(timing, -1),
        mask=peaks >= 0,
    )


def _smooth(x_BCT: Tensor, samples: int) -> Tensor:
    """Centred moving average of an odd number of samples, with the ends held."""
    half = max(1, samples) // 2
    padded, length = torch.nn.functional.pad(x_BCT, (half, half), mode="replicate"), x_BCT.shape[-1]
    total = padded[..., :length].clone()
    # A quarter of the time of avg_pool1d for so few samples on a CPU, and the same bits.
    for shift in range(1, 2 * half + 1):
        total += padded[..., shift : shift + length]
    return total / (2 * half + 1)


def _interpolate(x_BCT: Tensor, position_BNL: Tensor) -> Tensor:
    """Linear interpolation of every lead at fractional samples: (B, N, C, L)."""
    batch, leads, length = x_BCT.shape
    beats, samples = position_BNL.shape[1:]
    position = position_BNL.clamp(0, length - 1).reshape(batch, 1, beats * samples)
    low = position.floor().long()
    share = (position - low).to(x_BCT.dtype)
    values = [x_BCT.gather(2, (low + step).clamp(max=length - 1).expand(-1, leads, -1)) for step in (0, 1)]
    cut = values[0] + share * (values[1] - values[0])
    return cut.view(batch, leads, beats, samples).transpose(1, 2)
