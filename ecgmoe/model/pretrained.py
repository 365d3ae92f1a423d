"""Models that travel: from a folder or the hub, and back. Behind `ECGMoE.from_pretrained` and its sisters."""

from __future__ import annotations

from pathlib import Path

from ecgmoe.filesystem import refused_write, temporary_folder
from ecgmoe.model.ecg_moe import ECGMoE
from ecgmoe.model.files import CALIBRATION, CARD, CONFIG, WEIGHTS
from ecgmoe.model.folder import ModelFolderError, load_model, model_config, save_model

PUBLISHED = (CONFIG, WEIGHTS, CALIBRATION, CARD)
"""All that leaves a model folder."""


def load(source: str | Path, *, revision: str | None = None, token: str | None = None) -> ECGMoE:
    """As `ECGMoE.from_pretrained`."""
    if Path(source).expanduser().is_dir():
        if revision is not None:
            raise ModelFolderError(f"{source} is a folder of this machine and has no revision: leave revision out")
        model, _ = load_model(Path(source).expanduser())
    else:
        model, _ = load_model(fetch(str(source), revision=revision, token=token), foreign=True)
    model.computes_chosen_only = True
    return model


def fetch(source: str, *, revision: str | None = None, token: str | None = None) -> Path:
    """The folder in which the hub's own cache keeps a model, downloaded where it is not there yet.

    Raises:
        ModelFolderError: the hub has no such model, or it cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(source, revision=revision, token=token, allow_patterns=list(PUBLISHED)))
    except HFValidationError as error:
        raise ModelFolderError(
            f"there is no model folder {source}, and it is no owner/name of a model on the hub either"
        ) from error
    except OSError as error:
        at = f"{source} at revision {revision}" if revision else source
        raise ModelFolderError(
            f"there is no model folder {source} on this machine, and the hub did not give {at} ({_first_line(error)}): check "
            "the name; a private model needs `hf auth login` or a token"
        ) from error


def save(model: ECGMoE, folder: Path) -> None:
    """As `ECGMoE.save_pretrained`."""
    if cached := [name for name in model.backbone_names if name not in model.backbones]:
        raise ValueError(
            f"the backbones {', '.join(cached)} are cached and not part of this model: build it with all of them live "
            "(`live=`), or take STORAGE/NAME/model of a finished run, which has them"
        )
    # The label of the rhythm task is named after its classes.
    taxonomy = next((task.label for task in model.tasks if task.kind == "multiclass"), "rhythm15")
    config = model_config(
        model.config,
        tasks=tuple(task.name for task in model.tasks),
        taxonomy=taxonomy,
        backbones=model.live,
        statistics=model.statistics,
        trained_on=model.trained_on,
    )
    try:
        save_model(folder, {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}, config, {})
    except OSError as error:
        raise refused_write(error, str(folder), "choose another folder") from error


def push(model: ECGMoE, repo_id: str, *, private: bool = True, token: str | None = None) -> str:
    """As `ECGMoE.push_to_hub`."""
    with temporary_folder() as folder:
        save(model, folder)
        return push_folder(folder, repo_id, private=private, token=token)


def push_folder(folder: Path, repo_id: str, *, private: bool = True, token: str | None = None) -> str:
    """Put a model folder on the hub in one commit: what `PUBLISHED` names of it, and nothing else.

    Returns:
        The address of the model.

    Raises:
        ModelFolderError: it is not a model folder, or the hub refuses it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    # A torn folder is found here, not by whoever downloads it.
    load_model(folder)
    api = HfApi(token=token)
    try:
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id, folder_path=folder, allow_patterns=list(PUBLISHED), commit_message="A model of ecgmoe"
        )
    except (HFValidationError, OSError) as error:
        raise ModelFolderError(
            f"the hub did not take {repo_id} ({_first_line(error)}): give owner/name, and a token that may write there, "
            "with `hf auth login`"
        ) from error
    return str(address)


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line), type(error).__name__)[:300]
