"""What every problem on images asks of them."""

from pathlib import Path

from superbatch.config import Data
from superbatch.errors import ConfigError, DataError


def refuse_shards(path: str) -> None:
    """Raise ``DataError`` where ``path`` is of pairs and labels are wanted."""
    if path.endswith(".tar"):
        raise DataError(
            f"tar shards such as {path} hold images with captions and here images with labels are "
            "wanted; give other data, or take a recipe on pairs, such as active_clip"
        )


def refuse_digits(
    path: str, wanted: str = "images with captions", source: str = "tar shards"
) -> None:
    """Raise ``DataError`` where ``path``, perhaps by default, is of images with labels and
    something else is ``wanted``, which comes from another ``source``.
    """
    if path == "digits" and not Path(path).exists():
        raise DataError(
            f"digits are images with labels and here {wanted} are wanted, which come from "
            f"{source}; say where with --data.path, or take a recipe and a --task on images with "
            "labels, such as classact"
        )


def refuse_no_evaluation(data: Data, count: int) -> None:
    """Raise ``ConfigError`` where nothing is left to evaluate on."""
    if count == 0:
        raise ConfigError(
            "there is nothing to evaluate on: --data.evaluation-fraction is "
            f"{data.evaluation_fraction} and no --data.eval-path is given"
        )


def check_images(data: Data, image_shape: tuple[int, int, int]) -> None:
    """Refuse images that the models or the augmentation cannot take."""
    _, height, width = image_shape
    if height != width:
        raise DataError(
            f"images of {data.path} are {height}x{width} pixels and models take square ones; "
            "set --data.image-size to resize them"
        )
    if data.crop_padding >= height:
        raise ConfigError(
            f"--data.crop-padding is {data.crop_padding} and images are {height}x{width} pixels; "
            "reflected padding must be smaller than the image"
        )
