"""Which failures a restart cannot mend, and what they say.

Ray Train restarts the workers after any failure, `max_failures` times. Where the next attempt must fail in the same way, the
run ends at once with the message of the worker that knows the reason.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from ray.train import ControllerError, UserCallback

from ecgmoe.pipeline.store import StorageError
from ecgmoe.training.config import TrainingConfig
from ecgmoe.worker_errors import raised, reason

LASTING = (ValueError, StorageError, FloatingPointError, MemoryError)
"""A mistake in configuration or data, storage that refuses, a loss that is not finite, a batch that memory cannot hold."""


class EndsWhatLasts(UserCallback):
    """Ends the run at a failure of the kinds in `LASTING`, and tells of any other before the workers start again.

    Args:
        monitor: of the run.
        max_failures: restarts that Ray Train makes.
    """

    def __init__(self, monitor: Any, max_failures: int) -> None:
        self.monitor, self.max_failures, self.failures = monitor, max_failures, 0

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Called by Ray Train's controller."""
        for error in worker_exceptions.values():
            if found := raised(error, *LASTING):
                # Ray Train does not go on after an error of its controller.
                raise ControllerError(found)
        self.failures += 1
        again = self.failures <= self.max_failures
        then = (
            f"all start again from the last checkpoint, {self.failures} of {self.max_failures}"
            if again
            else "giving up"
        )
        for rank, error in sorted(worker_exceptions.items()):
            self.monitor.note.remote(f"WORKER {rank} FAILED: {reason(error)}; {then}")


@contextlib.contextmanager
def memory_advice(config: TrainingConfig) -> Iterator[None]:
    """Name what to turn down where memory cannot be had.

    Raises:
        MemoryError: in place of what torch raises.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        text = str(error).strip().replace("\n", " ")
        if (
            isinstance(error, RuntimeError)
            and not isinstance(error, torch.OutOfMemoryError)
            and "allocate memory" not in text
        ):
            raise
        raise MemoryError(f"{text[:200]} - {what_to_turn_down(config)}") from error


def what_to_turn_down(config: TrainingConfig) -> str:
    """Options that take memory off a worker and are not used to the full, the cheapest first."""
    ways = []
    micro = config.global_batch // config.num_workers // config.accumulation
    if micro > 1:
        ways.append(f"--training.accumulation (now {config.accumulation}: micro-batches of {micro} records)")
    if config.precision == "fp32" and config.use_gpu:
        ways.append("--training.precision bf16")
    if config.engine == "deepspeed" and config.zero_stage < 3:
        ways.append(f"--training.zero-stage (now {config.zero_stage})")
    if config.engine == "deepspeed" and config.use_gpu and config.offload != "parameters":
        ways.append(f"--training.offload (now {config.offload})")
    ways += ["--backbones.N.gradient-checkpointing", "--backbones.N.mode lora, frozen or cached", "--backbones.N.size"]
    return f"the worker is out of memory: turn up or change {'; '.join(ways)}; the same command then goes on"
