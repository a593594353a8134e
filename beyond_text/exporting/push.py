"""Uploads an export to a hub, by huggingface_hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

from beyond_text.terminal import first_line

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")


def check_name(name: str) -> str:
    """Returns the name of a repository, OWNER/NAME.

    Raises:
        ValueError: it is not of that form.
    """
    if not NAME.fullmatch(name) or ".." in name or "--" in name:
        raise ValueError(f"--push: expected OWNER/NAME, got {name!r}")
    return name


def push(folder: Path, name: str) -> str:
    """Uploads a folder as a private repository, which is made where it is missing; returns its URL.

    The repository then holds the folder's files and no others.

    The hub is HF_ENDPOINT, and the token that of `hf auth login` or HF_TOKEN.

    Raises:
        OSError: the hub does not answer, or refuses, or the repository is public; names it.
    """
    from huggingface_hub import HfApi

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
    try:
        url = api.create_repo(name, private=True, exist_ok=True)
        # Of a repository that was there, `private` changes nothing.
        is_private = bool(api.repo_info(name).private)
        if is_private:
            # What an earlier export had, and this one has not, goes.
            message = "Export of Beyond Text"
            api.upload_folder(
                repo_id=name, folder_path=folder, commit_message=message, delete_patterns="*"
            )
    # The library's errors, and those of the HTTP client below it, have no class in common.
    except Exception as error:
        raise OSError(f"--push {name}: not uploaded: {first_line(error)}") from error
    if not is_private:
        raise OSError(f"--push {name}: not uploaded: the repository is public; make it private")
    return str(url)
