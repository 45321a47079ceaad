"""Weights from the Hugging Face Hub, or a server like it: `hf:OWNER/NAME`, `hf:OWNER/NAME@REVISION`.

Only `.safetensors` files are fetched. They stay in the Hub's own cache, from which they come without a connection too.
"""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from irn_cli.errors import InputError, UsageError, WeightsError

PREFIX = "hf:"
_REFERENCE = re.compile(r"hf:(?P<repository>[\w.-]+/[\w.-]+)(?:/(?P<file>[\w.-]+))?(?:@(?P<revision>[\w./-]+))?")


def fetch(reference: str) -> Path:
    """Fetch a weights file, unless it is in the cache already.

    Args:
        reference: `hf:OWNER/NAME`, where the repository has one weights file; `hf:OWNER/NAME/FILE`, with or without
            `.safetensors`, where it has several. Behind an `@` follows the revision: a branch, a tag, or, to have the
            same file for ever, a commit.

    Raises:
        UsageError: the reference means nothing, or huggingface_hub is not installed.
        WeightsError: there is no such repository, revision or file.
        InputError: there is no connection, and the file is not in the cache.
    """
    match = _REFERENCE.fullmatch(reference)
    if not match:
        raise UsageError(f"{reference}: expected hf:OWNER/NAME, hf:OWNER/NAME/FILE or either with @REVISION")
    wanted = (match["file"] or "").removesuffix(".safetensors")
    folder = _snapshot(reference, match["repository"], match["revision"], f"{wanted or '*'}.safetensors")
    found = {path.stem: path for path in sorted(folder.glob("*.safetensors"))}
    if wanted in found:
        return found[wanted]
    if wanted or not found:
        raise WeightsError(f"{reference}: there is no {wanted or 'file that ends in '}.safetensors in it")
    if len(found) > 1:
        names = ", ".join(f"hf:{match['repository']}/{name}" for name in found)
        raise WeightsError(f"{reference} has several files: expected one of {names}")
    return next(iter(found.values()))


def _snapshot(reference: str, repository: str, revision: str | None, files: str) -> Path:
    """The folder in the cache with those of a repository's files that match a pattern."""
    try:
        import huggingface_hub
        from huggingface_hub import errors
        from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]  # where its documentation has it
    except ImportError as error:
        raise UsageError(f"{reference} needs huggingface_hub: pip install 'irn-cli[hub]' ({error})") from None
    server = os.environ.get("HF_ENDPOINT") or huggingface_hub.constants.ENDPOINT
    silent: Any = partial(tqdm, disable=True)
    try:
        with _quiet():
            folder = huggingface_hub.snapshot_download(
                repository, revision=revision, allow_patterns=files, endpoint=server, tqdm_class=silent
            )
    except errors.RevisionNotFoundError:
        raise WeightsError(f"{reference}: {repository} has no revision {revision}") from None
    except errors.RepositoryNotFoundError:
        raise WeightsError(f"{reference}: no such repository, or a private one (`hf auth login` opens yours)") from None
    except errors.HFValidationError as error:
        raise UsageError(f"{reference}: {error}") from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        answer = error.__cause__
        told = f"no connection to {server}"
        if isinstance(answer, errors.HfHubHTTPError):
            told = f"{server} answers {answer.response.status_code}"
        raise InputError(f"{reference}: {told}, and it has not been fetched before") from None
    return Path(folder)


@contextmanager
def _quiet() -> Iterator[None]:
    """Within this scope the library logs nothing: we report what goes wrong, in one line."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
