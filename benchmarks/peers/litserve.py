"""LitServe with one worker and no batches: a JSON list in, a JSON list out, at /predict."""

from __future__ import annotations

import sys

import litserve
import numpy as np

from benchmarks.served import served

PORT, MODEL = int(sys.argv[1]), sys.argv[2]


class Api(litserve.LitAPI):
    """The model named on the command line."""

    def setup(self, device: str) -> None:
        self._model = served(MODEL)
        self._run = self._model.compiled()

    def decode_request(self, request: dict) -> np.ndarray:
        return np.asarray(request["input"], np.float32).reshape(self._model.shape)

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self._run(x)

    def encode_response(self, output: np.ndarray) -> dict:
        return {"output": output.ravel().tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=PORT, log_level="error", generate_client_file=False)
