"""The detector of R peaks (`ecgmoe/ecg/beats.py`) as a torch module without weights, with shapes that data do not change.

The same steps, constants and beats. What numpy does by loops over what it found is done here by masks over all that could
be found; `beats.py` has the reasons, this module says how a step is made of tensor operations. Where sums are rounded in
another order, two values that are equal but for the rounding can change places. Two such pairs were seen: the samples to
either side of a hump's top, which moves a beat by one sample, and the leads of a record with one or two short pieces of
signal, which are all equally clear, so that the R wave is that of another lead.

Legend: B batch, C 12 leads, T 5000 samples, R rows, N 40 beats (padded), S 4 leads tried for the R wave. Ascending
positions are padded with `_NO_BEAT` inside the module and with -1 outside.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import fft
from torch import Tensor, nn
from torch.nn import functional as F

from ecgmoe.ecg import beats
from ecgmoe.ecg.record import MISSING, N_LEADS, N_SAMPLES

_MIN_DISTANCE = round(beats.MIN_DISTANCE_MS / beats.MS_PER_SAMPLE)
MAX_BEATS = math.ceil((N_SAMPLES - 2) / _MIN_DISTANCE)
"""So many peaks have room at that distance; a record's first and last samples are none."""
_NO_BEAT = 2 * N_SAMPLES
_WINDOW = 2 * beats.R_WAVE_REACH + 1

_REACH = 450
"""Samples after which the filters have died away: the rest of the band-pass adds up to 3e-7 of its input."""
_BLOCK = 100
"""Samples that one product with a block of the filter's matrix gives."""


def _blocks(gain: beats.Floats, dtype: type[np.floating]) -> Tensor:
    """The zero-phase filter of this gain as a matrix (window, `_BLOCK`): from a window of samples to those in its middle."""
    response = np.roll(fft.irfft(gain.astype(np.float64), n=beats.PADDED), _REACH)[: 2 * _REACH + 1]
    blocks = np.zeros((_BLOCK + 2 * _REACH, _BLOCK), dtype=dtype)
    for column in range(_BLOCK):
        blocks[column : column + len(response), column] = response
    return torch.from_numpy(blocks)


