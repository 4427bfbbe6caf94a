"""missile_jax.traffic: latencies count from when a request was due; failures are told apart."""

import asyncio
from contextlib import asynccontextmanager

import numpy as np
import pytest

from missile_jax.traffic import Connection, Lost, closed_loop, open_loop, precise_loop

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
BUSY = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n"
REQUEST = b"GET / HTTP/1.1\r\n\r\n"


@asynccontextmanager
async def server(answers):
    """Where each request gets the next of `answers`; None closes the connection."""
    remaining, tasks = iter(answers), set()

    async def serve(reader, writer):
        tasks.add(asyncio.current_task())
        while await reader.readline():
            await reader.readline()
            answer = next(remaining)
            if answer is None:
                break
            writer.write(answer)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as served:
        yield served.sockets[0].getsockname()
        await asyncio.gather(*tasks)


def ask(answers, load):
    async def run():
        async with server(answers) as address:
            return await load(Connection(*address))

    with asyncio.Runner(loop_factory=precise_loop) as runner:
        return runner.run(run())


def test_open_loop_sends_every_request_and_counts_failures_by_kind():
    due = np.zeros(5)
    answers = [OK, BUSY, None, OK, b"no HTTP\r\n"]
    outcome = ask(answers, lambda c: open_loop([c], [REQUEST], due))
    assert len(outcome.latencies_s) == 2
    assert outcome.errors == {
        "429": 1,
        "the server closed the connection": 1,
        "the answer is not HTTP": 1,
    }


class Slow:
    """A sender that takes a tenth of a second of the loop's own time."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    async def send(self, request: bytes) -> int:
        self.sent.append(request)
        await asyncio.sleep(0.1)
        return 200

    def close(self) -> None:
        self.sent.append(b"closed")


def test_a_request_that_waits_for_a_sender_is_late_by_that():
    sender = Slow()
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        outcome = runner.run(open_loop([sender], [b"a", b"b"], np.zeros(3)))
    assert sender.sent == [b"a", b"b", b"a", b"closed"]
    assert (outcome.latencies_s >= 0.099 * np.arange(1, 4)).all()
    assert outcome.rate_per_s == pytest.approx(3 / outcome.seconds)


def test_closed_loop_goes_on_until_its_time_is_over():
    sender = Slow()
    outcome = asyncio.run(closed_loop([sender, sender], [b"a"], 0.15))
    assert len(outcome.latencies_s) >= 2
    assert sender.sent[-2:] == [b"closed", b"closed"]


def test_a_silent_server_is_given_up():
    async def run():
        async with server([b""]) as address:
            connection = Connection(*address, timeout_s=0.05)
            with pytest.raises(Lost, match=r"no answer in 0\.05 s"):
                await connection.send(REQUEST)

    asyncio.run(run())


def test_a_connection_gives_the_body_and_is_opened_anew():
    async def twice(connection):
        assert (await connection.send(REQUEST), connection.body) == (200, b"hi")
        connection.close()
        assert await connection.send(REQUEST) == 200
        connection.close()

    ask([OK, OK], twice)
