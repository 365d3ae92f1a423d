"""Measure the stages on this machine. Prints JSON; --out keeps it.

- prepare: records per second on one and two workers, beside the sum of its parts
- parts: records per second of reading and of R peaks, beside bare wfdb and neurokit2
- embed: records per second of each backbone, beside bare PyTorch loops over the same batches
- loader: records per second of training batches, beside a torch DataLoader that reads the WFDB files on the fly
- training: time of a training step, beside a bare DeepSpeed loop over batches in memory
- scaling: time of a training step of the same records on one worker and on more
- checkpoint: seconds to save and load a checkpoint of training, beside torch.save and torch.load of the same tensors
- memory: resident memory of a training step at each ZeRO stage on two workers, beside the prediction
- inference: time per ECG of all tasks in one pass, beside the paper's multi-task baseline and five single-task copies
- predict: records per second of a trained model on prepared data, beside a bare loop of passes; seconds of an evaluation
- trained: the same as inference, of two trained models on real records
- export: a whole prediction by the model, its inference form, torch.export and ONNX; adapters merged beside apart
- attribution: by how much the parts of leads and moments miss the change of a prediction, and maps of shuffled weights
- serving: requests per second and times of a server with good and bad requests from 1 to 64 clients, and its memory
- variants: parameters, FLOPs and activation memory of ECG-MoE and of what it is compared with
- scale: so many simulated ECGs through prepare: disk and memory
- index: tables of so many studies: the driver's memory
- start: seconds of `import ecgmoe` and of the help of every job
- page: one page (Markdown, JSON, SVG) of all the STAGE.json in the folder --out
- labevents: a generated laboratory table of so many rows
- costs: time of a pass and of a training step against records, beats, leads, tasks and backbones
- traffic: bytes that 1 to 256 GPUs send in a training step of --preset, on paper, and those of two real workers
- roofline: FLOPs, bytes and measured peaks of a GPU beside embed and a training step of each backbone, and their memory
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ecgmoe.backbones.config import Size
from ecgmoe.cli import parse, run_job
from ecgmoe.pipeline.config import Compression, DatasetName

if TYPE_CHECKING:
    from ecgmoe.config import RunConfig

WATCHED_EVERY_S = 0.5
"""Seconds between two looks at the memory of a stage, each of a few milliseconds, which a ratio's two ways meet alike."""
CHECKPOINT_RECORDS = 200
"""Simulated ECGs for the one step before a checkpoint, which is as large however many they are."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of benchmark.

    Attributes:
        stage: what to measure.
        dataset: prepare, parts, loader, training, scaling, checkpoint: which reader.
        root: prepare, parts, loader, training, scaling, checkpoint: the dataset; serving: a folder of WFDB records;
            simulated ECGs without it. predict: the dataset that --data was prepared from, whose files are then predicted too.
        size: ECGs (prepare, parts, embed, loader, training, scaling, scale, index, attribution, predict), good requests of
            a round (serving) or rows (labevents).
        backbones: embed: which; all by default.
        compression: embed, loader, training, scaling: of the prepared waveforms.
        pairs: prepare, parts, embed, loader, training, scaling, checkpoint, inference, trained, predict, start, costs,
            roofline: interleaved rounds, at least 6.
        preset: training, scaling, checkpoint, traffic: which configuration; None takes tiny for checkpoint and bench for the
            others.
        model: attribution, serving, trained, predict: a model folder.
        peer: trained: the other model folder.
        data: attribution, trained, predict: a prepared folder, whose test split is explained or predicted.
        encoders: roofline: their size, "large" without it.
        device: roofline: "cpu" tries the code with encoders of size tiny on a machine without a GPU.
        scratch: folder for what is generated; a temporary one by default.
        out: JSON file for the result; page: the folder of these files, in which the page is written.
    """

    stage: Literal[
        "prepare",
        "parts",
        "embed",
        "loader",
        "training",
        "scaling",
        "checkpoint",
        "memory",
        "inference",
        "trained",
        "predict",
        "export",
        "attribution",
        "serving",
        "variants",
        "scale",
        "index",
        "labevents",
        "start",
        "page",
        "costs",
        "traffic",
        "roofline",
    ]
    dataset: DatasetName = "simulated"
    root: str | None = None
    size: int = 2000
    backbones: tuple[str, ...] = ()
    compression: Compression = "zstd"
    pairs: int = 10
    preset: str | None = None
    model: str | None = None
    peer: str | None = None
    data: str | None = None
    encoders: Size | None = None
    device: Literal["cuda", "cpu"] | None = None
    scratch: str | None = None
    out: str | None = None


