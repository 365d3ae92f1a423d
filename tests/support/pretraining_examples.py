"""A pre-training on the ranks of a process group, without Ray."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ecgmoe.config import RESIDUAL_NETWORK, RunConfig
from ecgmoe.model.config import LossConfig, ModelConfig
from ecgmoe.training.config import PretrainingConfig, TrainingConfig
from ecgmoe.training.job import WorkerJob
from ecgmoe.training.link import Alone
from resume_examples import unwatched

NAME = RESIDUAL_NETWORK.name


def pretrained_run(epochs: int = 2, **training: Any) -> RunConfig:
    """The residual network in its smallest size, pre-trained and then not trained at all."""
    return RunConfig(
        backbones=(replace(RESIDUAL_NETWORK, size="tiny"),),
        model=ModelConfig(width=16, mixture="concat", paths="multi_model", late_rr=False),
        loss=LossConfig(contrastive_weight=0.0),
        # Its usual epsilon enlarges the rounding of tiny second moments without bound.
        training=TrainingConfig(slots=4, global_batch=8, epochs=0, epsilon=1e-6, **training),
        pretraining=PretrainingConfig(backbones=(NAME,), epochs=epochs),
    )


def pretrain(job: dict[str, Any], stop: int | None = None) -> dict[str, Any]:
    """All of a run from wherever it stands, or its pre-training up to a step after which it ends; call it on every rank.

    Returns:
        losses: of each step of the pre-training that was made, this rank's share.
    """
    from ecgmoe.training import pretraining, stages

    losses: list[float] = []

    class Ended(Exception):
        pass

    class Noting(pretraining.Pretraining):
        def objective(self) -> Any:
            load, step = super().objective()

            def noted(*arguments: Any) -> Any:
                if len(losses) == stop:
                    raise Ended
                found = step(*arguments)
                losses.append(float(found[NAME]))
                return found

            return load, noted

    handed, own = WorkerJob(**job), stages.Pretraining
    stages.Pretraining = Noting  # type: ignore[misc]
    try:
        stages.run_worker(handed, unwatched(handed), Alone())
    except Ended:
        pass
    finally:
        stages.Pretraining = own  # type: ignore[misc]
    return {"losses": losses}
