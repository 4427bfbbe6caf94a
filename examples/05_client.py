"""Ask the server of 05_operate.yaml by Triton's gRPC client.

missile serve examples/05_operate.yaml
python examples/05_client.py [HOST:PORT]
"""

import sys

import tritonclient.grpc as triton
from tritonclient.utils import np_to_triton_dtype

from missile_jax import models as zoo


def main(url: str) -> None:
    client = triton.InferenceServerClient(url)
    for model in client.get_model_repository_index().models:
        print(f"{model.name}: {model.state} {model.reason}".rstrip())

    photo = zoo.preprocessing("squeezenet")(zoo.photos()["coffee"])
    tensor = triton.InferInput("input", photo.shape, np_to_triton_dtype(photo.dtype))
    tensor.set_data_from_numpy(photo)
    # Of no use after 2 s: given up on the server too.
    answer = client.infer("photos", [tensor], timeout=2_000_000, client_timeout=2)
    print(zoo.imagenet_labels()[answer.as_numpy("output")[0].argmax()])


if __name__ == "__main__":
    main(*sys.argv[1:] or ["127.0.0.1:8001"])
