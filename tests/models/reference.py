"""The networks of the zoo once more, in plain numpy float64 and one item at a time.

Nothing here comes from the library: tensors are taken by the names they were published under, and
strides are written out. Axes: H height, W width, C channels, L positions, D width of a vector.
"""

import math

import numpy as np


def relative_error(got, expected):
    got, expected = np.asarray(got, np.float64), np.asarray(expected)
    assert got.shape == expected.shape
    return np.abs(got - expected).max() / np.abs(expected).max()


def conv(x, kernel, stride=1, pad=((0, 0), (0, 0))):
    """x [H, W, C], kernel [O, C, k, k] or, by channel, [C, 1, k, k] -> [H', W', O]."""
    x = np.pad(x, (*pad, (0, 0)))
    out, inner, size, _ = kernel.shape
    kernel = kernel.astype(np.float64)
    height, width = ((n - size) // stride + 1 for n in x.shape[:2])
    total = np.zeros((height, width, out))
    for i in range(size):
        for j in range(size):
            tap = x[i : i + stride * height : stride, j : j + stride * width : stride][
                :height, :width
            ]
            if inner == 1 and x.shape[-1] > 1:
                total += tap * kernel[:, 0, i, j]
            else:
                total += tap @ kernel[:, :, i, j].T
    return total


def both(pad):
    return ((pad, pad), (pad, pad))


def same(x, size, stride):
    """TensorFlow's SAME: the output has ceil(n / stride) positions, the odd zero goes last."""
    totals = [max((-(-n // stride) - 1) * stride + size - n, 0) for n in x.shape[:2]]
    return tuple((total // 2, total - total // 2) for total in totals)


def max_pool(x, pad=0):
    x = np.pad(x, (*both(pad), (0, 0)), constant_values=-np.inf)
    height, width = ((n - 3) // 2 + 1 for n in x.shape[:2])
    taps = [
        x[i : i + 2 * height - 1 : 2, j : j + 2 * width - 1 : 2] for i in range(3) for j in range(3)
    ]
    return np.max(taps, axis=0)


def batch_norm(x, state, name, eps):
    mean, var = state[name + ".running_mean"], state[name + ".running_var"].astype(np.float64)
    return (x - mean) / np.sqrt(var + eps) * state[name + ".weight"] + state[name + ".bias"]


def relu(x):
    return np.maximum(x, 0)


def relu6(x):
    return np.clip(x, 0, 6)


def linear(x, state, name):
    return x @ state[name + ".weight"].astype(np.float64).T + state[name + ".bias"]


def mobilenet(x, state):
    """x [224, 224, 3], torchvision's state dict -> [1000]."""

    def unit(x, kernel, norm, stride=1, pad=0):
        return batch_norm(conv(x, state[kernel + ".weight"], stride, both(pad)), state, norm, 1e-5)

    x = relu6(unit(x, "features.0.0", "features.0.1", 2, 1))
    for i, stride in enumerate((1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1), 1):
        y, name = x, f"features.{i}.conv"
        if i == 1:
            y = relu6(unit(y, f"{name}.0.0", f"{name}.0.1", stride, 1))
            y = unit(y, f"{name}.1", f"{name}.2")
        else:
            y = relu6(unit(y, f"{name}.0.0", f"{name}.0.1"))
            y = relu6(unit(y, f"{name}.1.0", f"{name}.1.1", stride, 1))
            y = unit(y, f"{name}.2", f"{name}.3")
        x = x + y if stride == 1 and x.shape[-1] == y.shape[-1] else y
    x = relu6(unit(x, "features.18.0", "features.18.1"))
    return linear(x.mean((0, 1)), state, "classifier.1")


def efficientnet(x, state):
    """x [224, 224, 3], the torch port's state dict -> [1000]."""

    def unit(x, kernel, norm, stride=1):
        weight = state[kernel + ".weight"]
        y = conv(x, weight, stride, same(x, weight.shape[-1], stride))
        return batch_norm(y, state, norm, 1e-3)

    x = relu6(unit(x, "_conv_stem", "_bn0", 2))
    for i, stride in enumerate((1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)):
        y, name = x, f"_blocks.{i}."
        if i > 0:
            y = relu6(unit(y, name + "_expand_conv", name + "_bn0"))
        y = relu6(unit(y, name + "_depthwise_conv", name + "_bn1", stride))
        y = unit(y, name + "_project_conv", name + "_bn2")
        x = x + y if stride == 1 and x.shape[-1] == y.shape[-1] else y
    x = relu6(unit(x, "_conv_head", "_bn1"))
    return linear(x.mean((0, 1)), state, "_fc")


def squeezenet(x, arrays):
    """x [227, 227, 3], {name: (kernel HWIO, bias)} -> [1000]."""

    def unit(x, name, stride=1):
        kernel, bias = arrays[name]
        kernel = kernel.transpose(3, 2, 0, 1)
        return conv(x, kernel, stride, same(x, kernel.shape[-1], stride)) + bias

    x = relu(unit(x, "conv1", 2))
    for i in range(2, 10):
        if i in (2, 4, 6):
            x = max_pool(x)
        x = relu(unit(x, f"fire{i}/squeeze1x1"))
        halves = [relu(unit(x, f"fire{i}/expand{k}x{k}")) for k in (1, 3)]
        x = np.concatenate(halves, axis=-1)
    return unit(x, "conv10").mean((0, 1))


RESNET50 = {"layer1": (3, 64), "layer2": (4, 128), "layer3": (6, 256), "layer4": (3, 512)}


def resnet50_state(seed):
    """A random state dict under torchvision's names."""
    rng = np.random.default_rng(seed)
    state = {}

    def unit(kernel, norm, out, inner, size, gain=2.0):
        shape = (out, inner, size, size)
        state[kernel + ".weight"] = rng.normal(0, math.sqrt(gain / (inner * size**2)), shape)
        state[norm + ".weight"] = rng.uniform(0.5, 1.5, out)
        state[norm + ".bias"] = rng.normal(0, 0.1, out)
        state[norm + ".running_mean"] = rng.normal(0, 0.1, out)
        state[norm + ".running_var"] = rng.uniform(0.5, 1.5, out)

    unit("conv1", "bn1", 64, 3, 7)
    inner = 64
    for layer, (repeats, width) in RESNET50.items():
        for i in range(repeats):
            name = f"{layer}.{i}"
            unit(name + ".conv1", name + ".bn1", width, inner, 1)
            unit(name + ".conv2", name + ".bn2", width, width, 3)
            unit(name + ".conv3", name + ".bn3", 4 * width, width, 1, gain=0.5)
            if i == 0:
                unit(name + ".downsample.0", name + ".downsample.1", 4 * width, inner, 1)
            inner = 4 * width
    state["fc.weight"] = rng.normal(0, math.sqrt(1 / inner), (1000, inner))
    state["fc.bias"] = rng.normal(0, 0.1, 1000)
    return {name: value.astype(np.float32) for name, value in state.items()}


def resnet50(x, state):
    """x [224, 224, 3], torchvision's state dict -> [1000]."""

    def unit(x, kernel, norm, stride=1, pad=0):
        return batch_norm(conv(x, state[kernel + ".weight"], stride, both(pad)), state, norm, 1e-5)

    x = max_pool(relu(unit(x, "conv1", "bn1", 2, 3)), pad=1)
    for layer, (repeats, _) in RESNET50.items():
        for i in range(repeats):
            name, stride = f"{layer}.{i}", 2 if i == 0 and layer != "layer1" else 1
            y = relu(unit(x, name + ".conv1", name + ".bn1"))
            y = relu(unit(y, name + ".conv2", name + ".bn2", stride, 1))
            y = unit(y, name + ".conv3", name + ".bn3")
            if i == 0:
                x = unit(x, name + ".downsample.0", name + ".downsample.1", stride)
            x = relu(x + y)
    return linear(x.mean((0, 1)), state, "fc")


def layer_norm(x, tensors, name):
    centred = x - x.mean(-1, keepdims=True)
    x = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
    return x * tensors[name + ".weight"] + tensors[name + ".bias"]


def minilm(ids, tensors):
    """ids: the L token ids of one sentence, no padding -> [384]."""
    erf = np.vectorize(math.erf)
    embeddings = "embeddings.{}_embeddings.weight"
    x = tensors[embeddings.format("word")][ids].astype(np.float64)
    x = x + tensors[embeddings.format("position")][: len(ids)]
    x = layer_norm(x + tensors[embeddings.format("token_type")][0], tensors, "embeddings.LayerNorm")
    for i in range(6):
        name = f"encoder.layer.{i}."
        query, key, value = (
            linear(x, tensors, name + "attention.self." + part)
            for part in ("query", "key", "value")
        )
        mixed = np.zeros_like(x)
        for head in range(12):
            at = slice(32 * head, 32 * head + 32)
            scores = np.exp(query[:, at] @ key[:, at].T / math.sqrt(32))
            mixed[:, at] = scores / scores.sum(-1, keepdims=True) @ value[:, at]
        y = linear(mixed, tensors, name + "attention.output.dense")
        x = layer_norm(x + y, tensors, name + "attention.output.LayerNorm")
        y = linear(x, tensors, name + "intermediate.dense")
        y = linear(y * (1 + erf(y / math.sqrt(2))) / 2, tensors, name + "output.dense")
        x = layer_norm(x + y, tensors, name + "output.LayerNorm")
    mean = x.mean(0)
    return mean / np.linalg.norm(mean)
