"""PyTriton without batches: PORT for HTTP, PORT + 1 for gRPC."""

from __future__ import annotations

import os
import signal
import sys
import sysconfig

import numpy as np
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from benchmarks.served import served


def main(port: int, name: str) -> None:
    _name_library()
    model = served(name)
    run = model.compiled()

    def infer(requests: list) -> list[dict[str, np.ndarray]]:
        return [{"output": run(request["input"])} for request in requests]

    config = TritonConfig(
        http_address="127.0.0.1", http_port=port, grpc_address="127.0.0.1", grpc_port=port + 1,
        allow_metrics=False,
    )  # fmt: skip
    with Triton(config=config) as triton:
        triton.bind(
            name, infer,
            inputs=[Tensor(name="input", dtype=np.float32, shape=model.shape)],
            outputs=[Tensor(name="output", dtype=np.float32, shape=(1, 10))],
            config=ModelConfig(batching=False),
        )  # fmt: skip
        triton.serve()


def _name_library() -> None:
    """Have Triton's Python backend load the libpython of this interpreter.

    Otherwise it finds that of the system first, and fails on this one's standard library where the
    two differ in their last number.
    """
    folders = [sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH")]
    os.environ["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, folders))


if __name__ == "__main__":
    # Otherwise its folder under ~/.cache and its shared memory stay behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    main(int(sys.argv[1]), sys.argv[2])
