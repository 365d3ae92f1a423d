"""A run goes on under another number of workers and another ZeRO stage as it would have under the old ones."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distributed import run_distributed
from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.config import RunConfig
from ecgmoe.evaluation.bootstrap import LIMITS_SD
from ecgmoe.model.config import LossConfig, ModelConfig
from ecgmoe.training.config import TrainingConfig
from prepared_examples import simulated_and_prepared
from resume_examples import BEFORE, go_on
from training_examples import job_of

pytestmark = pytest.mark.distributed

AFTER = 20
Layout = tuple[int, int]
"""Workers, ZeRO stage."""
PAIRS: list[tuple[Layout, Layout]] = [((2, 1), (1, 0)), ((2, 3), (4, 2))]
ALL = list(itertools.product((1, 2, 4), (0, 1, 2, 3)))


def config(layout: Layout) -> RunConfig:
    """Without dropout: ranks draw their own, and another layout draws anew."""
    return RunConfig(
        backbones=(BackboneConfig(name="dlinear", size="tiny", mode="full"),),
        model=ModelConfig(width=16, dropout=0.0),
        loss=LossConfig(contrastive_weight=0.1),
        training=TrainingConfig(
            num_workers=layout[0],
            zero_stage=layout[1],
            epochs=2,
            global_batch=4,
            slots=4,
            checkpoint_every=1,
            # torch's default of 1e-8 divides the rounding of tiny gradients by numbers as tiny.
            epsilon=1e-6,
        ),
    )


class Grid:
    """Runs from the beginning, which write a checkpoint on their way, and runs that go on from it elsewhere."""

    def __init__(self, root: Path, pairs: Sequence[tuple[Layout, Layout]]) -> None:
        data = simulated_and_prepared(root, patients=50, studies=125)
        jobs: dict[Any, dict[str, Any]] = {}
        for source in sorted({source for source, _ in pairs}):
            jobs[source] = {"source": None, "write": self.folder(root, source), "steps": BEFORE + AFTER}
        # One and four workers validate with the same weights as the others, if nothing else.
        for workers in (1, 4):
            jobs.setdefault((workers, 0), {"source": None, "write": None, "steps": 0})
        for source, target in pairs:
            jobs[source, target] = {"source": self.folder(root, source), "write": None, "steps": AFTER}
        self.found: dict[Any, list[dict[str, Any]]] = {}
        # As few process groups as the order allows: a run that goes on needs the checkpoint of another group.
        for world in (2, 1, 4, 2, 1):
            now = [key for key in jobs if key not in self.found and self.ready(key, world)]
            if now:
                ranks = run_distributed(
                    go_on, world, [{"job": job_of(config(self.of(k)), data), **jobs[k]} for k in now]
                )
                self.found |= dict(zip(now, zip(*ranks, strict=True), strict=True))
        assert set(self.found) == set(jobs)

    @staticmethod
    def folder(root: Path, layout: Layout) -> str:
        return str(root / f"{layout[0]}-{layout[1]}")

    @staticmethod
    def of(key: Any) -> Layout:
        """The layout that a run trains under."""
        return key[1] if isinstance(key[0], tuple) else key

    def ready(self, key: Any, world: int) -> bool:
        """It is this group's, and its checkpoint is there or comes before it in this group."""
        if self.of(key)[0] != world:
            return False
        return not isinstance(key[0], tuple) or key[0] in self.found or key[0][0] == world

    def losses(self, key: Any) -> torch.Tensor:
        return torch.tensor(self.found[key][0]["losses"])[-AFTER:]

    def order(self, key: Any) -> list[list[int]]:
        """Study ids of each step, the ranks' shares end to end."""
        return [
            list(itertools.chain(*shares)) for shares in zip(*(rank["seen"] for rank in self.found[key]), strict=True)
        ]

    def differences(self, source: Layout, target: Layout) -> dict[str, float]:
        """Largest relative ones between going on under the target and under the source."""
        one, other = self.found[source][0], self.found[source, target][0]
        trained = one["gradient"]
        losses, expected = self.losses((source, target)), self.losses(source)
        return {
            "gradient": distance(other["gradient"], one["gradient"]),
            # All losses of a step together: a task without a label in its batch has none.
            "loss": float(((losses - expected).norm(dim=1) / expected.norm(dim=1)).max()),
            "weights": distance(
                {name: other["state"][name] for name in trained}, {name: one["state"][name] for name in trained}
            ),
        }


def distance(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Norm of the difference over all tensors, relative to that of what is expected."""
    assert set(found) == set(expected)
    a, b = (torch.cat([each[name].double().flatten() for name in sorted(expected)]) for each in (found, expected))
    assert b.norm() > 0
    return float((a - b).norm() / b.norm())


def check(grid: Grid, source: Layout, target: Layout) -> None:
    """The gradient of the first step is a sum in fp32 in another order: 1e-6 is some ten roundings. AdamW's division by the
    root of second moments enlarges that from step to step."""
    found = grid.differences(source, target)
    assert found["gradient"] < 1e-6, found
    assert found["loss"] < 1e-4, found
    assert found["weights"] < 1e-4, found
    assert grid.order((source, target)) == grid.order(source)[BEFORE:]


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Grid:
    return Grid(tmp_path_factory.mktemp("layouts"), PAIRS)


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_another_layout_goes_on_with_the_same_training(grid: Grid, source: Layout, target: Layout) -> None:
    check(grid, source, target)


def test_validation_does_not_depend_on_the_number_of_workers(grid: Grid) -> None:
    """With the same weights, but other records in a pass: matrix products of fewer rows may round in another order, and all
    metrics are smooth in that, or do not change at all (a rank, a class). An error of some ms is the difference of two
    numbers of nearly 1000 ms, and these are what fp32 rounds. Errors that are off by so much each move their mean, and their
    standard deviation, by as much at most, and a limit of agreement by 1 + 1.96 times that."""
    rounding = {"rr": float(np.spacing(np.float32(1000))), "age": float(np.spacing(np.float32(100)))}
    widened = dict.fromkeys(("loa_low", "loa_high"), 1 + LIMITS_SD)
    one, *others = (grid.found[layout][0]["metrics"] for layout in ((1, 0), (2, 1), (4, 0)))
    assert set(one) >= {"rr", "age", "sex"}
    for other in others:
        assert other.keys() == one.keys()
        for task, metrics in one.items():
            assert other[task].keys() == metrics.keys()
            for name, value in metrics.items():
                bound = rounding.get(task, 0) * widened.get(name, 1)
                assert other[task][name] == pytest.approx(value, rel=1e-6, abs=bound), (task, name)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_every_layout_goes_on_under_every_other(tmp_path: Path) -> None:
    full = Grid(tmp_path, [(source, target) for source in ALL for target in ALL if source != target])
    table = {pair: full.differences(*pair) for pair in full.found if isinstance(pair[0], tuple)}
    for kind in ("gradient", "loss", "weights"):
        print(
            f"\n{kind}: largest relative difference, from (rows) to (columns)\n" + " " * 6,
            *(f"{w}@{z:<7}" for w, z in ALL),
        )
        for source in ALL:
            cells = [f"{table[source, target][kind]:.1e}" if source != target else "   -   " for target in ALL]
            print(f"{source[0]}@{source[1]}   ", *(f"{cell:<9}" for cell in cells))
    worst = {kind: float(np.max([each[kind] for each in table.values()])) for kind in ("gradient", "loss", "weights")}
    print(f"\nworst: {worst}")
    for source, target in table:
        check(full, source, target)
