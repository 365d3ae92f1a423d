"""How many bytes a training step moves between GPUs, on paper for 1 to 256 of them, beside what real workers moved.

    payload  bytes of the whole tensor that a collective is about: what an all-reduce or a reduce-scatter takes in, what an
             all-gather gives out
    sent     bytes that each GPU sends for it on a ring of N: 2 (N - 1) / N of the payload for an all-reduce, (N - 1) / N for
             a reduce-scatter or an all-gather (Patarasuk and Yuan, J. Parallel Distrib. Comput. 2009)

What the engine moves is read off DeepSpeed 0.19 (`deepspeed/runtime`, files and functions named below) and counted in steps
of real processes. Gradients and weights travel in fp32 at either precision of the passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ecgmoe.config import RunConfig
from ecgmoe.config_tools import require
from ecgmoe.pipeline.schema import FEATURE_TYPES, SIGNAL_BYTES
from ecgmoe.training.memory import FP32, LIVE_ELEMENTS, ZERO_STAGES

WORKERS = tuple(2**power for power in range(9))
PERSISTENT = 10_000
"""Stage 3 keeps parameters of up to so many elements whole (`stage3_param_persistence_threshold` of `engine.py` here)."""
ALIGNMENT = 2
"""Elements of each rank to which stages 1 and 2 pad a group (`stage_1_and_2.py`, nccl_start_alignment_factor)."""
FP64 = 8

ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER = "all_reduce", "all_gather", "reduce_scatter"


@dataclass(frozen=True, kw_only=True)
class Moved:
    """One kind of thing that a step moves, in one collective or several.

    Attributes:
        what: it is.
        kind: ALL_REDUCE, ALL_GATHER or REDUCE_SCATTER.
        payload: bytes, padding included.
    """

    what: str
    kind: str
    payload: int


@dataclass(frozen=True, kw_only=True)
class Travels:
    """What decides the traffic of a run.

    Attributes:
        groups: elements of each trained parameter, by group of the optimiser.
        unused: elements of trained parameters that get no gradient.
        read: elements of each parameter that a forward pass reads, frozen ones among them.
        small: elements of each parameter, read or not, that stage 3 keeps whole.
        width: D, of which the contrastive term gathers two vectors per record; 0 without that term.
        experts: whose mean gates the balance term gathers; 0 without that term.
        losses: number of them.
        record_bytes: of a record in the prepared folder before compression: its waveform and its cached features.
    """

    groups: tuple[tuple[int, ...], ...]
    unused: int
    read: tuple[int, ...]
    small: tuple[int, ...]
    width: int
    experts: int
    losses: int
    record_bytes: int

    @property
    def trained(self) -> int:
        """T, elements of what trains."""
        return sum(map(sum, self.groups))


def sent(moved: Moved, workers: int) -> float:
    """Bytes that each of so many ranks sends."""
    return (2 if moved.kind == ALL_REDUCE else 1) * (workers - 1) / workers * moved.payload


def plan(stage: int, travels: Travels, workers: int, records: int) -> list[Moved]:
    """What one optimiser step without accumulation moves; nothing with one worker, whom there is nobody to tell.

    Args:
        stage: of ZeRO.
        travels: of the run.
        workers: N.
        records: of each of them.

    Raises:
        ValueError: there is no such stage.
    """
    if stage not in _STAGES:
        raise ValueError(f"stage must be one of {', '.join(map(str, _STAGES))}, got {stage!r}")
    if workers == 1:
        return []
    return [*_STAGES[stage](travels, workers), *_own(travels, workers, records)]


def _stage_0(travels: Travels, workers: int) -> Iterator[Moved]:
    """`engine.py: _get_gradients_for_reduction` gives what was not used zeros, `allreduce_bucket` sums them all."""
    yield Moved(what="gradients", kind=ALL_REDUCE, payload=FP32 * travels.trained)
    yield Moved(what="gradient norm", kind=ALL_REDUCE, payload=FP32)


def _stages_1_and_2(travels: Travels, workers: int) -> Iterator[Moved]:
    """`stage_1_and_2.py: average_tensor` sums whole buckets on every rank, each of which then keeps its part: no
    reduce-scatter, so that these stages move half as much again as stage 0. `step` gathers the new weights.
    """
    yield Moved(what="gradients", kind=ALL_REDUCE, payload=FP32 * (travels.trained - travels.unused))
    padded = sum(_padded(sum(group), ALIGNMENT * workers) for group in travels.groups)
    yield Moved(what="weights", kind=ALL_GATHER, payload=FP32 * padded)
    yield Moved(what="gradient norm", kind=ALL_REDUCE, payload=FP32 * len(travels.groups))


def _stage_3(travels: Travels, workers: int) -> Iterator[Moved]:
    """`partitioned_param_coordinator.py` gathers what modules read, frozen or not, and keeps it for the backward pass up to
    LIVE_ELEMENTS; beyond, it is gathered twice. `stage3.py: __avg_scatter_grads` scatters, `_post_step` gathers small ones.
    """
    large = [_padded(each, workers) for each in travels.read if each > PERSISTENT]
    times = 1 if sum(travels.read) <= LIVE_ELEMENTS else 2
    yield Moved(what="weights", kind=ALL_GATHER, payload=FP32 * times * sum(large))
    small = sum(_padded(each, workers) for each in travels.small)
    yield Moved(what="small weights", kind=ALL_GATHER, payload=FP32 * small)
    scattered = sum(_padded(each, workers) for group in travels.groups for each in group) - travels.unused
    yield Moved(what="gradients", kind=REDUCE_SCATTER, payload=FP32 * scattered)
    yield Moved(what="gradient norm", kind=ALL_REDUCE, payload=FP64 * len(travels.groups))


_STAGES: dict[int, Callable[[Travels, int], Iterator[Moved]]] = {
    0: _stage_0,
    1: _stages_1_and_2,
    2: _stages_1_and_2,
    3: _stage_3,
}


def _own(travels: Travels, workers: int, records: int) -> Iterator[Moved]:
    """What this project tells between ranks (`global_terms.py`, `agreement.py`). The losses are normalised from labels that
    every rank has, which moves nothing."""
    if travels.width:
        rows = FP32 * 2 * workers * records * travels.width
        yield Moved(what="contrastive term", kind=ALL_GATHER, payload=rows)
        yield Moved(what="contrastive term, backward", kind=ALL_REDUCE, payload=rows)
    if travels.experts:
        gates = FP64 * workers * travels.experts
        yield Moved(what="balance of experts", kind=ALL_GATHER, payload=gates)
        yield Moved(what="balance of experts, backward", kind=ALL_REDUCE, payload=gates)
    # A flag for each loss, for the gradient and for the wish to stop.
    yield Moved(what="agreement", kind=ALL_REDUCE, payload=FP32 * (travels.losses + 2))


def sent_of(payloads: Mapping[str, int], workers: int) -> float:
    """Bytes that each of so many ranks sends, of payloads by kind."""
    return sum(sent(Moved(what="", kind=kind, payload=payload), workers) for kind, payload in payloads.items())


def _padded(elements: int, to: int) -> int:
    return math.ceil(elements / to) * to


def travels_of(config: RunConfig) -> Travels:
    """Build the model and run two records of noise through it and back, to see what gets a gradient."""
    import torch

    from ecgmoe.benchmark.costs import loss_of, training_model
    from ecgmoe.benchmark.variants import noise
    from ecgmoe.training.activations import modules_that_run, own_parameters
    from ecgmoe.training.alone import group_of_one
    from ecgmoe.training.memory_report import PROBED

    group_of_one()
    with torch.random.fork_rng(devices=[]):
        model, batch = training_model(config, noise(PROBED))
        with modules_that_run() as ran:
            loss_of(model, config, batch).backward()
    trained = [each for each in model.parameters() if each.requires_grad]
    groups = ([each for each in trained if each.ndim > 1], [each for each in trained if each.ndim <= 1])
    read = {id(each): each.numel() for module in ran for each in own_parameters(module)}
    features = sum(
        feature[0].numel() * int(FEATURE_TYPES[each.feature_type][-2:]) // 8
        for each, feature in ((each, batch.features[each.name]) for each in config.cached)
    )
    loss, tasks = config.loss, len(config.tasks)
    return Travels(
        groups=tuple(tuple(each.numel() for each in group) for group in groups if group),
        unused=sum(each.numel() for each in trained if each.grad is None),
        read=tuple(read.values()),
        small=tuple(each.numel() for each in model.parameters() if each.numel() <= PERSISTENT),
        width=config.model.width if loss.contrastive_weight else 0,
        experts=len(config.model.expert_names) if loss.load_balance_weight else 0,
        losses=tasks + sum(map(bool, (loss.contrastive_weight, loss.load_balance_weight, loss.backbone_cost_weight))),
        record_bytes=SIGNAL_BYTES + features,
    )


def without_weights(config: RunConfig) -> RunConfig:
    """The same sizes at random weights, so that nothing is downloaded."""
    sizes: dict[str, Any] = {"AutonLab/MOMENT-1-large": "large"}
    backbones = tuple(
        each
        if each.weights is None
        else replace(each, weights=None, allow_random=True, size=sizes.get(each.weights, "base"))
        for each in config.backbones
    )
    return replace(config, backbones=backbones)


def traffic_benchmark(config: RunConfig, *, preset: str, workers: Sequence[int] = WORKERS) -> dict[str, Any]:
    """Plan the traffic of a preset, and count that of a small model on one and two workers beside its plan.

    The global batch grows with the workers: each has as many records as in the preset.

    Args:
        config: of the preset.
        preset: its name.
        workers: numbers of GPUs on paper.

    Returns:
        `trained_parameters`, `records_per_worker`, `record_bytes` (read from storage, before compression), by stage and
        workers the bytes that each worker sends in a step and for each of its records, in all and by what they are; `counted`,
        as `counted` returns it; and `markdown`, both as tables.

    Raises:
        ValueError: the configuration accumulates, which moves other amounts.
    """
    from ecgmoe.benchmark.traffic_count import counted, example

    training = config.training
    require(training.accumulation == 1, "traffic is planned for steps of one micro-batch: set accumulation to 1")
    records, travels = training.global_batch // training.num_workers, travels_of(without_weights(config))
    stages: dict[str, dict[str, Any]] = {}
    for stage in ZERO_STAGES:
        for count in workers:
            moved = plan(int(stage), travels, count, records)
            whole = sum(sent(each, count) for each in moved)
            stages.setdefault(str(stage), {})[str(count)] = {
                "sent_bytes": whole,
                "sent_bytes_per_record": whole / records,
                "parts": {each.what: sent(each, count) for each in moved},
            }
    result = {
        "preset": preset,
        "trained_parameters": travels.trained,
        "records_per_worker": records,
        "record_bytes": travels.record_bytes,
        "stages": stages,
        "counted": counted(example()),
    }
    return {**result, "markdown": markdown(result)}


def markdown(result: Mapping[str, Any]) -> str:
    """What each worker sends per record, and planned beside counted payloads."""
    workers = list(next(iter(result["stages"].values())))
    lines = [
        f"Sent by each GPU per record, preset {result['preset']}: {result['trained_parameters']:,} parameters that train, "
        f"{result['records_per_worker']} records per GPU and step; {kilobytes(result['record_bytes'])} per record are read.",
        "",
        f"| ZeRO | {' | '.join(f'{count} GPUs' for count in workers)} |",
        "|---" * (len(workers) + 1) + "|",
    ]
    for stage, by_workers in result["stages"].items():
        lines.append(
            f"| {stage} | {' | '.join(kilobytes(each['sent_bytes_per_record']) for each in by_workers.values())} |"
        )
    lines += [
        "",
        "Payloads in bytes that real workers of a small model asked collectives for in a step. One worker sends none of them.",
        "",
        "| ZeRO | workers | collective | planned | counted |",
        "|---|---|---|---|---|",
    ]
    for stage, by_count in result["counted"].items():
        for count, each in by_count.items():
            for kind in sorted({*each["planned"], *each["counted"]}):
                amounts = f"{each['planned'].get(kind, 0):,} | {each['counted'].get(kind, 0):,}"
                lines.append(f"| {stage} | {count} | {kind} | {amounts} |")
    return "\n".join(lines)


def kilobytes(count: float) -> str:
    """As the table prints bytes."""
    return f"{count / 1e3:,.1f} kB"
