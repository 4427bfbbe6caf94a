"""MLServer in one process: PORT for HTTP, PORT + 1 for gRPC."""

from __future__ import annotations

import asyncio
import sys

from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.served import served


class JaxModel(MLModel):
    """A model of `benchmarks.served` under its name."""

    async def load(self) -> bool:
        self._run = served(self.name).compiled()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        x = NumpyCodec.decode_input(payload.inputs[0])
        output = NumpyCodec.encode_output("output", self._run(x))
        return InferenceResponse(model_name=self.name, id=payload.id, outputs=[output])


async def main(port: int, model: str) -> None:
    settings = Settings(
        host="127.0.0.1", http_port=port, grpc_port=port + 1, metrics_port=port + 2,
        metrics_endpoint=None, parallel_workers=0, debug=False,
    )  # fmt: skip
    server = MLServer(settings)
    await server.start([ModelSettings(name=model, implementation=JaxModel)])


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
