"""The periodic experts: morphology within a beat, rhythm along the beats.

Legend: B batch, N beats (padded, masked), C 12 leads, L samples per beat, D width, E experts, H heads, P tasks.
No BatchNorm: a record's result must not depend on its neighbours.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from ecgmoe.ecg.record import N_LEADS
from ecgmoe.model.frontend import Beats
from ecgmoe.model.gating import Positions

TIMING = 6
UNIT_MV = 0.25
"""What the experts count the waveform in: waves of some tenths of a millivolt would not leave the linear part of a GELU at its
initialisation, and scaling each record by itself would drop the amplitude, which age and sex show in."""


class MorphologyExpert(nn.Module):
    """A CNN over one beat with one kernel size (paper, "Periodic Expert Network")."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        half = width // 2
        self.convolutions = nn.Sequential(
            nn.Conv1d(N_LEADS, half, kernel, stride=2, padding=kernel // 2),
            nn.GELU(),
            nn.Conv1d(half, width, kernel, stride=2, padding=kernel // 2),
            nn.GELU(),
            nn.Conv1d(width, width, kernel, stride=2, padding=kernel // 2),
            nn.GELU(),
        )
        # Twelfths of the beat keep their place: P wave, QRS complex and T wave lie in different ones.
        self.pool = nn.AdaptiveAvgPool1d(12)
        self.project = nn.Linear(12 * width + TIMING, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, waveform: Tensor, timing: Tensor) -> Tensor:
        """Tokens of any beats (M, D), from (M, C, L) in `UNIT_MV` and (M, 6)."""
        x = self.pool(self.convolutions(waveform)).flatten(1)
        return self.norm(self.project(torch.cat([x, timing], 1)))


class RhythmExpert(nn.Module):
    """Dilated CNN along the beat axis over beat embeddings and RR intervals (paper, "inter-beat rhythm patterns")."""

    def __init__(self, width: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.embed = nn.Linear(width + TIMING, width)
        self.convolutions = nn.ModuleList(nn.Conv1d(width, width, 3, padding=d, dilation=d) for d in dilations)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in dilations)

    def forward(self, beat_BND: Tensor, beats: Beats) -> Tensor:
        """Rhythm tokens (B, N, D)."""
        keep = beats.mask[..., None].to(beat_BND.dtype)
        x = self.embed(torch.cat([beat_BND, beats.timing.to(beat_BND.dtype)], -1))
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            # Masked before each convolution, so that padding beats are the same zeros as beyond the edge.
            step = convolution((x * keep).transpose(1, 2)).transpose(1, 2)
            x = norm(x + nn.functional.gelu(step))
        return x


class PeriodicExperts(nn.Module):
    """The morphology and the rhythm experts, and the attention that reads each of them for each task."""

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        tasks: int,
        kernels: tuple[int, ...],
        dilations: tuple[tuple[int, ...], ...],
        beat_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.morphology = nn.ModuleList(MorphologyExpert(width, kernel) for kernel in kernels)
        self.rhythm = nn.ModuleList(RhythmExpert(width, each) for each in dilations)
        self.heads = heads
        self.experts = len(kernels) + len(dilations)
        # Never masked, so that a record with no beat at all is finite and trained.
        self.no_beat = nn.Parameter(torch.randn(self.experts, width) * 0.02)
        self.query = nn.Parameter(torch.randn(tasks, width))
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)
        self.beat_dropout = beat_dropout

    def forward(self, beats: Beats, tasks: Positions) -> tuple[Tensor, Tensor]:
        """Read every expert for the tasks at these positions.

        Returns:
            F (B, P, E, D): MHA(query = task p, keys and values = beat tokens of expert e, mask = real beats).
            attention (B, P, E, N + 1): share of each beat, the "no beat" token last.
        """
        if self.training and self.beat_dropout:
            beats = replace(beats, mask=beats.mask & (torch.rand_like(beats.timing[..., 0]) >= self.beat_dropout))
        morphology = self.read_beats(beats)
        # Without morphology experts the rhythm experts have the intervals alone.
        shape = (*beats.mask.shape, self.no_beat.shape[-1])
        shared = torch.stack(morphology).mean(0) if morphology else beats.timing.new_zeros(shape)
        tokens = torch.stack([*morphology, *(expert(shared, beats) for expert in self.rhythm)], 1)
        batch, width = tokens.shape[0], tokens.shape[-1]
        none = self.no_beat[None, :, None].expand(batch, -1, -1, -1).to(tokens.dtype)
        key, value = self.key_value(torch.cat([tokens, none], 2)).unflatten(-1, (2, self.heads, -1)).unbind(-3)
        query = self.query[tasks].unflatten(-1, (self.heads, -1))
        score = torch.einsum("phd,benhd->bpehn", query.to(key.dtype), key) / (width // self.heads) ** 0.5
        seen = nn.functional.pad(beats.mask, (0, 1), value=True)
        attention = score.masked_fill(~seen[:, None, None, None], -torch.inf).softmax(-1)
        read = torch.einsum("bpehn,benhd->bpehd", attention, value).flatten(-2)
        return self.output(read), attention.mean(3)

    def read_beats(self, beats: Beats) -> list[Tensor]:
        """Tokens of each morphology expert, (B, N, D); zeros where there is no beat, or where it is hidden.

        Those are not computed: in a batch of many records half of the places are padding. A graph that is exported has fixed
        shapes and computes all of them.
        """
        waveform, timing, mask = (each.flatten(0, 1) for each in (beats.waveform, beats.timing, beats.mask))
        if torch.compiler.is_compiling():
            waveform = waveform / UNIT_MV
            read = [expert(waveform, timing) * mask[:, None] for expert in self.morphology]
        else:
            there = mask.nonzero().squeeze(1)
            waveform, timing = waveform[there] / UNIT_MV, timing[there]
            packed = [expert(waveform, timing) for expert in self.morphology]
            read = [each.new_zeros(len(mask), each.shape[1]).index_copy(0, there, each) for each in packed]
        return [each.unflatten(0, beats.mask.shape) for each in read]
