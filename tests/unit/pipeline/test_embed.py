"""Features belong to their records, weights and settings; only what is missing is computed; batches fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ecgmoe.backbones import registry
from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.backbones.signal import to_millivolt
from ecgmoe.model.batch import ECGBatch
from ecgmoe.pipeline.batch_size import FIRST, SAFE_SHARE, Trial, search
from ecgmoe.pipeline.config import EmbedConfig
from ecgmoe.pipeline.prepared import PreparedData
from ecgmoe.pipeline.store import StorageError
from ecgmoe.training.loader import BatchReader
from prepared_examples import embed_here, simulated_and_prepared

CACHED = tuple(BackboneConfig(name=name, mode="cached", allow_random=True) for name in ("timesnet", "moment", "ecgfm"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulated_and_prepared(tmp_path_factory.mktemp("embed"), patients=40, studies=100)


def times(data: Path) -> dict[str, int]:
    return {str(path.relative_to(data)): path.stat().st_mtime_ns for path in (data / "features").rglob("*.parquet")}


def first_batch(data: Path, features: dict[str, str]) -> ECGBatch:
    prepared = PreparedData(str(data), features)
    return BatchReader(prepared, prepared.labels(), (), groups_kept=1).read(np.arange(20))


def test_stored_features_are_those_of_the_backbone(data: Path) -> None:
    batch = first_batch(data, embed_here(data, CACHED))
    for config in CACHED:
        with torch.no_grad():
            expected = registry.build(config).eval()(to_millivolt(batch.signal))
        found = batch.features[config.name]
        assert found.dtype == torch.float16
        # fp16 has 11 bits: half a unit of the last is 2^-12 of the value.
        assert (found.float() - expected).abs().max() <= 2**-11 * expected.abs().max()


def test_fp32_features_are_exact_whatever_the_batch(data: Path) -> None:
    exact = [replace(config, feature_type="fp32") for config in CACHED]
    batch = first_batch(data, embed_here(data, exact, batch_size=7))
    for config in exact:
        with torch.no_grad():
            expected = registry.build(config).eval()(to_millivolt(batch.signal))
        assert batch.features[config.name].dtype == torch.float32
        # Matrix products of other batch sizes sum in another order.
        assert (batch.features[config.name] - expected).norm() < 1e-5 * expected.norm()


def test_row_groups_are_those_of_the_records(data: Path) -> None:
    keys = embed_here(data, CACHED)
    for records in (data / "records").glob("*.parquet"):
        expected = pq.ParquetFile(records)
        for key in keys.values():
            found = pq.ParquetFile(data / "features" / key / records.name)
            assert found.metadata.num_row_groups == expected.metadata.num_row_groups
            assert found.read(["study_id"]) == expected.read(["study_id"])


def test_an_added_backbone_leaves_the_others_alone(data: Path) -> None:
    keys = embed_here(data, CACHED)
    before = times(data)
    more = embed_here(data, [*CACHED, BackboneConfig(name="dlinear", mode="cached", allow_random=True)])
    assert {name: more[name] for name in keys} == keys
    after = times(data)
    assert {path: after[path] for path in before} == before
    assert {path.split("/")[1] for path in set(after) - set(before)} == {more["dlinear"]}


def test_another_weight_version_or_setting_is_another_folder(data: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    config = BackboneConfig(name="dlinear", mode="cached", allow_random=True)
    keys = [
        embed_here(data, [each], precision)["dlinear"]
        for each, precision in (
            (config, "fp32"),
            (replace(config, seed=1), "fp32"),
            (replace(config, tokens=6), "fp32"),
            (replace(config, feature_type="fp32"), "fp32"),
            (config, "bf16"),
        )
    ]
    state = dict(registry.build(config).state_dict())
    save_file(state, tmp_path / "same.safetensors")
    state["Linear_Trend.bias"] = state["Linear_Trend.bias"] + 1e-6
    save_file(state, tmp_path / "moved.safetensors")
    same, moved = (
        embed_here(data, [BackboneConfig(name="dlinear", mode="cached", weights=str(tmp_path / f"{name}.safetensors"))])
        for name in ("same", "moved")
    )
    # The weights decide, not the file that they come from.
    assert same["dlinear"] == keys[0]
    assert len({*keys, moved["dlinear"]}) == len(keys) + 1
    manifest = PreparedData(str(data)).store.read_json(f"features/{moved['dlinear']}/manifest.json")
    assert manifest["provenance"]["source"] == "moved.safetensors"


def test_a_missing_shard_alone_is_computed_again(data: Path) -> None:
    key = embed_here(data, CACHED)["moment"]
    shard = next((data / "features" / key).glob("*.parquet"))
    whole, before = shard.read_bytes(), times(data)
    shard.unlink()
    (shard.parent / f".{shard.name}.{32 * '0'}").write_bytes(b"what a killed writer left")
    with pytest.raises(StorageError, match="is missing"):
        prepared = PreparedData(str(data), {"moment": key})
        prepared.row_group(int(shard.stem.split("-")[1]), 0)
    embed_here(data, CACHED)
    assert shard.read_bytes() == whole
    after = times(data)
    assert {path for path in after if after[path] != before[path]} == {str(shard.relative_to(data))}
    assert not list(shard.parent.glob(".*"))


def test_features_that_overflow_are_named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ecgmoe.backbones.dlinear import DLinear

    monkeypatch.setattr(DLinear, "encode", lambda self, x: torch.full((len(x), 12, self.width), 1e5))
    config = BackboneConfig(name="dlinear", mode="cached", allow_random=True, seed=9)
    with pytest.raises(ValueError, match=r"are not finite in float16: set feature_type fp32"):
        embed_here(data, [config])
    assert embed_here(data, [replace(config, feature_type="fp32")])


@pytest.mark.parametrize("weights", [0, 10**9])
@pytest.mark.parametrize("per_record", [10**6, 10**7, 2 * 10**8])
def test_the_search_never_tries_what_might_not_fit(weights: int, per_record: int) -> None:
    memory, tried = 8 * 10**9, []

    def measure(size: int) -> Trial:
        used = weights + size * per_record
        assert used <= SAFE_SHARE * memory
        tried.append(size)
        return Trial(seconds=1e-3 + 1.0 / size, bytes=used)

    found = search(measure, memory)
    assert found == tried[-1]
    assert found >= FIRST


def test_the_search_stops_where_a_larger_batch_is_no_faster() -> None:
    assert search(lambda size: Trial(seconds=1 / min(size, 64), bytes=size), 10**9) == 64


def test_the_search_says_what_to_do_where_nothing_fits() -> None:
    with pytest.raises(ValueError, match=r"take 9\.0 GB and the actor may use 8\.0 GB: give it a larger share"):
        search(lambda size: Trial(seconds=1.0, bytes=9 * 10**9), 8 * 10**9)


def test_wrong_options_are_refused() -> None:
    for options, message in (
        ({"workers": 0}, "workers must be at least 1"),
        ({"num_gpus": 2.0}, "share of one GPU"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            EmbedConfig(**options)  # type: ignore[arg-type]
