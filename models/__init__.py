"""The zoo: real networks in Flax, inference only, with weights that ship inside Python packages.

Wants the packages of the extra ``missile-jax[zoo]``.
"""

from missile_jax.models.efficientnet import EfficientNetLite0
from missile_jax.models.images import photos
from missile_jax.models.labels import imagenet_labels, probabilities
from missile_jax.models.minilm import MiniLM
from missile_jax.models.mobilenet import MobileNetV2
from missile_jax.models.resnet import ResNet
from missile_jax.models.squeezenet import SqueezeNet
from missile_jax.models.text import SENTENCES, tokens
from missile_jax.models.unpickle import UnsafePickleError
from missile_jax.models.weights import WeightsError, fetch
from missile_jax.models.zoo import ZooModel, load, names, preprocessing

__all__ = [
    "SENTENCES",
    "EfficientNetLite0",
    "MiniLM",
    "MobileNetV2",
    "ResNet",
    "SqueezeNet",
    "UnsafePickleError",
    "WeightsError",
    "ZooModel",
    "fetch",
    "imagenet_labels",
    "load",
    "names",
    "photos",
    "preprocessing",
    "probabilities",
    "tokens",
]
