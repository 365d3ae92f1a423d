"""Official checkpoint formats are read strictly; what does not fit is refused with the keys at fault.

The checkpoints are written here, with the key names of the official implementations.
"""

from __future__ import annotations

import pickle
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ecgmoe.backbones import convert, load_official, registry
from ecgmoe.backbones.base import Backbone
from ecgmoe.backbones.checkpoints import CheckpointError
from ecgmoe.backbones.config import BackboneConfig
from ecgmoe.backbones.dlinear import DLinear
from ecgmoe.backbones.ecgfm import EcgFm, strides
from ecgmoe.backbones.moment import Moment
from ecgmoe.backbones.tempo import Tempo
from ecgmoe.backbones.timesnet import TimesNet
from official_files import OFFICIAL, ecgfm_file, jittered, moment_folder, tempo_state, timesnet_state


def ecgs(samples: int) -> torch.Tensor:
    return torch.randn(2, 12, samples, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("individual", [False, True])
def test_dlinear_reads_shared_and_individual_layers(individual: bool, tmp_path: Path) -> None:
    written = DLinear(replace(DLinear.sizes["tiny"], individual=individual))
    torch.save(written.state_dict(), tmp_path / "checkpoint.pth")
    read = DLinear.from_pretrained(str(tmp_path / "checkpoint.pth"))
    assert read.architecture == written.architecture
    assert torch.equal(read.encode(ecgs(336)), written.encode(ecgs(336)))


@pytest.mark.parametrize("horizon", [0, 96], ids=["classification", "forecasting"])
def test_timesnet_infers_every_size_from_the_keys(horizon: int, tmp_path: Path) -> None:
    size = replace(TimesNet.sizes["tiny"], layers=2, kernels=4, hidden=10, periods=3, horizon=horizon)
    written = TimesNet(size)
    head = torch.zeros(12, 8) if horizon else torch.zeros(5, 250 * 8)
    torch.save(timesnet_state(written, {"projection.weight": head}), tmp_path / "checkpoint.pth")
    read = TimesNet.from_pretrained(str(tmp_path / "checkpoint.pth"), tokens=25)
    assert read.architecture == written.architecture
    assert torch.equal(read.encode(ecgs(250)), written.encode(ecgs(250)))
    assert read.encode(ecgs(250)).shape == (2, 250 + horizon, 8)


@pytest.mark.parametrize("old_peft", [False, True], ids=["base_layer", "older peft and transformers"])
def test_tempo_reads_both_spellings(old_peft: bool, tmp_path: Path) -> None:
    written = jittered(Tempo(replace(Tempo.sizes["tiny"], width=64, heads=4, layers=2, rank=3)))
    torch.save(tempo_state(written, old_peft=old_peft), tmp_path / "tempo.pth")
    read = load_official("tempo", tmp_path / "tempo.pth")
    assert read.backbone.architecture == written.architecture
    assert torch.equal(read(ecgs(336)), written.encode(ecgs(336)))
    assert read.backbone.provenance is not None
    assert read.backbone.provenance.licence == "Apache-2.0"


@pytest.mark.parametrize("old_norm", [False, True], ids=["parametrizations", "weight_g"])
@pytest.mark.parametrize("classifier", [False, True], ids=["pretrained", "fine-tuned"])
def test_ecgfm_reads_both_spellings_and_both_models(classifier: bool, old_norm: bool, tmp_path: Path) -> None:
    written = jittered(EcgFm(replace(EcgFm.sizes["tiny"], layers=2)))
    path = ecgfm_file(tmp_path / "ecgfm.pt", written, classifier=classifier, old_norm=old_norm)
    read = load_official("ecgfm", path)
    assert read.backbone.architecture == written.architecture
    assert torch.equal(read(ecgs(2500)), written.encode(ecgs(2500)))
    assert read.backbone.provenance is not None
    assert "MIMIC-IV-ECG" in read.backbone.provenance.pretraining
    assert ("labels" in read.backbone.provenance.pretraining) == classifier


def test_strides_are_parsed_and_never_run() -> None:
    def of(text: str, count: int) -> list[int]:
        return strides({"conv_feature_layers": text}, count, "file")

    assert of("[(256, 2, 2)] * 4", 4) == [2, 2, 2, 2]
    assert of("[(512, 10, 5)] + [(512, 3, 2)] * 2", 3) == [5, 2, 2]
    assert strides({}, 4, "file") == [2] * 4
    for text in (
        "__import__('os').system('true')",
        "[(1, 2)] * 4",
        "[(1, 2, 3)] * 10**9",
        "[",
        "[(1, 2, 3)] * 'x'",
        "7",
    ):
        with pytest.raises(CheckpointError, match="is not a list of convolutions"):
            of(text, 4)
    with pytest.raises(CheckpointError, match="names 2 convolutions, it has 4"):
        of("[(256, 2, 2)] * 2", 4)


@pytest.mark.parametrize("name", OFFICIAL)
def test_a_converted_file_gives_the_same_and_knows_where_it_came_from(name: str, tmp_path: Path) -> None:
    kind = registry.backbone_class(name)
    # What no weight tells has to have its usual value.
    untold: dict[str, dict[str, int]] = {"tempo": {"heads": 4}, "timesnet": {"periods": 3}}
    written = jittered(kind(replace(kind.sizes["tiny"], **untold.get(name, {}))))
    OFFICIAL[name](tmp_path, written)
    source = tmp_path / "moment" if name == "moment" else next(tmp_path.glob("a.*"))
    header = convert(name, str(source), tmp_path / "out" / "weights.safetensors")
    # The official file may be gone.
    shutil.rmtree(source) if source.is_dir() else source.unlink()
    read: Backbone = kind.from_pretrained(str(tmp_path / "out" / "weights.safetensors"), tokens=2).eval()
    assert (read.architecture.tokens, read.tokens) == (2, 2)
    x = ecgs(5000)
    with torch.no_grad():
        assert torch.equal(read.encode(read.own_input(x)), written.encode(written.own_input(x)))
    assert read.provenance is not None
    assert header["provenance"]["source"] == read.provenance.source == source.name
    assert set(header["provenance"]) == {"source", "sha256", "licence", "pretraining"}
    with pytest.raises(CheckpointError, match=f"holds the weights of {kind.__name__}, not of"):
        registry.backbone_class("dlinear" if name != "dlinear" else "tempo").from_pretrained(
            str(tmp_path / "out" / "weights.safetensors")
        )
    with pytest.raises(ValueError, match="must be called"):
        convert(name, str(source), tmp_path / "weights.pth")


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


def test_tempo_names_the_keys_that_do_not_fit(tmp_path: Path) -> None:
    path, good = tmp_path / "tempo.pth", tempo_state(Tempo(replace(Tempo.sizes["tiny"], heads=4)))
    torch.save(
        {key: value for key, value in good.items() if not key.endswith("ln_f.bias")} | {"more": good["mul_season.a"]},
        path,
    )
    with pytest.raises(CheckpointError, match=r"missing: gpt2\.ln_f\.bias; unexpected: more"):
        load_official("tempo", path)
    # Without the dot before "attn" the pattern of old masks would swallow c_attn.bias.
    bias = "gpt2_trend.base_model.model.h.0.attn.c_attn.base_layer.bias"
    torch.save({key: value for key, value in good.items() if key != bias}, path)
    with pytest.raises(CheckpointError, match=r"missing: gpt2\.h\.0\.attn\.c_attn\.base_layer\.bias"):
        load_official("tempo", path)
    torch.save(good | {"gpt2_trend.base_model.model.wte.weight": torch.zeros(100, 32)}, path)
    with pytest.raises(CheckpointError, match="has 100 rows"):
        load_official("tempo", path)


def test_ecgfm_names_what_does_not_fit(tmp_path: Path) -> None:
    backbone = EcgFm(EcgFm.sizes["tiny"])
    with pytest.raises(CheckpointError, match="holds a model 'hubert'; ECG-FM is one of"):
        load_official("ecgfm", ecgfm_file(tmp_path / "a.pt", backbone, _name="hubert"))
    torch.save(DLinear(DLinear.sizes["tiny"]).state_dict(), tmp_path / "b.pt")
    with pytest.raises(CheckpointError, match="is not a fairseq state"):
        load_official("ecgfm", tmp_path / "b.pt")
    content = torch.load(ecgfm_file(tmp_path / "c.pt", backbone), weights_only=True)
    content["model"]["encoder.more"] = content["model"].pop("encoder.layer_norm.bias")
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=r"missing: encoder\.layer_norm\.bias; unexpected: encoder\.more"):
        load_official("ecgfm", tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=r"holds 3 files \*\.pt .*: name the file"):
        load_official("ecgfm", tmp_path)


