"""Large bodies take turns, and a client that sends nothing gives its turn away."""

import asyncio

from missile_jax.server import turns
from missile_jax.server.turns import Turns


class Body:
    """A client's body: messages come when the test puts them."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.messages: asyncio.Queue[dict] = asyncio.Queue()

    async def receive(self) -> dict:
        self.asked.set()
        return await self.messages.get()


async def start(count: int) -> tuple[list[Body], list[asyncio.Task]]:
    """So many bodies, which all want to be read."""
    of_loop, bodies = Turns(), [Body() for _ in range(count)]
    return bodies, [asyncio.create_task(of_loop.receive(body.receive)) for body in bodies]


def test_two_are_read_at_a_time_in_the_order_in_which_they_came(monkeypatch):
    monkeypatch.setattr(turns, "_PATIENCE_S", 60)

    async def main() -> None:
        bodies, tasks = await start(4)
        await asyncio.gather(bodies[0].asked.wait(), bodies[1].asked.wait())
        assert [body.asked.is_set() for body in bodies] == [True, True, False, False]
        bodies[1].messages.put_nowait({"body": b"1"})
        assert await tasks[1] == {"body": b"1"}
        await bodies[2].asked.wait()
        assert not bodies[3].asked.is_set()
        for body in bodies:
            body.messages.put_nowait({})
        await asyncio.gather(*tasks)

    asyncio.run(main())


def test_who_sends_nothing_gives_its_turn_away_and_is_read_when_it_sends():
    async def main() -> None:
        bodies, tasks = await start(5)
        bodies[4].messages.put_nowait({"body": b"4"})
        assert await tasks[4] == {"body": b"4"}
        assert not any(task.done() for task in tasks[:4])
        for body, task in zip(bodies[:4], tasks[:4], strict=True):
            body.messages.put_nowait({"body": b"late"})
            assert await task == {"body": b"late"}

    asyncio.run(main())


def test_who_is_cancelled_gives_its_turn_away(monkeypatch):
    monkeypatch.setattr(turns, "_PATIENCE_S", 60)

    async def main() -> None:
        bodies, tasks = await start(3)
        await bodies[0].asked.wait()
        tasks[0].cancel()
        await bodies[2].asked.wait()
        for body in bodies:
            body.messages.put_nowait({})
        await asyncio.gather(*tasks[1:])
        assert tasks[0].cancelled()

    asyncio.run(main())
