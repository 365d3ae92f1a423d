"""What one worker holds in memory while it trains, predicted from sizes alone. No torch, no DeepSpeed.

ZeRO (Rajbhandari et al., arXiv 1910.02054, section 5) counts 16 bytes per parameter of mixed-precision AdamW and says what
each stage divides by the workers. Here all is fp32, and what a stage really holds is read off DeepSpeed 0.19
(`deepspeed/runtime/zero`, files and functions named below): it keeps fp32 master weights beside fp32 weights, copies
gradients into buckets and flat buffers, and at stage 3 keeps gathered weights over the whole pass. Those copies are what
decides the peak of a model that is small beside its buckets.

Not in it: the interpreter and its libraries, the data read ahead, and what an allocator keeps of what was freed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

FP32 = 4
"""Bytes of an element: parameters, gradients and optimiser state are fp32 at either precision of the passes."""
ALL_REDUCE_ELEMENTS = 500_000_000
"""Largest flat buffer of stage 0 (`engine.py`, MEMORY_OPT_ALLREDUCE_SIZE)."""
LIVE_ELEMENTS = 1_000_000_000
"""Stage 3 keeps gathered weights up to so many (`stage3_max_live_parameters` and `stage3_max_reuse_distance`)."""
UPDATE_COPIES = 2
"""Temporaries of torch's single-tensor AdamW (the root and the denominator) and SGD (decay and Nesterov), in parameters."""

