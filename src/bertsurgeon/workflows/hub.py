"""Uploading an output folder to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # documented, not declared

from bertsurgeon.checkpoint.folder_record import RECORD
from bertsurgeon.errors import HubError, OptionError, first_line

MESSAGE = "Upload a model compressed with bertsurgeon"


def check_upload(repo_id: str, api: HfApi | None = None) -> str:
    """Checks, before any work is done, that a user is logged in and the name is valid.

    Args:
        repo_id: Name of the repository, ``user/model``.
        api: Client of the Hub; None for a new one.

    Returns:
        The user's name.

    Raises:
        OptionError: If the name is not valid.
        HubError: If no one is logged in, or the Hub cannot be reached.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise OptionError(f"{repo_id!r} is no name of a repository on the Hub; use USER/NAME.") from error
    if repo_id.count("/") != 1:
        raise OptionError(f"{repo_id!r} names no owner; use USER/NAME.")
    try:
        return str((api or HfApi()).whoami()["name"])
    except LocalTokenNotFoundError as error:
        raise HubError("No one is logged in to the Hub; run: hf auth login.") from error
    except Exception as error:
        raise _hub_error("The Hub does not accept the login", error) from error


def push_folder(folder: str | Path, repo_id: str, *, private: bool = False, api: HfApi | None = None) -> str:
    """Uploads a folder: to a new repository, or one of the user's; to any other as a pull request.

    Args:
        folder: An output folder of this package.
        repo_id: Name of the repository, ``user/model``.
        private: Whether a new repository is private.
        api: Client of the Hub; None for a new one.

    Returns:
        Address of the commit or of the pull request.

    Raises:
        OptionError: If the name is not valid.
        HubError: If the upload fails; the folder stays as it is.
    """
    folder = Path(folder)
    api = api or HfApi()
    check_upload(repo_id, api)
    try:
        is_ours = _owns(api, repo_id)
        if not _exists(api, repo_id):
            api.create_repo(repo_id, private=private, exist_ok=True)
        info: Any = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=MESSAGE,
            create_pr=not is_ours,
            ignore_patterns=[RECORD, "*.lock"],
        )
    except Exception as error:
        failure = _hub_error(f"The upload to {repo_id} failed", error)
        raise HubError(f"{failure} The folder itself is complete; upload it later with 'hf upload'.") from error
    return str(info.pr_url or info.commit_url)


def _exists(api: HfApi, repo_id: str) -> bool:
    try:
        api.repo_info(repo_id)
    except RepositoryNotFoundError:
        return False
    return True


def _owns(api: HfApi, repo_id: str) -> bool:
    """Returns whether a repository belongs to the user, or to an organization that the user can write to."""
    user = api.whoami()
    names = {str(user["name"])}
    names |= {str(each["name"]) for each in user.get("orgs", []) if each.get("roleInOrg") in ("admin", "write")}
    return repo_id.partition("/")[0] in names


def _hub_error(what: str, error: Exception) -> HubError:
    """Returns our error, with the cause in one line."""
    code = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None
    causes = {401: "the token is not valid; run: hf auth login", 403: "the token may not write there"}
    cause = causes.get(code or 0) or first_line(error).rstrip(".") or type(error).__name__
    return HubError(f"{what}: {cause}.")
