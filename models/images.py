"""Photos that ship with scikit-image and scikit-learn, and what each network wants done to one.

Every `for_...` takes uint8 [H, W, 3] RGB and gives float32 [1, side, side, 3]; anything else raises
InvalidInputError.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image

from missile_jax.errors import InvalidInputError, MissileError

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)
_BGR_MEAN = np.array([103.939, 116.779, 123.68], np.float32)
_FILES = {
    "chelsea": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "astronaut": ("skimage", "data/astronaut.png"),
    "motorcycle_left": ("skimage", "data/motorcycle_left.png"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
}


def photos() -> dict[str, np.ndarray]:
    """{name: uint8 [H, W, 3] RGB}. Raises MissileError if a package is missing."""
    return {
        name: np.asarray(Image.open(_locate(*at)).convert("RGB")) for name, at in _FILES.items()
    }


def for_torchvision(image: np.ndarray) -> np.ndarray:
    """-> [1, 224, 224, 3], ImageNet's mean and deviation taken out: for MobileNetV2 and ResNet."""
    x = _crop(image, Image.Resampling.BILINEAR) / np.float32(255)
    return ((x - _MEAN) / _STD)[None]


def for_efficientnet(image: np.ndarray) -> np.ndarray:
    """-> [1, 224, 224, 3] in about -1..1."""
    return ((_crop(image, Image.Resampling.BICUBIC) - 127) / np.float32(128))[None]


def for_squeezenet(image: np.ndarray) -> np.ndarray:
    """-> [1, 227, 227, 3], BGR minus the mean; the sides are not kept in proportion."""
    x = _picture(image).resize((227, 227), Image.Resampling.BILINEAR)
    return (np.asarray(x, np.float32)[..., ::-1] - _BGR_MEAN)[None]


def _crop(image: np.ndarray, resampling: Image.Resampling) -> np.ndarray:
    """The middle 224x224 after the short side became 256: float32 [224, 224, 3]."""
    picture = _picture(image)
    short = min(picture.size)
    width, height = (round(256 * side / short) for side in picture.size)
    left, top = round((width - 224) / 2), round((height - 224) / 2)
    picture = picture.resize((width, height), resampling)
    return np.asarray(picture.crop((left, top, left + 224, top + 224)), np.float32)


def _picture(image: np.ndarray) -> Image.Image:
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
        raise InvalidInputError(
            f"an image of {image.dtype} {list(image.shape)} was given; allowed: uint8 [H, W, 3]"
        )
    return Image.fromarray(image)


def _locate(package: str, file: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise MissileError(f"{file} ships with {package}, which is not installed")
    return Path(spec.origin).parent / file