def main(argv: list[str]) -> None:
    options = parse(Options, argv, __doc__ or "")
    if options.root is None and options.dataset != "simulated":
        raise ValueError(f"--dataset {options.dataset} needs --root, its folder")
    takes = {
        "attribution": {"model", "data"},
        "predict": {"model", "data"},
        "serving": {"model"},
        "trained": {"model", "peer", "data"},
    }
    needs = takes.get(options.stage, set())
    if options.compression != "zstd" and options.stage not in ("embed", "loader", "training", "scaling"):
        raise ValueError(f"--compression is of embed, loader, training and scaling, not of {options.stage}")
    if options.backbones and options.stage != "embed":
        raise ValueError(f"--backbones is of embed, not of {options.stage}")
    if options.stage != "roofline" and (options.encoders or options.device):
        raise ValueError(f"--encoders and --device are of roofline, not of {options.stage}")
    if options.preset is not None and options.stage not in ("training", "scaling", "checkpoint", "traffic"):
        raise ValueError(f"--preset is of training, scaling, checkpoint and traffic, not of {options.stage}")
    if options.pairs < 6:
        raise ValueError(f"--pairs {options.pairs}: an interval of 95 % needs at least 6")
    given = {name for name in ("model", "peer", "data") if getattr(options, name)}
    if given != needs:
        raise ValueError(f"--stage {options.stage} takes {_options(needs)}, and was given {_options(given)}")
    if options.stage == "page":
        from ecgmoe.benchmark.page import NAME, write_page

        if options.out is None:
            raise ValueError("--stage page needs --out, the folder of the results")
        write_page(options.out)
        print(f"page {options.out}/{NAME}.md")
        return
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=options.scratch) as folder:
        from ecgmoe.benchmark.memory import Watch

        with Watch(WATCHED_EVERY_S) as watch:
            result = _stages(options, Path(folder))[options.stage]()
    about = {"stage": options.stage, "machine": _machine(argv), "peak_memory_bytes": watch.together}
    text = json.dumps({**about, **result}, indent=2)
    print(text)
    if "markdown" in result:
        print(result["markdown"])
    if options.out:
        Path(options.out).write_text(text + "\n")


def _options(names: set[str]) -> str:
    return " and ".join(f"--{name}" for name in sorted(names, reverse=True)) or "none of --model, --peer and --data"


