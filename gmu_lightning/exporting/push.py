"""Upload the folder of an exported model to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from gmu_lightning.movie import UserError
from gmu_lightning.prediction.hub import NAME
from gmu_lightning.visible import first_line, plain_streams


def check_push(name: str) -> None:
    """Raise UserError unless text is a name of a repository, and a token for the hub is known here. It opens no connection."""
    from huggingface_hub import get_token

    if not NAME.fullmatch(name):
        raise UserError(f"push={name} is no place on the hub: give USER/NAME, such as push=ada/movie-genres")
    if get_token() is None:
        raise UserError(f"push={name} needs an account on the hub: set HF_TOKEN to a token that may write, or type hf auth login")


def push(folder: Path, name: str, private: bool) -> str:
    """Upload every file of a folder in one commit, and return the address of the model.

    Args:
        folder: of an exported model.
        name: `USER/NAME`. The repository is created if it does not exist.
        private: whether a new repository is private; an existing one stays as it is.

    Raises:
        UserError: the hub refuses, or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        with plain_streams():
            address = api.create_repo(name, private=private, exist_ok=True)
            api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload a model of gmu_lightning")
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        remedy = "give a token that may write there" if status in (401, 403) else "try again later"
        raise UserError(f"push={name}: the hub refused ({first_line(error)}); {folder} is complete: {remedy}") from error
    except Exception as error:  # a network may fail with any exception
        raise UserError(
            f"push={name}: the hub could not be reached ({first_line(error)}); {folder} is complete: try again where there is a "
            "connection"
        ) from error
    return str(address)
