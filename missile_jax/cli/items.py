"""What a person names on the command line, as tensors: photos, texts and arrays."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from missile_jax.config import zoo
from missile_jax.errors import ConfigError, InvalidInputError

PHOTOS = (".jpg", ".jpeg", ".png")
ARRAYS = (".npy", ".npz")


def is_text(item: str) -> bool:
    """Whether `item` is a text, or ``@FILE`` with one, and no name of a photo or an array."""
    return Path(item).suffix.lower() not in PHOTOS + ARRAYS


def tensors(item: str, zoo_model: str, metadata: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inputs by tensor name that `item` stands for.

    item: a photo, an array (.npy of the model's only input, .npz by tensor name), ``@FILE`` with a
        text, or a text.
    zoo_model: the network of the zoo that knows how photos and texts become tensors.
    metadata: of the model, as the server gives it.

    Raises ConfigError for a file that cannot be read and a network that is not in the zoo,
    InvalidInputError for what the network does not take.
    """
    names = [tensor["name"] for tensor in metadata["inputs"]]
    try:
        if not is_text(item) and Path(item).suffix.lower() in ARRAYS:
            return _arrays(item, names)
        if not is_text(item):
            return _named(item, _preprocessing(item, zoo_model)(_photo(item)), names)
        text = Path(item[1:]).read_text("utf-8").strip() if item.startswith("@") else item
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        if isinstance(error, (ConfigError, InvalidInputError)):
            raise
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"{item} cannot be read: {why}") from None
    return _named(item, _preprocessing(item, zoo_model)(text), names)


def _preprocessing(item: str, zoo_model: str) -> Callable[[Any], Any]:
    if zoo_model not in zoo().names():
        raise ConfigError(
            f"{zoo_model!r} is no network of the zoo; say with --zoo which one prepares {item!r}: "
            f"{', '.join(zoo().names())}"
        )
    return zoo().preprocessing(zoo_model)


def _photo(path: str) -> np.ndarray:
    """uint8 [H, W, 3], turned as the camera was held."""
    from PIL import Image, ImageOps  # of the zoo's packages, like what is done to the photo next

    with Image.open(path) as photo:
        return np.asarray(ImageOps.exif_transpose(photo).convert("RGB"))


def _arrays(path: str, names: list[str]) -> dict[str, np.ndarray]:
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return _named(path, loaded, names)
    with loaded:
        return _named(path, dict(loaded), names)


def _named(item: str, value: Any, names: list[str]) -> dict[str, np.ndarray]:
    """`value` by tensor name: an array is the only one there is."""
    if not isinstance(value, dict):
        if len(names) != 1:
            raise InvalidInputError(f"{item} is one tensor; the model takes {', '.join(names)}")
        return {names[0]: np.asarray(value)}
    if sorted(value) != sorted(names):
        raise InvalidInputError(
            f"{item} holds {', '.join(value)}; the model takes {', '.join(names)}"
        )
    return value
