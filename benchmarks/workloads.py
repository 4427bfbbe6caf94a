"""The zoo as a load: models, batches and real inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

import missile_jax.models as zoo
from missile_jax import SLO, Model


@dataclass(frozen=True, slots=True)
class Work:
    """A best-effort model at one batch size. name: as in mixes and rows."""

    name: str
    net: str
    batch: int


WORKS = {
    work.name: work
    for work in (
        Work("resnet50-b1", "resnet50", 1),
        Work("resnet50-b4", "resnet50", 4),
        Work("efficientnet-b1", "efficientnet", 1),
        Work("minilm-b8", "minilm", 8),
    )
}

# One best-effort model, then all four at once.
MIXES: dict[str, tuple[str, ...]] = {
    "resnet50-b1": ("resnet50-b1",),
    "resnet50-b4": ("resnet50-b4",),
    "efficientnet-b1": ("efficientnet-b1",),
    "minilm-b8": ("minilm-b8",),
    "all-four": ("resnet50-b1", "resnet50-b4", "efficientnet-b1", "minilm-b8"),
}


def items(net: zoo.ZooModel, batch: int) -> list[Any]:
    """Real inputs of `net`, `batch` rows each: the photos, or the sentences for MiniLM."""
    raw = list(zoo.SENTENCES) if net.name == "minilm" else list(zoo.photos().values())
    rows = [net.preprocess(item) for item in raw]
    groups = [[rows[(k + j) % len(rows)] for j in range(batch)] for k in range(len(rows))]
    return [jax.tree.map(lambda *leaves: np.concatenate(leaves), *group) for group in groups]


def latency_model(name: str = "squeezenet") -> tuple[Model, list[Any], zoo.ZooModel]:
    """The latency-sensitive classifier, its inputs, and the network."""
    net = zoo.load(name)
    model = Model(
        name,
        net.module,
        net.variables,
        example=net.example,
        priority="latency",
        slo=SLO(deadline_ms=50, percentile=0.99),
    )
    return model, items(net, 1), net


def best_effort_model(work: Work) -> tuple[Model, list[Any], zoo.ZooModel]:
    """A best-effort model, its inputs, and the network."""
    net = zoo.load(work.net, random_weights=work.net == "resnet50")
    model = Model(work.name, net.module, net.variables, example=net.example, buckets=[work.batch])
    return model, items(net, work.batch), net
