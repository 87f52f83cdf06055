"""Tokenizers from the Hugging Face Hub, through its own client and its own cache."""

from pathlib import Path

from pm_mined.errors import VocabularyError

from .readers.model_folder import ADDED_TOKENS_FILES, TOKENIZER_FILES, find_tokenizer

_PATTERNS = [*TOKENIZER_FILES, *ADDED_TOKENS_FILES]


def cached_folder(repo_id: str) -> Path | None:
    """The folder of a repository whose tokenizer an earlier run has fetched; asks no network."""
    from huggingface_hub import errors, snapshot_download

    repo, revision = _split(repo_id)
    try:
        snapshot = snapshot_download(
            repo, revision=revision, allow_patterns=_PATTERNS, local_files_only=True
        )
    except errors.LocalEntryNotFoundError:
        return None
    return Path(snapshot) if find_tokenizer(Path(snapshot)) else None


def download_tokenizer(repo_id: str) -> Path:
    """The folder with the tokenizer files of a repository: `owner/name` or `owner/name@revision`.

    Only tokenizer files are fetched. Without a network, what an earlier run has fetched is used.

    Raises:
        VocabularyError: no such repository, no access to it, no tokenizer in it, or neither
            network nor cache.
    """
    from huggingface_hub import errors, snapshot_download

    repo, revision = _split(repo_id)
    try:
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=_PATTERNS))
    except errors.HFValidationError as error:
        raise VocabularyError(f"{repo}: not the name of a Hub repository: {error}") from error
    except errors.GatedRepoError as error:
        raise VocabularyError(
            f"{repo}: access to this repository must be granted: ask for it on its page, then "
            "run `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise VocabularyError(
            f"{repo}: the Hub has no such repository, or it is private: check the spelling, or "
            "run `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise VocabularyError(f"{repo}: the Hub has no revision {revision!r} of it") from error
    except errors.LocalEntryNotFoundError as error:
        raise VocabularyError(
            f"{repo}: the Hub cannot be reached and no earlier run has fetched this tokenizer: "
            "check the network (and HF_ENDPOINT, HF_HUB_OFFLINE), or give a local file"
        ) from error
    except Exception as error:  # the client lets the errors of its HTTP library through
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise VocabularyError(f"{repo}: the Hub did not answer as expected: {reason}") from error
    if find_tokenizer(folder) is None:
        raise VocabularyError(
            f"{repo}: the repository has no tokenizer (looked for {', '.join(TOKENIZER_FILES)})"
        )
    return folder


def _split(repo_id: str) -> tuple[str, str | None]:
    repo, _, revision = repo_id.partition("@")
    return repo, revision or None
