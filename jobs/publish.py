"""Put a trained model with its card and calibration on the model hub. Research use only: never a diagnosis."""

from __future__ import annotations

from dataclasses import dataclass

from ecgmoe.cli import parse, run_job


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of publish. `hf auth login` says who you are.

    Attributes:
        model: model folder, such as STORAGE/NAME/model, with the card that the evaluation of its run wrote.
        repo: owner/name on the hub, made where it is not there.
        public: everybody may see a new one; what data may be shared is for their terms to say.
    """

    model: str
    repo: str
    public: bool = False


def main(argv: list[str]) -> None:
    options = parse(Options, argv, __doc__ or "")
    from ecgmoe.inference.publish import publish

    print(publish(options.model, options.repo, private=not options.public))


if __name__ == "__main__":
    run_job(main)
