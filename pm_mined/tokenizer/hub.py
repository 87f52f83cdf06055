"""Tokenizers and models from the Hugging Face Hub, by its own client and in its own cache."""

from collections.abc import Sequence
from pathlib import Path

from pm_mined.errors import VocabularyError

from .places import HubRepo
from .readers.folder_config import CONFIG_FILES
from .readers.model_folder import MERGES_FILE, TOKENIZER_FILES, find_tokenizer

_TOKENIZER = (*TOKENIZER_FILES, MERGES_FILE, *CONFIG_FILES)


def cached_tokenizer(repo: HubRepo) -> Path | None:
    """The folder of a repository whose tokenizer an earlier run has fetched; asks no network."""
    from huggingface_hub import errors, snapshot_download

    try:
        snapshot = snapshot_download(
            repo.repo_id,
            revision=repo.revision,
            allow_patterns=list(_TOKENIZER),
            local_files_only=True,
        )
    except errors.LocalEntryNotFoundError:
        return None
    return Path(snapshot) if find_tokenizer(Path(snapshot)) else None


def download_tokenizer(repo: HubRepo) -> Path:
    """The folder with the tokenizer files of a repository; nothing else is fetched.

    Raises:
        VocabularyError: it has no tokenizer, or cannot be fetched.
    """
    folder = download(repo, _TOKENIZER)
    if find_tokenizer(folder) is None:
        raise VocabularyError(
            f"{repo.repo_id}: the repository has no tokenizer (looked for "
            f"{', '.join(TOKENIZER_FILES)})"
        )
    return folder


def download(repo: HubRepo, files: Sequence[str], ignored: Sequence[str] = ()) -> Path:
    """The folder with the files of a repository that match these patterns.

    Without a network, what an earlier run has fetched is used.

    Raises:
        VocabularyError: no such repository, no access to it, or neither network nor cache.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            repo.repo_id,
            revision=repo.revision,
            allow_patterns=list(files),
            ignore_patterns=list(ignored),
        )
    except Exception as error:  # the client lets the errors of its HTTP library through
        raise VocabularyError(f"{repo.repo_id}: {_reason(error, repo)}") from error
    return Path(folder)


def _reason(error: Exception, repo: HubRepo) -> str:
    """The reason for which the Hub gives no files, and a way out."""
    from huggingface_hub import errors

    reasons = {
        errors.HFValidationError: f"not the name of a Hub repository: {error}",
        errors.GatedRepoError: "access to this repository must be granted: ask for it on its page, "
        "then run `hf auth login`",
        errors.RepositoryNotFoundError: "the Hub has no such repository, or it is private: check "
        "the spelling, or run `hf auth login`",
        errors.RevisionNotFoundError: f"the Hub has no revision {repo.revision!r} of it",
        errors.LocalEntryNotFoundError: "the Hub cannot be reached and no earlier run has fetched "
        "this repository: check the network (and HF_ENDPOINT, HF_HUB_OFFLINE), or give a local "
        "file or folder",
    }
    for kind, reason in reasons.items():  # a gated repository is one that is not found, too
        if isinstance(error, kind):
            return reason
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"the Hub did not answer as expected: {said}"
