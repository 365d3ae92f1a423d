"""Serve a model over HTTP until Ctrl-C: JSON or WFDB files in, predictions out. Research use only: never a diagnosis."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ecgmoe.cli import parse, run_job
from ecgmoe.serving.config import ServingConfig


@dataclass(frozen=True, kw_only=True)
class Options(ServingConfig):
    """Options of serve.

    Attributes:
        host: address to listen at; another one than loopback needs a token, and TLS in front of it.
        port: to listen at.
    """

    host: str = "127.0.0.1"
    port: int = 8000


def main(argv: list[str]) -> None:
    options = parse(Options, argv, __doc__ or "")
    try:
        from ecgmoe.serving.run import serve_model
    except ModuleNotFoundError as error:
        raise ValueError(f"serving needs the package {error.name}: pip install 'ecgmoe[serve]'") from error
    config = ServingConfig(**{field.name: getattr(options, field.name) for field in fields(ServingConfig)})
    serve_model(config, options.host, options.port)


if __name__ == "__main__":
    run_job(main)
