"""Steps that wait for their data are told of: the share, the rank, the part of reading to blame, and what helps."""

from __future__ import annotations

import pytest

from distributed import run_distributed
from ecgmoe.backbones.config import BackboneConfig
from prepared_examples import embed_here, simulated_and_prepared
from slow_reading import said_about_waits

pytestmark = [pytest.mark.distributed, pytest.mark.timing]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str]]:
    data = simulated_and_prepared(tmp_path_factory.mktemp("waits"))
    backbone = BackboneConfig(name="moment", size="tiny", mode="cached", allow_random=True)
    return str(data), embed_here(data, [backbone])


@pytest.mark.parametrize(
    ("delays", "blamed"),
    [({"records": 0.3}, "reading signals"), ({"features": 0.3}, "reading features of moment")],
    ids=["signals", "features"],
)
def test_the_slowest_rank_and_what_it_reads(
    prepared: tuple[str, dict[str, str]], delays: dict[str, float], blamed: str
) -> None:
    first, second = run_distributed(said_about_waits, 2, *prepared, delays, 1)
    # Once in each epoch, by rank 0 alone.
    assert len(first) == 2, first
    assert second == []
    for line in first:
        assert line.startswith("WAITING FOR DATA: ")
        assert f"% of the time of a step on rank 1, most of it {blamed} (" in line
        assert f"a copy of {prepared[0]} on a local or faster disk; --training.read-ahead above 1" in line


def test_nothing_is_said_of_reading_that_keeps_up(prepared: tuple[str, dict[str, str]]) -> None:
    assert run_distributed(said_about_waits, 2, *prepared, {}, 0) == [[], []]