def _filtered(x_RT: Tensor, blocks: Tensor) -> Tensor:
    """`beats._filtered` without its transform: the same odd reflection, the same circle of `beats.PADDED` samples; fp32."""
    before = 2 * x_RT[:, :1] - x_RT[:, 1 : beats.PAD + 1].flip(1)
    after = 2 * x_RT[:, -1:] - x_RT[:, -beats.PAD - 1 : -1].flip(1)
    circle = torch.cat([before, x_RT, after], dim=1).to(blocks.dtype)
    beyond = _REACH - beats.PAD
    x = torch.cat([circle[:, -beyond:], circle, circle[:, :beyond]], dim=1)
    x = x.unflatten(1, (-1, _BLOCK))
    # Windows as slices side by side: onnxruntime gathers them sample by sample where they are an `unfold`.
    count = N_SAMPLES // _BLOCK
    windows = torch.cat([x[:, start : start + count] for start in range(len(blocks) // _BLOCK)], dim=2)
    return (windows @ blocks).flatten(1).float()


def _median(x: Tensor) -> Tensor:
    """Median along the last axis of an even length, which goes."""
    upper_half = x.topk(x.shape[-1] // 2 + 1, sorted=False).values
    return upper_half.topk(2, largest=False).values.sum(-1) / 2


def _two_middle(x: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """The two middle ones, equal where `count` is odd, of the `count` smallest along the last axis."""
    ascending = x.topk(x.shape[-1] // 2 + 1, largest=False).values
    last = (count - 1).clamp(min=0)
    lower = torch.div(last, 2, rounding_mode="floor")
    upper = torch.div(last + 1, 2, rounding_mode="floor")
    return ascending.gather(-1, lower[..., None])[..., 0], ascending.gather(-1, upper[..., None])[..., 0]


def _masked_median(x: Tensor, mask: Tensor) -> Tensor:
    """Median along the last axis of what `mask` holds; it means nothing where that is nothing."""
    lower, upper = _two_middle(torch.where(mask, x, torch.inf), mask.sum(-1))
    return (lower + upper) / 2


class RPeaks(nn.Module):
    """R peaks of a batch of canonical records, by `detect_r_peaks` of each."""

    band_pass: Tensor
    low_pass: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("band_pass", _blocks(beats.BAND_PASS, np.float32), persistent=False)
        # The top of a hump is flat: in fp32 this product would move it by a sample in one record of a thousand.
        self.register_buffer("low_pass", _blocks(beats.LOW_PASS, np.float64), persistent=False)

    def forward(self, signal_BCT: Tensor) -> Tensor:
        """R peaks.

        Args:
            signal_BCT: int16 (B, 12, 5000), microvolt; missing samples count as zero.

        Returns:
            int32 (B, N): ascending positions in samples, -1 behind the last; nothing but -1 where there is no beat.
        """
        signal = signal_BCT.float()
        present = signal != MISSING
        signal = torch.where(present, signal, 0)
        energy_BT, scaled_BCT, usable_BC = self._qrs_energy(signal, present)
        humps_BN = _humps(energy_BT)
        beats_BN = _without_t_waves(humps_BN, energy_BT)
        beats_BN = torch.where(usable_BC.any(1, keepdim=True), beats_BN, _NO_BEAT)
        lead_BS, tried_BS = _order(scaled_BCT, usable_BC, beats_BN)
        placed_BN = _on_r_waves(signal, present, beats_BN, lead_BS, tried_BS)
        return torch.where(beats_BN < _NO_BEAT, placed_BN, -1).int()

    def _qrs_energy(self, signal: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Energy (B, T), the scaled leads (B, C, T), 0 where they are flat, and which are not (B, C)."""
        leads = torch.where(present, signal - _median(signal[..., ::5])[..., None], 0)
        leads = _filtered(leads.flatten(0, 1), self.band_pass).abs().unflatten(0, (-1, N_LEADS))
        magnitude = leads[..., ::4]
        largest = magnitude.amax(2)
        usable = largest > beats.FLAT_UV
        scale = torch.maximum(_median(magnitude), beats.MIN_RELATIVE_SCALE * largest)
        scaled = torch.where(usable[..., None], leads / torch.where(usable, scale, 1)[..., None], 0)
        count = usable.sum(1, keepdim=True)
        agreeing = torch.div(count + 1, 2, rounding_mode="floor").clamp(1, beats.AGREEING_LEADS)
        largest_three = scaled.topk(beats.AGREEING_LEADS, dim=1).values
        agreed = largest_three.gather(1, (agreeing - 1)[..., None].expand(-1, -1, N_SAMPLES))
        capped = torch.minimum(scaled, agreed)
        energy = ((capped * capped).sum(1) / count.clamp(min=1)).sqrt()
        return _filtered(energy, self.low_pass), scaled, usable


def _humps(energy_BT: Tensor) -> Tensor:
    """`find_peaks(energy, height, distance)`: (B, N)."""
    # The 99th percentile of 5000 samples lies a hundredth of the way from the 51st-largest to the 50th.
    top = energy_BT.topk(51).values
    threshold = beats.THRESHOLD * (top[:, 50:] + 0.01 * (top[:, 49:50] - top[:, 50:]))
    start = torch.arange(N_SAMPLES, device=energy_BT.device)
    step = F.pad(energy_BT[:, 1:] - energy_BT[:, :-1], (0, 1), value=1.0)
    level = _run(step == 0)
    rises = F.pad(step[:, :-1] > 0, (1, 0))
    falls = step.gather(1, start + level) < 0
    height = torch.where(rises & falls & (energy_BT >= threshold), energy_BT, -torch.inf)
    middle = start + torch.div(level, 2, rounding_mode="floor")
    # The tallest first, the last of equally tall ones, and none too near to a taller one.
    height, middle = height.flip(1), middle.flip(1)
    found = []
    for _ in range(MAX_BEATS):
        tallest, at = height.max(1, keepdim=True)
        hump = middle.gather(1, at)
        found.append(torch.where(tallest > -torch.inf, hump, _NO_BEAT))
        height = torch.where((middle - hump).abs() < _MIN_DISTANCE, -torch.inf, height)
    return _ascending(torch.cat(found, dim=1))


def _ascending(x_BN: Tensor) -> Tensor:
    return x_BN.topk(MAX_BEATS, largest=False).values


def _run(mask_BT: Tensor) -> Tensor:
    """How many True there are from each sample on: (B, T)."""
    run, reach = mask_BT.long(), 1
    while reach < N_SAMPLES:
        run = run + torch.where(run == reach, F.pad(run[:, reach:], (0, reach)), 0)
        reach *= 2
    return run


def _without_t_waves(humps_BN: Tensor, energy_BT: Tensor) -> Tensor:
    """Humps ahead of which there is none, or none so near and so tall, that is itself a beat: (B, N)."""
    height = energy_BT.gather(1, humps_BN.clamp(max=N_SAMPLES - 1))
    low = (humps_BN[:, 1:] - humps_BN[:, :-1] <= beats.T_WAVE_REACH) & (
        height[:, 1:] < beats.T_WAVE_HEIGHT * height[:, :-1]
    )
    low = F.pad(low & (humps_BN[:, 1:] < _NO_BEAT), (1, 0))
    # Only the hump just ahead is within the reach. So of low humps in a row the first is a T wave, the second is not.
    order = torch.arange(MAX_BEATS, device=low.device)
    before = torch.where(~low[:, None] & (order <= order[:, None]), order, -1).amax(2)
    t_wave = torch.remainder(order - before, 2) == 1
    return _ascending(torch.where(t_wave, _NO_BEAT, humps_BN))


def _order(scaled_BCT: Tensor, usable_BC: Tensor, beats_BN: Tensor) -> tuple[Tensor, Tensor]:
    """Leads in the order in which an R wave is looked for, and whether they are tried at all: both (B, S)."""
    at = beats_BN.clamp(max=N_SAMPLES - 1)[:, None].expand(-1, N_LEADS, -1)
    clear = _masked_median(scaled_BCT.gather(2, at), (beats_BN < _NO_BEAT)[:, None].expand(-1, N_LEADS, -1))
    clear = torch.where(usable_BC, clear, -1)
    lead = torch.arange(N_LEADS, device=at.device)
    clearer = (clear[:, None] > clear[..., None]) | ((clear[:, None] == clear[..., None]) & (lead < lead[:, None]))
    rank = clearer.sum(2)
    tried = torch.arange(beats.TRIED_LEADS, device=at.device)
    clearest = (rank[:, None] == tried[:, None]).int().argmax(2)
    # Lead II once more among the clearest changes nothing: it is skipped there as it was at first.
    enough = usable_BC.sum(1, keepdim=True) > tried
    return F.pad(clearest, (1, 0), value=beats.LEAD_II), torch.cat(
        [usable_BC[:, beats.LEAD_II : beats.LEAD_II + 1], enough], dim=1
    )


def _on_r_waves(signal: Tensor, present: Tensor, beats_BN: Tensor, lead_BS: Tensor, tried_BS: Tensor) -> Tensor:
    """The beats moved to the R waves of the first lead tried in which at least half of them have one: (B, N)."""
    every = lead_BS[..., None].expand(-1, -1, N_SAMPLES)
    shift, known = _r_wave_shifts(signal.gather(1, every), present.gather(1, every), beats_BN)
    enough = tried_BS & (2 * known.sum(2) >= (beats_BN < _NO_BEAT).sum(1, keepdim=True))
    usual = _masked_median(shift, known)[..., None]
    placed = torch.where(known & ((shift - usual).abs() <= beats.R_WAVE_SPREAD), shift, usual).round()
    first = enough.int().argmax(1)[:, None, None].expand(-1, 1, MAX_BEATS)
    chosen = torch.where(enough.any(1, keepdim=True), placed.gather(1, first)[:, 0], 0)
    return (beats_BN + chosen.long()).clamp(0, N_SAMPLES - 1)


def _r_wave_shifts(lead_BST: Tensor, present_BST: Tensor, beats_BN: Tensor) -> tuple[Tensor, Tensor]:
    """From each beat to its R wave in each lead, and where there is one: both (B, S, N)."""
    lower, upper = _two_middle(torch.where(present_BST, lead_BST, torch.inf), present_BST.sum(2))
    baseline = ((lower + upper) / 2).trunc()[..., None]
    # Whole numbers below 2^24: all of this is exact.
    samples = torch.where(present_BST, lead_BST - baseline, 0)
    offset = torch.arange(_WINDOW, device=beats_BN.device)
    around = (beats_BN[..., None] + (offset - beats.R_WAVE_REACH)).clamp(0, N_SAMPLES - 1).flatten(1)
    x = samples.gather(2, around[:, None].expand(-1, lead_BST.shape[1], -1)).unflatten(2, (MAX_BEATS, _WINDOW))
    extent = x.amax(3, keepdim=True) - x.amin(3, keepdim=True)
    least = (beats.R_WAVE_PROMINENCE * extent).clamp(min=1)
    # Of the samples that rise so far above one ahead and one behind, the tallest are the top of the tallest wave of that
    # prominence: anything higher between such a sample and its foot would itself be one of them, and taller.
    ahead, behind = _running_min(x), _running_min(x.flip(3)).flip(3)
    stands_out = (x - torch.maximum(ahead, behind) >= least) & (x >= least)
    height, start = torch.where(stands_out, x, -torch.inf).max(3, keepdim=True)
    ends = (x != height) & (offset > start)
    end = ends.int().argmax(3, keepdim=True) - 1
    shift = torch.div(start + end, 2, rounding_mode="floor")[..., 0] - beats.R_WAVE_REACH
    inner = (beats_BN >= beats.R_WAVE_REACH) & (beats_BN < N_SAMPLES - beats.R_WAVE_REACH)
    return shift.float(), stands_out.any(3) & inner[:, None]


def _running_min(x: Tensor) -> Tensor:
    """Least of the last axis up to each place."""
    reach = 1
    while reach < x.shape[-1]:
        x = torch.minimum(x, F.pad(x[..., :-reach], (reach, 0), value=torch.inf))
        reach *= 2
    return x
