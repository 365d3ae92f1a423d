"""Official checkpoint formats are read strictly; what does not fit is refused with the keys at fault.

The checkpoints are written here, with the key names of the official implementations.
"""

from __future__ import annotations

import json
import pickle
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ecgmoe.backbones import registry
from ecgmoe.backbones.checkpoints import CheckpointError
from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.backbones.dlinear import DLinear
from ecgmoe.backbones.moment import Moment
from ecgmoe.backbones.timesnet import Architecture, TimesNet

TOKEN_CONVOLUTION = "enc_embedding.value_embedding.tokenConv.weight"


def ecgs(samples: int) -> torch.Tensor:
    return torch.randn(2, 12, samples, generator=torch.Generator().manual_seed(0))


def timesnet_state(backbone: TimesNet, head: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The encoder under its official names, with a head and the calendar embedding that official files hold."""
    state = dict(backbone.state_dict())
    state[TOKEN_CONVOLUTION] = state.pop("tokens_conv.weight")
    return state | {"enc_embedding.temporal_embedding.embed.weight": torch.zeros(8, 4)} | head


def moment_folder(folder: Path, backbone: Moment, **changes: Any) -> Path:
    """A checkpoint as momentfm publishes it, with its reconstruction head."""
    sizes = backbone.describe()
    config = {
        "transformer_type": "encoder_only",
        "d_model": None,
        "seq_len": 512,
        "patch_len": 8,
        "patch_stride_len": 8,
        "transformer_backbone": "google/flan-t5-small",
        "t5_config": {
            "d_model": sizes["width"],
            "d_ff": sizes["feed_forward"],
            "num_layers": sizes["layers"],
            "num_heads": sizes["heads"],
            "d_kv": sizes["head_width"],
            "vocab_size": sizes["vocabulary"],
            "feed_forward_proj": "gated-gelu",
        },
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config | changes))
    head = {"head.linear.weight": torch.zeros(8, sizes["width"])}
    save_file(backbone.net.state_dict() | head, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("individual", [False, True])
def test_dlinear_reads_shared_and_individual_layers(individual: bool, tmp_path: Path) -> None:
    written = DLinear(replace(DLinear.sizes["tiny"], individual=individual))
    torch.save(written.state_dict(), tmp_path / "checkpoint.pth")
    read = DLinear.from_pretrained(str(tmp_path / "checkpoint.pth"))
    assert read.architecture == written.architecture
    assert torch.equal(read.encode(ecgs(336)), written.encode(ecgs(336)))


@pytest.mark.parametrize(
    "head",
    [
        {"predict_linear.weight": torch.zeros(346, 250), "projection.weight": torch.zeros(12, 8)},
        {"projection.weight": torch.zeros(5, 250 * 8)},
    ],
    ids=["forecasting", "classification"],
)
def test_timesnet_infers_every_size_from_the_keys(head: dict[str, torch.Tensor], tmp_path: Path) -> None:
    written = TimesNet(replace(TimesNet.sizes["tiny"], layers=2, kernels=4, hidden=10, periods=3))
    torch.save(timesnet_state(written, head), tmp_path / "checkpoint.pth")
    read = TimesNet.from_pretrained(str(tmp_path / "checkpoint.pth"), tokens=25)
    assert read.architecture == written.architecture
    assert torch.equal(read.encode(ecgs(250)), written.encode(ecgs(250)))


def test_timesnet_of_one_channel_is_refused_on_twelve_leads() -> None:
    with pytest.raises(ValueError, match="takes 1 leads at once and got 12"):
        TimesNet(replace(TimesNet.sizes["tiny"], leads=1))(ecgs(5000))


def test_moment_reads_the_official_folder(tmp_path: Path) -> None:
    written = Moment(Moment.sizes["tiny"]).eval()
    read = Moment.from_pretrained(str(moment_folder(tmp_path / "moment", written))).eval()
    assert read.architecture == written.architecture
    assert torch.equal(read.encode(ecgs(512)), written.encode(ecgs(512)))


def test_reading_weights_leaves_the_global_random_state_alone(tmp_path: Path) -> None:
    torch.save(DLinear(DLinear.sizes["tiny"]).state_dict(), tmp_path / "checkpoint.pth")
    before = torch.get_rng_state()
    registry.build(BackboneConfig(name="dlinear", weights=str(tmp_path / "checkpoint.pth")))
    assert torch.equal(torch.get_rng_state(), before)


def test_dlinear_names_the_keys_that_do_not_fit(tmp_path: Path) -> None:
    good = DLinear(DLinear.sizes["tiny"]).state_dict()
    torn = {key: value for key, value in good.items() if key != "Linear_Trend.bias"}
    save_file({**torn, "more": torch.zeros(1), "Linear_Trend.weight": torch.zeros(2, 2)}, tmp_path / "a.safetensors")
    with pytest.raises(
        CheckpointError, match=r"missing: Linear_Trend.bias; unexpected: more; mis-shaped: Linear_Trend.weight \(2, 2\)"
    ):
        DLinear.from_pretrained(str(tmp_path / "a.safetensors"))
    save_file({"x": torch.zeros(1)}, tmp_path / "b.safetensors")
    with pytest.raises(CheckpointError, match=r"has no Linear_Seasonal\.weight"):
        DLinear.from_pretrained(str(tmp_path / "b.safetensors"))


def test_timesnet_names_the_keys_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    good = timesnet_state(TimesNet(TimesNet.sizes["tiny"]), {})
    torch.save({key: value for key, value in good.items() if key != "model.0.conv.2.kernels.1.bias"}, path)
    with pytest.raises(CheckpointError, match=r"missing: model\.0\.conv\.2\.kernels\.1\.bias"):
        TimesNet.from_pretrained(str(path))
    torch.save(good | {"model.0.more": torch.zeros(1), "layer_norm.bias": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match=r"unexpected: model\.0\.more; mis-shaped: layer_norm\.bias \(3,\)"):
        TimesNet.from_pretrained(str(path))
    torch.save(DLinear(DLinear.sizes["tiny"]).state_dict(), path)
    with pytest.raises(CheckpointError, match=r"tokenConv.*first key: Linear_Seasonal"):
        TimesNet.from_pretrained(str(path))


def test_moment_names_what_does_not_fit(tmp_path: Path) -> None:
    backbone = Moment(Moment.sizes["tiny"])
    folder = moment_folder(tmp_path / "a", backbone)
    state = dict(backbone.net.state_dict())
    norm = state.pop("encoder.final_layer_norm.weight")
    save_file({**state, "encoder.more": norm}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"missing: encoder\.final_layer_norm\.weight; unexpected: encoder\.more"):
        Moment.from_pretrained(str(folder))
    with pytest.raises(CheckpointError, match="patch_len 16 instead of 8"):
        Moment.from_pretrained(str(moment_folder(tmp_path / "b", backbone, patch_len=16)))
    with pytest.raises(CheckpointError, match=r"config\.json is torn or not a configuration of MOMENT .*d_ff"):
        Moment.from_pretrained(str(moment_folder(tmp_path / "c", backbone, t5_config={"d_model": 64})))
    (folder / "config.json").write_text('{"t5_config": {')
    with pytest.raises(CheckpointError, match=r"config\.json is torn"):
        Moment.from_pretrained(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        Moment.from_pretrained(str(folder))
    with pytest.raises(CheckpointError, match="is no local folder and could not be fetched"):
        Moment.from_pretrained(str(tmp_path / "absent"))


@pytest.mark.parametrize("keep", [4, 200, -100], ids=["magic", "header", "tail"])
def test_a_torn_file_is_refused(keep: int, tmp_path: Path) -> None:
    for name, write in (("a.pth", torch.save), ("b.safetensors", save_file)):
        path = tmp_path / name
        write(DLinear(DLinear.sizes["tiny"]).state_dict(), path)
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(CheckpointError, match="cannot be read as weights alone"):
            DLinear.from_pretrained(str(path))


def test_an_absent_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no weights at"):
        DLinear.from_pretrained(str(tmp_path / "absent.pth"))


class Exploit:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("executed"),))  # type: ignore[return-value]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_that_would_execute_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"a": Exploit()}))
    with pytest.raises(CheckpointError, match="cannot be read as weights alone"):
        DLinear.from_pretrained("evil.pth")
    assert not Path("executed").exists()


def test_without_momentfm_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "momentfm", None)
    with pytest.raises(ImportError, match=r"install ecgmoe\[moment\] with uv"):
        registry.build(BackboneConfig(name="moment"))


def test_the_architecture_of_timesnet_is_checked_through_json() -> None:
    with pytest.raises(ValueError, match="widht"):
        registry.rebuild("timesnet", {**vars(Architecture()), "widht": 3})
