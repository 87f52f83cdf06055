"""Tokenizers from the Hugging Face Hub, through its own client and its own cache."""

from pathlib import Path

from .errors import VocabularyError
from .readers.model_folder import ADDED_TOKENS_FILES, TOKENIZER_FILES


def download(repo_id: str, *, cached_only: bool = False) -> Path:
    """The folder with the tokenizer files of a repository: `owner/name` or `owner/name@revision`.

    Only tokenizer files are fetched. Without a network, what an earlier run has fetched is used.

    Raises:
        VocabularyError: no such repository, no access to it, or neither network nor cache.
    """
    from huggingface_hub import errors, snapshot_download

    repo, _, revision = repo_id.partition("@")
    try:
        return Path(
            snapshot_download(
                repo,
                revision=revision or None,
                allow_patterns=[*TOKENIZER_FILES, *ADDED_TOKENS_FILES],
                local_files_only=cached_only,
            )
        )
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
    except (errors.HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise VocabularyError(f"{repo}: the Hub did not answer as expected: {reason}") from error
