"""TimesNet's layer with shapes that do not depend on the data: the same function as `TimesBlock`, for graphs.

`TimesBlock` folds a record at its own period and convolves the image, one convolution for each period of the batch. Here
the fold stays a sequence: the neighbour of sample t at (row + i, column + j) of the image lies at t + i p + j, so that a
2-D convolution is a gather of neighbours and a matrix product, and the period p may differ from row to row of a batch.

Legend: B batch, S samples, W width, k periods, N = B x k folds, R rows of an image, L = R x p samples at most,
K side of the kernel, I and O channels in and out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ecgmoe.backbones.timesnet import Inception, TimesBlock


class GatheredConvolution(nn.Module):
    """An inception, a mean of convolutions of odd sizes, as the one convolution that it is, on folds of any period.

    One row of the kernel at a time: all neighbours at once would take K times the memory.
    """

    def __init__(self, inception: Inception) -> None:
        super().__init__()
        kernels = [convolution for convolution in inception.kernels if isinstance(convolution, nn.Conv2d)]
        self.margin = max(convolution.kernel_size[0] for convolution in kernels) // 2
        padded = []
        for convolution in kernels:
            more = self.margin - convolution.kernel_size[0] // 2
            padded.append(nn.functional.pad(convolution.weight.detach(), (more,) * 4))
        biases = [convolution.bias.detach() for convolution in kernels if convolution.bias is not None]
        # (O, I, K, K) to (K, K x I, O): a matrix for each row of the kernel.
        weight = torch.stack(padded).mean(0).permute(2, 3, 1, 0).flatten(1, 2)
        self.register_buffer("weight", weight.contiguous())
        self.register_buffer("bias", torch.stack(biases).mean(0))

    def forward(self, x_NLI: Tensor, period_N: Tensor, rows_N: Tensor, length: int) -> Tensor:
        """The convolved image at its first `length` samples, row by row: (N, length, O).

        Args:
            x_NLI: the image, row by row; samples past L count as zeros.
            period_N: columns of each image.
            rows_N: its rows; what lies outside the image counts as zeros.
            length: samples wanted.
        """
        folds, samples, _ = x_NLI.shape
        # One more sample, of zeros, for all neighbours outside the image.
        table = nn.functional.pad(x_NLI, (0, 0, 0, 1)).flatten(0, 1)
        start = torch.arange(folds, device=x_NLI.device)[:, None, None] * (samples + 1)
        place = torch.arange(length, device=x_NLI.device)
        period = period_N[:, None]
        row = place // period
        column = place - row * period
        step = torch.arange(-self.margin, self.margin + 1, device=x_NLI.device)
        across = column[..., None] + step
        inside = (across >= 0) & (across < period[..., None])
        total = self.get_buffer("bias")
        for index, weight in enumerate(self.get_buffer("weight").unbind()):
            below = row + (index - self.margin)
            there = inside & ((below >= 0) & (below < rows_N[:, None]))[..., None]
            source = below[..., None] * period[..., None] + across
            source = torch.where(there & (source < samples), source, samples) + start
            neighbours = table.index_select(0, source.flatten()).view(folds, length, -1)
            total = total + neighbours @ weight
        return total


class GatheredTimesBlock(nn.Module):
    """A trained `TimesBlock`, equal up to rounding.

    Args:
        block: what it is to compute.
        samples: S.
    """

    def __init__(self, block: TimesBlock, samples: int) -> None:
        super().__init__()
        self.k, self.samples = block.k, samples
        self.first, self.second = (GatheredConvolution(part) for part in block.conv if isinstance(part, Inception))
        # Only whole numbers of oscillations in S are periods; the last row of some images reaches past S.
        period_of = [samples // oscillations for oscillations in range(1, samples // 2 + 1)]
        self.longest = max(-(-samples // period) * period for period in period_of)
        self.register_buffer("period_of", torch.tensor(period_of), persistent=False)
        angle = 2 * torch.pi * torch.arange(samples).double()[:, None] * torch.arange(samples // 2 + 1) / samples
        # A matrix in place of a transform, which onnxruntime computes to 3 digits only.
        self.register_buffer("cosine", angle.cos().float(), persistent=False)
        self.register_buffer("sine", angle.sin().float(), persistent=False)

    def periods(self, x_BSW: Tensor) -> tuple[Tensor, Tensor]:
        """As of `TimesBlock`."""
        x_BWS = x_BSW.transpose(1, 2)
        real, imaginary = x_BWS @ self.get_buffer("cosine"), x_BWS @ self.get_buffer("sine")
        amplitude = (real.square() + imaginary.square()).sqrt().mean(1)
        strongest, frequency = amplitude[:, 1:].topk(self.k, dim=1)
        return self.get_buffer("period_of")[frequency], strongest

    def forward(self, x_BSW: Tensor, batch_periods: bool = False) -> Tensor:
        """(B, S, W) to (B, S, W)."""
        if batch_periods:
            raise ValueError("the inference form takes the periods of each record, not of the batch")
        periods, amplitude = self.periods(x_BSW)
        period = periods.flatten()
        rows = (self.samples + period - 1) // period
        x_NSW = x_BSW[:, None].expand(-1, self.k, -1, -1).flatten(0, 1)
        hidden = nn.functional.gelu(self.first(x_NSW, period, rows, self.longest))
        folded = self.second(hidden, period, rows, self.samples).unflatten(0, (-1, self.k))
        return (folded * amplitude.softmax(1)[:, :, None, None]).sum(1) + x_BSW
