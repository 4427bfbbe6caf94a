"""The KServe SDK with one worker: PORT for HTTP, PORT + 1 for gRPC."""

from __future__ import annotations

import logging
import sys

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer

from benchmarks.served import served


class JaxModel(Model):
    """A model of `benchmarks.served` under its name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._run = served(name).compiled()
        self.ready = True

    async def predict(
        self,
        payload: InferRequest,
        headers: dict[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> InferResponse:
        logits = self._run(payload.inputs[0].as_numpy())
        binary = payload.use_binary_outputs
        output = InferOutput("output", list(logits.shape), "FP32")
        output.set_data_from_numpy(logits, binary_data=binary)
        return InferResponse(payload.id, self.name, [output], use_binary_outputs=binary)


if __name__ == "__main__":
    port, model = int(sys.argv[1]), sys.argv[2]
    logging.disable(logging.INFO)  # several lines a request
    server = ModelServer(
        http_port=port, grpc_port=port + 1, workers=1, enable_latency_logging=False
    )
    server.start([JaxModel(model)])
