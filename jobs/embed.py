"""Features of the cached backbones for every record of a prepared folder; what is there is left alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from ecgmoe.cli import parse, run_job, take_preset
from ecgmoe.config import PRESETS, RunConfig
from ecgmoe.pipeline.config import EmbedConfig

DESCRIPTION = f"{__doc__}\n\nPresets (first word, default tiny): {', '.join(PRESETS)}."


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of embed.

    Attributes:
        data: folder that prepare finished.
        embed: actors, GPU share and batch size.
        config: the run's configuration; its backbones in mode "cached" are computed.
    """

    data: str
    embed: EmbedConfig = field(default_factory=EmbedConfig)
    config: Annotated[RunConfig, tyro.conf.arg(name="")]


def main(argv: list[str]) -> None:
    _, preset, rest = take_preset(argv, PRESETS, "tiny")
    options = parse(Options, rest, DESCRIPTION, Options(data=tyro.MISSING, config=preset))
    from ecgmoe.pipeline.embed import embed

    if not options.config.cached:
        raise ValueError("no backbone of this configuration is in mode 'cached': there is nothing to embed")
    config = options.config
    features = embed(options.data, config.cached, options.embed, precision=config.training.precision)
    for name, key in features.items():
        print(f"{name}: {options.data}/features/{key}")


if __name__ == "__main__":
    run_job(main)
