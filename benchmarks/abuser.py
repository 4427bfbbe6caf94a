"""Clients that a server must not let others suffer from: `python -m benchmarks.abuser KIND PORT`.

Says "on" once they are at it, and goes on until it is ended.

bulk: 64 connections that send 8 MB tensors to the model "sum", one after the other.
storm: connections that are opened, ask once and are closed, 32 at a time.
slow: 32 connections that take a second over each request.
loris: 500 connections that send a request's head, a byte a second, and never end it.
"""

from __future__ import annotations

import asyncio
import sys

import numpy as np
import uvloop

from benchmarks.contenders import infer_request
from benchmarks.served import served
from missile_jax.traffic import Connection

BULK_SHAPE = (1, 2 * 2**20)
KINDS = {"bulk": 64, "storm": 32, "slow": 32, "loris": 500}


async def bulk(port: int) -> None:
    connection = Connection("127.0.0.1", port)
    while True:
        await connection.send(_BULK)


async def storm(port: int) -> None:
    while True:
        connection = Connection("127.0.0.1", port)
        await connection.send(_SMALL)
        connection.close()


async def slow(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while True:
        for part in np.array_split(np.frombuffer(_SMALL, np.uint8), 10):
            writer.write(part.tobytes())
            await asyncio.sleep(0.1)
        await reader.read(1)


async def loris(port: int) -> None:
    while True:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        for byte in b"POST /v2/models/mlp/infer HTTP/1.1\r\nX-Slow: " + b"x" * 1000:
            if writer.is_closing():
                break
            writer.write(bytes([byte]))
            await asyncio.sleep(1)


async def main(kind: str, port: int) -> None:
    act = {"bulk": bulk, "storm": storm, "slow": slow, "loris": loris}[kind]
    async with asyncio.TaskGroup() as group:
        for _ in range(KINDS[kind]):
            group.create_task(act(port))
        await asyncio.sleep(1)
        print("on", flush=True)


if __name__ == "__main__":
    _SMALL = infer_request("mlp", served("mlp").example())
    _BULK = infer_request("sum", np.ones(BULK_SHAPE, np.float32))
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
