"""Upload of model folders to the Hugging Face hub, through its own client."""

from pathlib import Path

from fewstep.errors import InputError, as_input_error
from fewstep.models.metadata import HUB_ID


def push_folder(folder: Path, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
    """Upload a folder as one commit into a repository, made if new; its address. Without `token` that of `hf auth login` is used.

    Raises:
        InputError: no such name, no right to write, no connection.
    """
    from huggingface_hub import HfApi

    check_id(repo_id)
    with as_input_error(f"cannot upload to '{repo_id}'", "check the name, and log in with: hf auth login"):
        hub = HfApi(token=token)
        address = hub.create_repo(repo_id, private=private, exist_ok=True)
        hub.upload_folder(repo_id=repo_id, folder_path=str(folder), commit_message="Upload by fewstep")
        return str(address)


def check_id(repo_id: str) -> None:
    """Raises InputError where a name is no repository's."""
    if not HUB_ID.fullmatch(repo_id):
        raise InputError(f"repository '{repo_id}' is no name on the hub; give OWNER/NAME")
