"""A folder of images, one sub-folder for each class."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from superbatch.errors import DataError
from superbatch.sources.catalogue import Catalogue, catalogue_of
from superbatch.sources.examples import Encoded


SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif"})


@dataclass(frozen=True)
class Files:
    """One encoded image a row, each from a file of its own."""

    paths: tuple[Path, ...]

    def __call__(self, row: int) -> bytes:
        """The image of ``row``; empty where the file cannot be read."""
        try:
            return self.paths[row].read_bytes()
        except OSError:
            return b""


def read_folder(root: Path) -> tuple[Encoded, Catalogue]:
    """Images and catalogue of ``root``: ids number the images by their sorted relative paths.

    Class names are the sorted names of the sub-folders; images may lie deeper within them.
    """
    classes = sorted(
        entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )
    if not classes:
        files = sorted(entry.name for entry in root.iterdir() if entry.is_file())
        there = f"files such as {files[0]}" if files else "nothing"
        raise DataError(
            f"{root} has no sub-folders: a folder of images has one for each class, and here is "
            f"{there}; give a file by its own path"
        )
    labelled = sorted(
        (path.relative_to(root).parts, number)
        for number, folder in enumerate(classes)
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file()
    )
    if not labelled:
        raise DataError(
            f"the sub-folders of {root}, such as {classes[0].name}, hold no images: files named "
            f"{', '.join(sorted(SUFFIXES))}"
        )
    entries = catalogue_of(
        str(root),
        np.arange(len(labelled), dtype=np.int64),
        ("label", np.array([number for _, number in labelled], dtype=np.int64)),
        class_names=[folder.name for folder in classes],
    )
    return Files(tuple(root.joinpath(*parts) for parts, _ in labelled)), entries
