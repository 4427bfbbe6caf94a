"""all-MiniLM-L6-v2: a BERT (arXiv:1810.04805) of 6 layers that turns a sentence into a vector.

Axes: B rows, L positions, D width, H heads. 22,565,376 parameters: the file's 22,713,216 less the
pooler, which mean pooling does not use.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from missile_jax.errors import InvalidInputError
from missile_jax.models.layers import Tree, dense_params

_EPSILON = 1e-12
_LAYERS = 6


class Layer(nn.Module):
    """x [B, L, D], keep bool [B, L] -> [B, L, D]: self-attention, then two dense layers."""

    heads: int
    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array, keep: jax.Array) -> jax.Array:
        batch, length, width = x.shape
        split = (batch, length, self.heads, width // self.heads)
        query, key, value = (
            nn.Dense(width, name=name)(x).reshape(split) for name in ("query", "key", "value")
        )
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) * (width // self.heads) ** -0.5
        scores = jnp.where(keep[:, None, None, :], scores, jnp.finfo(scores.dtype).min)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", nn.softmax(scores), value).reshape(x.shape)
        x = _norm("attention_norm")(x + nn.Dense(width, name="attention_output")(mixed))
        y = nn.gelu(nn.Dense(self.hidden, name="intermediate")(x), approximate=False)
        return _norm("output_norm")(x + nn.Dense(width, name="output")(y))


class MiniLM(nn.Module):
    """input_ids int32 [B, L], attention_mask int32 [B, L] -> embeddings [B, D] of length 1.

    L: at most `positions`; more raises InvalidInputError. A row whose mask is all zero (padding of
    a batch) gives zeros.
    """

    vocabulary: int = 30522
    positions: int = 512
    width: int = 384
    layers: int = _LAYERS
    heads: int = 12
    hidden: int = 1536

    @nn.compact
    def __call__(self, input_ids: jax.Array, attention_mask: jax.Array) -> jax.Array:
        length = input_ids.shape[1]
        if length > self.positions:
            raise InvalidInputError(f"{length} positions given; allowed: 1 to {self.positions}")
        x = nn.Embed(self.vocabulary, self.width, name="word")(input_ids)
        x = x + nn.Embed(self.positions, self.width, name="position")(jnp.arange(length)[None])
        x = x + nn.Embed(2, self.width, name="segment")(jnp.zeros((1, length), jnp.int32))
        x = _norm("embedding_norm")(x)
        keep = attention_mask != 0
        for i in range(self.layers):
            x = Layer(self.heads, self.hidden, name=f"layer_{i}")(x, keep)
        total = jnp.where(keep[..., None], x, 0).sum(1)
        mean = total / jnp.maximum(keep.sum(1, keepdims=True), 1).astype(total.dtype)
        return mean / jnp.maximum(jnp.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)


def from_tensors(tensors: Mapping[str, np.ndarray]) -> Tree:
    """Variables from the published safetensors file, {Hugging Face's name: tensor}."""
    params: Tree = {
        place: {"embedding": tensors[f"embeddings.{name}_embeddings.weight"]}
        for place, name in (
            ("word", "word"),
            ("position", "position"),
            ("segment", "token_type"),
        )
    }
    params["embedding_norm"] = _norm_params(tensors, "embeddings.LayerNorm")
    for i in range(_LAYERS):
        prefix = f"encoder.layer.{i}."
        params[f"layer_{i}"] = {
            "query": dense_params(tensors, prefix + "attention.self.query"),
            "key": dense_params(tensors, prefix + "attention.self.key"),
            "value": dense_params(tensors, prefix + "attention.self.value"),
            "attention_output": dense_params(tensors, prefix + "attention.output.dense"),
            "attention_norm": _norm_params(tensors, prefix + "attention.output.LayerNorm"),
            "intermediate": dense_params(tensors, prefix + "intermediate.dense"),
            "output": dense_params(tensors, prefix + "output.dense"),
            "output_norm": _norm_params(tensors, prefix + "output.LayerNorm"),
        }
    return {"params": params}


def _norm(name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=_EPSILON, use_fast_variance=False, name=name)


def _norm_params(tensors: Mapping[str, np.ndarray], name: str) -> Tree:
    return {"scale": tensors[f"{name}.weight"], "bias": tensors[f"{name}.bias"]}