def _stages(options: Options, scratch: Path) -> dict[str, Callable[[], dict[str, Any]]]:
    def dataset(size: int = options.size) -> str:
        """The folder of --root, or so many simulated ECGs."""
        from ecgmoe.ecg.simulate import SimulationConfig, simulate

        if options.root is None:
            simulate(scratch / "raw", SimulationConfig(patients=max(1, size // 2), studies=size))
        return options.root or str(scratch / "raw")

    def prepare() -> dict[str, Any]:
        from ecgmoe.benchmark.prepare import prepare_benchmark

        return prepare_benchmark(options.dataset, dataset(), scratch / "data", pairs=options.pairs)

    def parts() -> dict[str, Any]:
        from ecgmoe.benchmark.parts import parts_benchmark

        return parts_benchmark(options.dataset, dataset(), records=options.size, pairs=options.pairs)

    def prepared(size: int = options.size) -> tuple[str, str]:
        """The dataset and its prepared folder, made for this."""
        from ecgmoe.pipeline.config import PrepareConfig
        from ecgmoe.pipeline.prepare import prepare as run_prepare

        root = dataset(size)
        run_prepare(options.dataset, root, str(scratch / "data"), config=PrepareConfig(compression=options.compression))
        return root, str(scratch / "data")

    def embed() -> dict[str, Any]:
        from ecgmoe.backbones.registry import BACKBONES
        from ecgmoe.benchmark.embed import embed_benchmark

        if strange := sorted(set(options.backbones) - set(BACKBONES)):
            raise ValueError(f"there is no backbone {', '.join(strange)}: choose of {', '.join(BACKBONES)}")
        names = options.backbones or tuple(BACKBONES)
        return embed_benchmark(prepared()[1], pairs=options.pairs, names=names)

    def loader() -> dict[str, Any]:
        import ray

        from ecgmoe.benchmark.loader import loader_benchmark
        from ecgmoe.config import tiny

        root, data = prepared()
        # Nothing else runs while it is measured.
        ray.shutdown()
        found = loader_benchmark(data, root, tiny(), pairs=options.pairs)
        return {**found, "compression": options.compression}

    def training() -> dict[str, Any]:
        from ecgmoe.benchmark.training import training_benchmark

        name, config = preset("bench")
        return training_benchmark(prepared()[1], config, preset=name, pairs=options.pairs)

    def scaling() -> dict[str, Any]:
        from ecgmoe.benchmark.scaling import scaling_benchmark

        name, config = preset("bench")
        return scaling_benchmark(prepared()[1], config, preset=name, pairs=options.pairs)

    def checkpoint() -> dict[str, Any]:
        from ecgmoe.benchmark.checkpoint import checkpoint_benchmark

        name, config = preset("tiny")
        data = prepared(CHECKPOINT_RECORDS)[1]
        return checkpoint_benchmark(data, config, scratch, preset=name, pairs=options.pairs)

    def preset(default: str) -> tuple[str, RunConfig]:
        from ecgmoe.config import PRESETS
        from ecgmoe.training.config import PretrainingConfig

        name = options.preset or default
        if name not in PRESETS:
            raise ValueError(f"there is no preset {name!r}: choose one of {', '.join(PRESETS)}")
        # What is measured is the training, which would wait for what a pre-training leaves.
        return name, replace(PRESETS[name](), pretraining=PretrainingConfig())

    def memory() -> dict[str, Any]:
        from ecgmoe.benchmark.training_memory import memory_benchmark

        return memory_benchmark()

    def inference() -> dict[str, Any]:
        from ecgmoe.benchmark.inference import inference_benchmark
        from ecgmoe.config import tiny

        return inference_benchmark(tiny(), pairs=options.pairs)

    def trained() -> dict[str, Any]:
        from ecgmoe.benchmark.trained import trained_benchmark

        return trained_benchmark(str(options.model), str(options.peer), str(options.data), pairs=options.pairs)

    def predict() -> dict[str, Any]:
        from ecgmoe.benchmark.predict import predict_benchmark

        return predict_benchmark(
            str(options.model), str(options.data), root=options.root, records=options.size, pairs=options.pairs
        )

    def export() -> dict[str, Any]:
        from ecgmoe.benchmark.export import export_benchmark
        from ecgmoe.config import tiny

        return export_benchmark(tiny(), scratch)

    def attribution() -> dict[str, Any]:
        from ecgmoe.benchmark.attribution import attribution_benchmark

        return attribution_benchmark(str(options.model), str(options.data), records=options.size)

    def serving() -> dict[str, Any]:
        from ecgmoe.benchmark.serving import serving_benchmark
        from ecgmoe.ecg.simulate import SimulationConfig, simulate

        if options.root is None:
            simulate(scratch / "raw", SimulationConfig(patients=40, studies=40))
        root = Path(options.root) if options.root else scratch / "raw"
        return serving_benchmark(str(options.model), root, good=options.size)

    def variants() -> dict[str, Any]:
        from ecgmoe.benchmark.variants import variants_benchmark
        from ecgmoe.config import tiny

        return variants_benchmark(tiny())

    def scale() -> dict[str, Any]:
        from ecgmoe.benchmark.prepare import scale_benchmark

        return scale_benchmark(options.size, scratch)

    def index() -> dict[str, Any]:
        from ecgmoe.benchmark.tables import index_benchmark

        return index_benchmark(options.size)

    def labevents() -> dict[str, Any]:
        from ecgmoe.benchmark.tables import labevents_benchmark

        return labevents_benchmark(options.size)

    def start() -> dict[str, Any]:
        from ecgmoe.benchmark.start import start_benchmark

        return start_benchmark(options.pairs)

    def costs() -> dict[str, Any]:
        from ecgmoe.benchmark.costs import costs_benchmark
        from ecgmoe.config import tiny

        return costs_benchmark(tiny(), pairs=options.pairs)

    def traffic() -> dict[str, Any]:
        from ecgmoe.benchmark.traffic import traffic_benchmark

        name, config = preset("bench")
        return traffic_benchmark(config, preset=name)

    def roofline() -> dict[str, Any]:
        from ecgmoe.benchmark.roofline import roofline_benchmark

        return roofline_benchmark(size=options.encoders, device=options.device, pairs=options.pairs)

    return {
        "prepare": prepare,
        "parts": parts,
        "embed": embed,
        "loader": loader,
        "training": training,
        "scaling": scaling,
        "checkpoint": checkpoint,
        "memory": memory,
        "inference": inference,
        "trained": trained,
        "predict": predict,
        "export": export,
        "attribution": attribution,
        "serving": serving,
        "variants": variants,
        "scale": scale,
        "index": index,
        "labevents": labevents,
        "start": start,
        "costs": costs,
        "traffic": traffic,
        "roofline": roofline,
    }


def _machine(argv: list[str]) -> dict[str, Any]:
    import psutil

    from ecgmoe.training.identity import code_revision, environment

    return {
        "command": shlex.join(["python", "jobs/benchmark.py", *argv]),
        "date": time.strftime("%Y-%m-%d"),
        "revision": code_revision()["revision"],
        "cpus": os.cpu_count(),
        "processor": _processor(),
        "memory_gib": psutil.virtual_memory().total / 2**30,
        "versions": environment(),
    }


def _processor() -> str:
    """As Linux names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    run_job(main)
