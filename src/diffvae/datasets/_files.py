"""Where the files of the published sets are: in the user's folder, in the cache or on the web."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from diffvae._errors import DataError


@dataclass(frozen=True)
class Source:
    """A file's public address and what is known about its content."""

    url: str
    known_hash: str | None = None
    """As pooch reads it ("sha256:..."), where somebody published one."""
    git_blob: str | None = None
    """The name that git gives to the content, where the file comes from a git repository."""


def locate(dataset: str, path: str | Path | None, sources: Mapping[str, Source]) -> dict[str, Path]:
    """Return the path of every file of a data set, downloading what is missing only if ``path`` is None.

    ``path`` is the folder with the files, under their published names (``.gz`` may be gone), or the file
    itself where there is just one.
    """
    if path is None:
        return {name: download(dataset, name, source) for name, source in sources.items()}
    path = Path(path)
    if path.is_file() and len(sources) == 1:
        return dict.fromkeys(sources, path)
    if not path.is_dir():
        raise DataError(f"{path} is not a folder; give the one that holds {', '.join(sources)}.")
    found = {name: _in_folder(path, name) for name in sources}
    missing = [name for name, file in found.items() if file is None]
    if missing:
        addresses = "; ".join(sources[name].url for name in missing)
        raise DataError(f"{path} lacks {', '.join(missing)}; get it from {addresses}, or leave path out to download.")
    return {name: file for name, file in found.items() if file is not None}


def _in_folder(folder: Path, name: str) -> Path | None:
    candidates = (folder / name, folder / name.removesuffix(".gz"), folder / f"{name}.gz")
    return next((file for file in candidates if file.is_file()), None)


def download(dataset: str, name: str, source: Source) -> Path:
    """Return a file from the cache, fetching it first if it isn't there.

    The cache is pooch's for "diffvae" (on Linux ``~/.cache/diffvae``), or the folder in ``DIFFVAE_CACHE``.
    """
    import pooch

    key = f"{dataset}/{name}"
    store = pooch.create(
        path=pooch.os_cache("diffvae"),
        base_url="",
        registry={key: source.known_hash},
        urls={key: source.url},
        env="DIFFVAE_CACHE",
        retry_if_failed=2,
    )
    try:
        return Path(store.fetch(key))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{source.url} could not be downloaded: {error}. Get the file in another way and give its folder as path=."
        ) from error


def git_blob_id(content: bytes) -> str:
    """Return git's name for a content: the SHA-1 of "blob", its length, a zero byte and itself.

    Examples
    --------
    >>> git_blob_id(b"")
    'e69de29bb2d1d6434b8b29ae775ad8c2e48c5391'
    """
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def check_blobs(files: Mapping[str, Path], sources: Mapping[str, Source]) -> None:
    """Refuse a file whose content is not the published one."""
    for name, file in files.items():
        expected = sources[name].git_blob
        if expected and (found := git_blob_id(file.read_bytes())) != expected:
            raise DataError(
                f"{file} is not the published {name}: its git blob id is {found}, not {expected}. Delete it and "
                f"get {sources[name].url} again, or read what you have with check=False."
            )
