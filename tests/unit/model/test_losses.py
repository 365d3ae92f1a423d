"""The loss of a global batch must not depend on how the batch is cut, whatever labels are missing."""

from __future__ import annotations

import pytest
import torch

from ecgmoe.model.config import LossConfig
from ecgmoe.model.losses import composite, info_nce_sum, load_imbalance, task_loss_sum, task_losses, task_weight
from model_examples import TASKS, batch, model, statistics


def totals(whole) -> dict[str, float]:  # type: ignore[no-untyped-def]
    return {task.name: float(task_weight(task, whole.labels[task.name], statistics()).sum()) for task in TASKS}


def test_unequal_parts_sum_to_the_loss_of_the_whole() -> None:
    net, whole = model(), batch((9, 12, 7, 10, 15, 8, 11), seed=3)
    expected = task_losses(net(whole), whole, TASKS, statistics(), totals(whole))
    parts = [whole.rows(0, 1), whole.rows(1, 5), whole.rows(5, 7)]
    summed = [task_losses(net(part), part, TASKS, statistics(), totals(whole)) for part in parts]
    for task in TASKS:
        assert sum(part[task.name] for part in summed).item() == pytest.approx(expected[task.name].item(), rel=1e-5)


def test_weighted_cross_entropy_is_torchs() -> None:
    net, whole = model(), batch((9, 12, 7, 10), seed=1)
    prediction = net(whole).predictions["arrhythmia"]
    weights = torch.tensor(statistics().class_weights["arrhythmia"])
    labels = whole.labels["arrhythmia"]
    known = ~labels.isnan()
    expected = torch.nn.functional.cross_entropy(prediction[known], labels[known].long(), weight=weights)
    assert task_losses(net(whole), whole, TASKS, statistics(), totals(whole))["arrhythmia"].item() == pytest.approx(
        expected.item(), rel=1e-5
    )


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_batch_without_labels_gives_zero_loss_and_zero_finite_gradients(task) -> None:  # type: ignore[no-untyped-def]
    shape = (3, 15) if task.kind == "multiclass" else (3,)
    prediction = torch.randn(shape, requires_grad=True)
    loss = task_loss_sum(task, prediction, torch.full((3,), torch.nan), statistics())
    loss.backward()
    assert loss.item() == 0
    assert prediction.grad is not None
    assert torch.equal(prediction.grad, torch.zeros(shape))


def naive_info_nce(m: torch.Tensor, p: torch.Tensor, patient: torch.Tensor, temperature: float) -> float:
    m, p = (z / z.norm(dim=1, keepdim=True) for z in (m, p))
    total = 0.0
    for a, b in ((m, p), (p, m)):
        for i in range(len(a)):
            terms = [a[i] @ b[j] / temperature for j in range(len(a)) if j == i or patient[j] != patient[i]]
            total += -(a[i] @ b[i] / temperature - torch.stack(terms).logsumexp(0)).item() / 2
    return total


def test_info_nce_in_parts_is_the_plain_sum_over_the_global_batch() -> None:
    torch.manual_seed(0)
    m, p, patient = torch.randn(7, 5), torch.randn(7, 5), torch.tensor([1, 2, 2, 3, 4, 4, 4])
    parts = [
        info_nce_sum(m[a:b], p[a:b], patient[a:b], all_m=m, all_p=p, all_patient=patient, first=a, temperature=0.3)
        for a, b in ((0, 2), (2, 3), (3, 7))
    ]
    assert sum(parts).item() == pytest.approx(naive_info_nce(m, p, patient, 0.3), rel=1e-5)  # type: ignore[union-attr]


def test_records_of_one_patient_are_not_negatives() -> None:
    torch.manual_seed(0)
    m, p = torch.randn(4, 5), torch.randn(4, 5)
    arguments = {"all_m": m, "all_p": p, "first": 0, "temperature": 0.3}
    one = torch.zeros(4, dtype=torch.int64)
    assert info_nce_sum(m, p, one, all_patient=one, **arguments).item() == pytest.approx(0, abs=1e-6)  # type: ignore[arg-type]


PARTS = {task.name: torch.tensor(float(index + 1)) for index, task in enumerate(TASKS)} | {
    "contrastive": torch.tensor(10.0)
}
COUNTS = dict.fromkeys((task.name for task in TASKS), 4.0)


def test_equal_and_fixed_weights() -> None:
    equal = composite(PARTS, LossConfig(contrastive_weight=0.1), TASKS, None, COUNTS, 1.0)
    assert equal.item() == pytest.approx(1 + 2 + 3 + 4 + 5 + 1)
    fixed = LossConfig(task_weighting="fixed", task_weights={"age": 0.5, "sex": 0.0}, contrastive_weight=0.0)
    without = {name: part for name, part in PARTS.items() if name != "contrastive"}
    assert composite(without, fixed, TASKS, None, COUNTS, 1.0).item() == pytest.approx(1 + 0.5 * 2 + 0 + 4 + 5)


def test_learnt_weights_settle_at_the_size_of_each_loss() -> None:
    """exp(-s) L + s / 2 is least where exp(s) = 2 L, and half of it (a regression) where exp(s) = L."""
    s = torch.zeros(len(TASKS), requires_grad=True)
    optimizer = torch.optim.LBFGS([s], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = composite(PARTS, LossConfig(contrastive_weight=0.0), TASKS, s, COUNTS, 1.0)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    expected = [PARTS[task.name].item() * (1.0 if task.kind == "regression" else 2.0) for task in TASKS]
    assert s.exp().tolist() == pytest.approx(expected, rel=1e-3)


def test_learnt_weights_do_not_depend_on_the_cut() -> None:
    s = torch.tensor([0.3, -0.2, 0.1, 0.5, -0.4])
    whole = composite(PARTS, LossConfig(), TASKS, s, COUNTS, 1.0)
    quarter = {name: part / 4 for name, part in PARTS.items()}
    assert 4 * composite(quarter, LossConfig(), TASKS, s, COUNTS, 0.25).item() == pytest.approx(whole.item(), rel=1e-6)


def test_a_task_without_labels_leaves_its_learnt_weight_alone() -> None:
    s = torch.full((len(TASKS),), 0.3, requires_grad=True)
    parts = PARTS | {"potassium": torch.tensor(0.0)}
    composite(parts, LossConfig(), TASKS, s, COUNTS | {"potassium": 0.0}, 1.0).backward()  # type: ignore[no-untyped-call]
    assert s.grad is not None
    assert [task.name for task, gradient in zip(TASKS, s.grad.tolist(), strict=True) if gradient == 0] == ["potassium"]


def test_imbalance_is_the_squared_coefficient_of_variation() -> None:
    load = torch.tensor([0.5, 0.2, 0.2, 0.1], dtype=torch.float64)
    expected = (load.std(correction=0) / load.mean()) ** 2
    assert load_imbalance(load).item() == pytest.approx(expected.item(), rel=1e-12)
    assert load_imbalance(torch.full((5,), 0.2)).item() == pytest.approx(0, abs=1e-12)
    assert load_imbalance(torch.tensor([0.0, 1.0, 0.0])).item() == pytest.approx(2)
