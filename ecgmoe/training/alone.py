"""Train a run in this process alone, on its CPU: for many small runs, whose time is mostly that of starting processes."""

from __future__ import annotations

import contextlib
import gc
import os
from pathlib import Path

from ecgmoe.config import RunConfig
from ecgmoe.config_tools import from_dict
from ecgmoe.pipeline.store import Store
from ecgmoe.training.job import WorkerJob


def can_be_alone(config: RunConfig) -> bool:
    """Whether `train_alone` is what Ray Train would do: one worker, without a GPU."""
    return config.training.num_workers == 1 and not config.training.min_workers and not config.training.use_gpu


def train_alone(job: WorkerJob) -> None:
    """Do what the one worker of Ray Train would do, bit for bit, from wherever the run stands to its end.

    A failure is not tried again here, and a run that hangs ends the process.

    Args:
        job: of one worker without a GPU.

    Raises:
        Exception: as `run_worker`.
    """
    # Before DeepSpeed is imported, which happens here and not in the driver.
    os.environ |= {"DS_ACCELERATOR": "cpu", "HF_HUB_DISABLE_TELEMETRY": "1"}
    from ecgmoe.training.link import Alone
    from ecgmoe.training.progress import rest
    from ecgmoe.training.stages import run_worker
    from ecgmoe.training.watch import Watch

    group_of_one()
    forget_peak_memory()
    timeout = from_dict(RunConfig, job.config).training.hang_timeout_s
    with Watch(None, Store(job.run), 0, timeout) as watch:
        try:
            run_worker(job, watch, Alone())
        finally:
            rest(Path(job.run).name)


def forget_peak_memory() -> None:
    """Begin the peak of this process' memory anew, so that a run does not tell that of one before it in the process.

    What libraries keep of earlier runs stays in it. Where Linux does not allow it, the peak is that of all runs together.
    """
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        # proc(5): 5 resets the peak resident set size, which getrusage tells too.
        Path("/proc/self/clear_refs").write_text("5")


def group_of_one(backend: str = "gloo") -> None:
    """torch's process group of this process alone, where there is none yet.

    It stays: DeepSpeed keeps hold of the first one that it sees.
    """
    import torch.distributed as dist

    if dist.is_initialized():
        return
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
