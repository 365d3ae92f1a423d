"""Real workers make real steps, and the payloads of their collectives are added up beside what `traffic.py` plans."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.benchmark.memory import measured
from ecgmoe.benchmark.ranks import join_group
from ecgmoe.benchmark.traffic import ALL_GATHER, ALL_REDUCE, REDUCE_SCATTER, plan, sent_of, travels_of
from ecgmoe.config import RunConfig
from ecgmoe.model.config import LossConfig, ModelConfig
from ecgmoe.training.config import TrainingConfig
from ecgmoe.training.memory import ZERO_STAGES

STEPS = 3
"""Of a training, the last of which counts: at stage 3 the first records in which order weights are asked for."""


def example() -> RunConfig:
    """Small, with something of each: matrices above `PERSISTENT`, a frozen backbone, a contrastive and a balance term."""
    return RunConfig(
        backbones=(
            BackboneConfig(name="dlinear", mode="full"),
            BackboneConfig(name="moment", mode="frozen", allow_random=True),
        ),
        model=ModelConfig(width=32),
        loss=LossConfig(load_balance_weight=0.1),
        training=TrainingConfig(num_workers=2, global_batch=8),
    )


def counted(config: RunConfig, workers: Sequence[int] = (1, 2)) -> dict[str, Any]:
    """Make real steps at each stage on real processes and add up the payloads of their collectives.

    Returns:
        By stage and number of workers: `planned` and `counted`, payload bytes of a step by kind of collective, and
        `planned_sent` and `counted_sent`, what each worker sends for all of them. One worker sends nothing, and nothing is
        planned for it; DeepSpeed calls its collectives all the same, which then hand their tensor back.
    """
    result: dict[str, Any] = {str(stage): {} for stage in ZERO_STAGES}
    travels, records = travels_of(config), config.training.global_batch // config.training.num_workers
    for count in workers:
        training = replace(config.training, num_workers=count, slots=count, global_batch=count * records)
        of_count = replace(config, training=training)
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(count) as pool:
            waiting = [pool.submit(measured, _rank, rank, folder, of_count) for rank in range(count)]
            ranks = [each.result().value for each in waiting]
        for stage, found in ranks[0].items():
            planned: Counter[str] = Counter()
            for each in plan(int(stage), travels, count, records):
                planned[each.kind] += each.payload
            result[stage][str(count)] = {
                "planned": dict(planned),
                "counted": found,
                "planned_sent": sent_of(planned, count),
                "counted_sent": sent_of(found, count),
            }
    return result


def _rank(rank: int, folder: str, config: RunConfig) -> dict[str, dict[str, int]]:
    join_group(rank, config.training.num_workers, folder)
    import torch.distributed as dist

    result = steps(config)
    dist.barrier()
    dist.destroy_process_group()
    return result


def steps(config: RunConfig) -> dict[str, dict[str, int]]:
    """Payload bytes of the collectives of one step by stage and kind, counted on this rank; every rank must call it.

    DeepSpeed must not have made an engine in this process before: it keeps hold of the collectives that it found first.
    """
    from ecgmoe.benchmark.training_memory import NoiseTraining
    from ecgmoe.training.agreement import Agreement
    from ecgmoe.training.engine import destroy

    result = {}
    with counting() as log:
        for stage in (0, 1, 2, 3):
            training = NoiseTraining(replace(config, training=replace(config.training, zero_stage=stage)))
            agreement = Agreement()
            for _ in range(STEPS):
                log.clear()
                losses = training.step()
                agreement.post(None, stop=False, losses=losses, norm=training.engine.get_global_grad_norm())
                agreement.take()
            result[str(stage)] = dict(log)
            destroy(training.engine)
    return result


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """Count the payload bytes of torch's collectives by kind; those of DeepSpeed are torch's."""
    import torch.distributed as dist

    log: Counter[str] = Counter()
    # By function: the kind, and position and name of the argument whose bytes are the payload.
    collectives = {
        "all_reduce": (ALL_REDUCE, 0, "tensor"),
        "all_gather": (ALL_GATHER, 0, "tensor_list"),
        "all_gather_into_tensor": (ALL_GATHER, 0, "output_tensor"),
        "reduce_scatter_tensor": (REDUCE_SCATTER, 1, "input"),
        "reduce": ("reduce", 0, "tensor"),
        "broadcast": ("broadcast", 0, "tensor"),
    }
    kept = {name: getattr(dist, name) for name in collectives}

    def wrapped(name: str) -> Callable[..., Any]:
        kind, place, key = collectives[name]

        def call(*arguments: Any, **named: Any) -> Any:
            payload = arguments[place] if len(arguments) > place else named[key]
            tensors = payload if isinstance(payload, list) else [payload]
            log[kind] += sum(each.numel() * each.element_size() for each in tensors)
            return kept[name](*arguments, **named)

        return call

    try:
        for name in collectives:
            setattr(dist, name, wrapped(name))
        yield log
    finally:
        for name, function in kept.items():
            setattr(dist, name, function)