def test_the_hub_is_asked_by_owner_and_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []
    torch.save(tempo_state(Tempo(replace(Tempo.sizes["tiny"], heads=4))), tmp_path / "tempo.pth")

    def download(repository: str, file: str) -> str:
        asked.append((repository, file))
        return str(tmp_path / "tempo.pth")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert load_official("tempo", "Melady/TEMPO").backbone.provenance.source == "Melady/TEMPO"  # type: ignore[union-attr]
    load_official("tempo", "Melady/TEMPO/other.pth")
    assert asked == [("Melady/TEMPO", "TEMPO-80M_v1.pth"), ("Melady/TEMPO", "other.pth")]
    with pytest.raises(CheckpointError, match="no weights at someone/dlinear"):
        load_official("dlinear", "someone/dlinear")


def test_a_hub_that_cannot_be_reached_is_named() -> None:
    # HF_HUB_OFFLINE is set for all tests.
    for name, repository in (("tempo", "Melady/TEMPO"), ("ecgfm", "wanglab/ecg-fm")):
        with pytest.raises(CheckpointError, match=f"could not be fetched from {repository} on the hub"):
            load_official(name, repository)


@pytest.mark.parametrize("keep", [4, 200, -100], ids=["magic", "header", "tail"])
def test_a_torn_file_is_refused(keep: int, tmp_path: Path) -> None:
    for name, write in (("a.pth", torch.save), ("b.safetensors", save_file)):
        path = tmp_path / name
        write(DLinear(DLinear.sizes["tiny"]).state_dict(), path)
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(CheckpointError, match=r"cannot be read as weights alone|is not a whole safetensors file"):
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
    for name in ("dlinear", "timesnet", "tempo", "ecgfm"):
        with pytest.raises(CheckpointError, match="cannot be read as weights alone"):
            load_official(name, "evil.pth")
    assert not Path("executed").exists()


def test_without_momentfm_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "momentfm", None)
    with pytest.raises(ImportError, match=r"install ecgmoe\[moment\] with uv"):
        registry.build(BackboneConfig(name="moment"))
