"""A finished model folder to the model hub."""

from __future__ import annotations

from ecgmoe.filesystem import temporary_folder
from ecgmoe.inference.predictor import check_model
from ecgmoe.model.files import CARD
from ecgmoe.model.folder import ModelFolderError
from ecgmoe.model.pretrained import PUBLISHED, push_folder
from ecgmoe.pipeline.store import Store


def publish(model: str, repo_id: str, *, private: bool = True, token: str | None = None) -> str:
    """Put a model folder on the hub in one commit: configuration, weights, card and calibration, and nothing else of it.

    Args:
        model: path or URL of a model folder.
        repo_id: "owner/name", made where it is not there.
        private: of a new one.
        token: that may write there; None takes the one that `hf auth login` stored.

    Returns:
        The address of the model.

    Raises:
        ModelFolderError: it is not a model folder, it is torn or has no card, or the hub refuses it.
    """
    check_model(model)
    store = Store(model)
    if not store.exists(CARD):
        raise ModelFolderError(
            f"{store.path(CARD)} is missing, the card that says what the model is good for: jobs/evaluate.py --run NAME "
            "writes it"
        )
    with temporary_folder() as folder:
        for name in PUBLISHED:
            if store.exists(name):
                store.download(name, folder / name)
        return push_folder(folder, repo_id, private=private, token=token)