Stage = Literal[0, 1, 2, 3, "ddp"]
ZERO_STAGES: tuple[Stage, ...] = (0, 1, 2, 3)


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Bytes of one rank. Each part is its own largest; they do not peak together, so `total` is at most about their sum.

    Attributes:
        parameters: the weights that stand between steps: all of them, or this rank's partition at stage 3.
        optimiser: moments of what trains, DeepSpeed's fp32 master weights, and the running mean of the weights where there is
            one; frozen parameters have none of it.
        gradients: of what trains; those of this rank's partition at stages 2 and 3.
        buffers: buckets and flat copies of gradients, and at stage 3 the gathered weights.
        activations: kept for the backward pass of one micro-batch.
        total: the peak of a step.
    """

    parameters: int
    optimiser: int
    gradients: int
    buffers: int
    activations: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What decides the memory of a rank.

    Attributes:
        parameters: P, elements of all parameters, frozen ones among them.
        trained: T, elements of those that train.
        gathered: elements that a forward pass reads, all by default; a table that is never looked up is never gathered.
        workers: W.
        moments: optimiser states per trained element: 2 of AdamW, 1 of SGD with momentum, 0 without.
        records: of one micro-batch on one rank.
        activation_bytes: that one record keeps for the backward pass.
        accumulates: several micro-batches make a step.
        bucket: elements of DeepSpeed's buckets.
        averaged: a running mean of what trains is kept.
        gpu: buckets take memory whole and twice (overlapping communication). On a CPU only the pages that are written do.
    """

    parameters: int
    trained: int
    gathered: int | None = None
    workers: int = 1
    moments: int = 2
    records: int = 0
    activation_bytes: float = 0.0
    accumulates: bool = False
    bucket: int
    averaged: bool = False
    gpu: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.trained <= self.parameters:
            raise ValueError(f"trained must be between 0 and the {self.parameters} parameters, got {self.trained}")
        for name in ("workers", "bucket"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("moments", "records", "activation_bytes"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")

    @property
    def share(self) -> float:
        """T / W: trained elements of one rank's partition."""
        return self.trained / self.workers

    @property
    def activations(self) -> float:
        """Elements of fp32 as large as the activations of one micro-batch."""
        return self.records * self.activation_bytes / FP32

    @property
    def filled(self) -> int:
        """Elements that a bucket holds when it is reduced."""
        return min(self.trained, self.bucket)

    @property
    def reserved(self) -> int:
        """Elements that buckets take beyond `filled`."""
        return 2 * self.bucket - self.filled if self.gpu else 0

    @property
    def flat(self) -> int:
        """Elements of the copy of a bucket that is reduced; a single rank has one slice, which needs none."""
        return self.filled if self.workers > 1 else 0


def predict(stage: Stage, sizes: Sizes) -> MemoryPlan:
    """The memory of one rank at a ZeRO stage, or under torch's DistributedDataParallel ("ddp").

    Raises:
        ValueError: there is no such stage.
    """
    if stage not in _STAGES:
        raise ValueError(f"stage must be one of {', '.join(map(str, _STAGES))}, got {stage!r}")
    plan = _STAGES[stage](sizes)
    mean = round(FP32 * sizes.averaged * (sizes.share if stage == 3 else sizes.trained))
    return replace(plan, optimiser=plan.optimiser + mean, total=plan.total + mean)


def _plan(
    sizes: Sizes, *, parameters: float, optimiser: float, gradients: float, buffers: float, moments: tuple[float, ...]
) -> MemoryPlan:
    """In bytes; `moments` are what is held beside parameters and optimiser at the moments that may be the peak."""
    parts = (parameters, optimiser, gradients, buffers, sizes.activations, parameters + optimiser + max(moments))
    names = ("parameters", "optimiser", "gradients", "buffers", "activations", "total")
    return MemoryPlan(**{name: round(FP32 * part) for name, part in zip(names, parts, strict=True)})


def _ddp(sizes: Sizes) -> MemoryPlan:
    """Gradients are views of the buckets that are reduced (`gradient_as_bucket_view`), in place."""
    t = sizes.trained
    return _plan(
        sizes,
        parameters=sizes.parameters,
        optimiser=sizes.moments * t,
        gradients=t,
        buffers=0,
        moments=(t + sizes.activations,),
    )


def _stage_0(sizes: Sizes) -> MemoryPlan:
    """Nothing is divided. After the backward pass `engine.py: allreduce_bucket` flattens all gradients into a copy."""
    t = sizes.trained
    flat = min(t, ALL_REDUCE_ELEMENTS)
    return _plan(
        sizes,
        parameters=sizes.parameters,
        optimiser=sizes.moments * t,
        gradients=t,
        buffers=flat,
        moments=(t + sizes.activations, t + flat),
    )


def _sharded_optimiser(sizes: Sizes) -> float:
    """Moments and master weights of a partition.

    `stage_1_and_2.py: __init__` clones the partition into single_partition_of_fp32_groups; `stage3.py:
    _create_fp32_partitions` would share fp32 weights, but compares a device with its name and so copies them too.
    """
    return (sizes.moments + 1) * sizes.share


def _stage_1(sizes: Sizes) -> MemoryPlan:
    """`stage_1_and_2.py` with whole gradients until the last micro-batch is through.

    Then `reduce_independent_p_g_buckets_and_remove_grads` moves them into a bucket, `allreduce_bucket` flattens it into a
    copy, and `copy_grads_in_partition` keeps this rank's; `step` flattens those again for the optimiser.
    """
    t = sizes.trained
    return _plan(
        sizes,
        parameters=sizes.parameters,
        optimiser=_sharded_optimiser(sizes),
        gradients=t,
        buffers=sizes.reserved + max(sizes.flat, sizes.share),
        moments=(
            t + sizes.activations + (sizes.reserved + sizes.filled if sizes.gpu else 0),
            t + sizes.reserved + max(sizes.flat, sizes.share),
            (2 + UPDATE_COPIES) * sizes.share,
        ),
    )


def _stage_2(sizes: Sizes) -> MemoryPlan:
    """As stage 1, but each gradient moves into the bucket as it is made, and a full bucket is reduced at once."""
    # The partition is made at the first reduction; with accumulation that of the last micro-batch stands beside it.
    early = sizes.share if sizes.trained > sizes.bucket else 0.0
    earlier = sizes.share if sizes.accumulates else 0.0
    bucket = sizes.filled + sizes.reserved
    return _plan(
        sizes,
        parameters=sizes.parameters,
        optimiser=_sharded_optimiser(sizes),
        gradients=sizes.share + earlier,
        buffers=bucket + sizes.flat,
        moments=(
            bucket + sizes.activations + early + earlier,
            bucket + max(sizes.flat + early, sizes.share) + earlier,
            (2 + UPDATE_COPIES) * sizes.share,
        ),
    )


def _stage_3(sizes: Sizes) -> MemoryPlan:
    """`stage3.py` holds partitions of all parameters, of gradients and the bucket all the time (`_setup_for_real_optimizer`).

    `partitioned_param_coordinator.py: __params_to_release` keeps a gathered weight that is used again within
    LIVE_ELEMENTS, so those of a smaller model stay until their backward pass. Weights are gathered ahead in one flat
    buffer, from which each is copied; it lives until the last of them has been asked for (AllGatherCoalescedHandle).
    """
    read = sizes.parameters if sizes.gathered is None else sizes.gathered
    live = min(read, LIVE_ELEMENTS) if sizes.workers > 1 else 0
    ahead = min(live, sizes.bucket)
    bucket = sizes.filled + (sizes.bucket - sizes.filled if sizes.gpu else 0)
    standing = sizes.share + bucket
    return _plan(
        sizes,
        parameters=sizes.parameters / sizes.workers,
        optimiser=_sharded_optimiser(sizes),
        gradients=sizes.share,
        buffers=bucket + live + max(ahead, sizes.flat),
        moments=(
            standing + live + ahead + sizes.activations,
            standing + live + sizes.flat,
            standing + (1 + UPDATE_COPIES) * sizes.share,
        ),
    )


_STAGES: dict[Stage, Callable[[Sizes], MemoryPlan]] = {0: _stage_0, 1: _stage_1, 2: _stage_2, 3: _stage_3, "ddp": _ddp}
