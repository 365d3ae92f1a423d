"""A batch whose loss or gradient is not finite: its studies are written down, and the run stops or leaves it out.

RUN/faults/not-finite-step-00000017.json   the batch of a run that stopped
RUN/faults/left-out.json                   batches that the run leaves out, which is part of what it computes

The weights are spoilt by then. So a run that goes on does so from its last checkpoint, and comes by the batch without it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch.distributed as dist

from ecgmoe.pipeline.store import Store
from ecgmoe.training.collectives import gather_objects

LEFT_OUT = "faults/left-out.json"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A global batch and what is wrong with it.

    Attributes:
        epoch: counted from 0.
        batch: of that epoch, counted from 0.
        step: optimiser step that it made, counted from 1.
        not_finite: losses that are not finite, or "gradient".
        study_ids: of its records.
    """

    epoch: int
    batch: int
    step: int
    not_finite: list[str]
    study_ids: list[int]


class NotFiniteError(FloatingPointError):
    """Training cannot go on past a batch."""


class BatchLeftOut(Exception):
    """The run goes on from its last checkpoint, without a batch."""


def left_out(run: Store) -> list[Batch]:
    """Batches that the run leaves out; every rank must call it."""
    stored = run.read_json(LEFT_OUT) if dist.get_rank() == 0 and run.exists(LEFT_OUT) else []
    return [Batch(**each) for each in gather_objects(stored)[0]]


def give_up(run: Store, batch: Batch, before: list[Batch], allowed: int, learning_rate: str) -> None:
    """Write the batch down and end this attempt; every rank must call it.

    Args:
        run: folder of the run.
        batch: the batch.
        before: those that are left out already.
        allowed: how many the run may leave out.
        learning_rate: option that sets it.

    Raises:
        BatchLeftOut: the run is to go on without it.
        NotFiniteError: it is one too many.
    """
    what = f"the {' and '.join(batch.not_finite)} {'are' if len(batch.not_finite) > 1 else 'is'} not finite"
    where = f"at step {batch.step:,} (epoch {batch.epoch + 1}, batch {batch.batch + 1})"
    if len(before) < allowed:
        if dist.get_rank() == 0:
            run.write_json(LEFT_OUT, [asdict(each) for each in [*before, batch]])
            print(
                f"NOT FINITE: {what} {where}: its {len(batch.study_ids)} studies are left out ({run.path(LEFT_OUT)}), "
                f"{len(before) + 1} of {allowed} batches; going on from the last checkpoint",
                flush=True,
            )
        gather_objects(None)  # nobody reads the list before it is written
        raise BatchLeftOut
    name = f"faults/not-finite-step-{batch.step:08d}.json"
    if dist.get_rank() == 0:
        run.write_json(name, asdict(batch))
    gather_objects(None)
    raise NotFiniteError(
        f"{what} {where}; its study ids are in {run.path(name)}. Look at their labels and waveforms, lower "
        f"{learning_rate} under another --run, or leave out such batches: --training.skip-not-finite {allowed + 1}"
    )
