"""Coroutines that begin at once."""

import asyncio

import pytest
import uvloop

from missile_jax.server.eager import begin


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop])
def run(request):
    """Runs a coroutine function on a loop of either kind."""

    def run(main):
        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(main())

    return run


def test_what_waits_for_nothing_has_ended_when_it_has_begun(run):
    said = []

    async def work():
        said.append(asyncio.get_running_loop())

    async def main():
        assert begin(work(), asyncio.get_running_loop()) is None
        assert said == [asyncio.get_running_loop()]
        assert len(asyncio.all_tasks()) == 1  # this one

    run(main)


def test_the_rest_is_a_task_from_the_first_wait_on(run):
    said = []

    async def work(first, second):
        said.append("begun")
        said.append(await first)
        await asyncio.sleep(0)
        said.append(asyncio.current_task().get_name())
        said.append(await second)

    async def main():
        loop = asyncio.get_running_loop()
        first, second = loop.create_future(), loop.create_future()
        task = begin(work(first, second), loop)
        task.set_name("rest")
        assert said == ["begun"]
        first.set_result(1)
        await asyncio.sleep(0.01)
        assert said == ["begun", 1, "rest"]
        second.set_result(2)
        await task
        assert said == ["begun", 1, "rest", 2]

    run(main)


def test_a_cancellation_and_what_it_awaits_raises_reach_it(run):
    said = []

    async def work(awaited):
        try:
            await awaited
        except (asyncio.CancelledError, KeyError) as error:
            said.append(type(error))
            await asyncio.sleep(0)
            raise

    async def main():
        loop = asyncio.get_running_loop()
        task = begin(work(loop.create_future()), loop)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        failing = loop.create_future()
        task = begin(work(failing), loop)
        failing.set_exception(KeyError("gone"))
        with pytest.raises(KeyError, match="gone"):
            await task
        assert said == [asyncio.CancelledError, KeyError]

    run(main)


def test_what_it_raises_at_once_is_raised_at_once(run):
    async def work():
        raise KeyError("at once")

    async def main():
        with pytest.raises(KeyError, match="at once"):
            begin(work(), asyncio.get_running_loop())

    run(main)
