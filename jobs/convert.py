"""An official checkpoint of a backbone as one safetensors file with configuration and provenance in its header.

python jobs/convert.py --backbone ecgfm --source mimic_iv_ecg_physionet_pretrained.pt --out ecgfm.safetensors

The file is what --backbones.N.weights takes, on any machine, without a hub.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ecgmoe.cli import parse, run_job


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of convert.

    Attributes:
        backbone: whose checkpoint it is.
        source: the official file, the folder where the official format is one (moment), or OWNER/REPOSITORY of the hub.
        out: the file to write, *.safetensors.
    """

    backbone: Literal["timesnet", "dlinear", "moment", "tempo", "ecgfm"]
    source: str
    out: str


def main(argv: list[str]) -> None:
    options = parse(Options, argv, __doc__ or "")
    from ecgmoe.backbones import convert

    header = convert(options.backbone, options.source, Path(options.out))
    sizes = ", ".join(f"{name} {value}" for name, value in header["architecture"].items())
    provenance = header["provenance"]
    print(f"{options.out}: {header['backbone']}, {sizes}")
    print(f"source {provenance['source']}, sha256 {provenance['sha256']}")
    print(f"licence {provenance['licence']}; pretraining saw: {provenance['pretraining']}")


if __name__ == "__main__":
    run_job(main)
