"""The way from a timing oracle to a channel map that has proved itself.

`recover` calibrates its thresholds, finds the granule, tries an XOR map, then a permuted one, finds
the states of a few more pages, and tries the map on addresses that it has not used. No physical
address is known to it. It refuses rather than guess.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from missile_jax.coloring.accuracy import Accuracy, check, needed
from missile_jax.coloring.banks import Banks, find_banks
from missile_jax.coloring.calibrate import Calibration, calibrate
from missile_jax.coloring.granule import find_granule_bytes
from missile_jax.coloring.maps import PAGE_BYTES, PermutedMap, XorMap
from missile_jax.coloring.oracle import Probes, TimingOracle
from missile_jax.coloring.permuted import solve_permuted
from missile_jax.coloring.questions import Questions
from missile_jax.coloring.solved import Solved
from missile_jax.coloring.states import PAGE_PROBES, find_first_state, find_state
from missile_jax.coloring.xor import solve_xor
from missile_jax.errors import ChannelMapError, RecoveryError

# Pages beside those met on the way, whose unseen addresses the map is tried on: at least so many,
# and so many more times the granules that are needed.
_CHECKED_PAGES = 4
_SPARE = 2.0
# Granules that a saved map is tried on before it is used again.
_QUICK_CHECK = 300


@dataclass(frozen=True, slots=True)
class Recovery:
    """A map, and what it took.

    states: of the pages met, by their number in the range. references: an address of each channel,
    by its colour; colours are numbers of our own. banks: None for a map that was known before.
    probes: timings in all. page_probes: of those, what each further page took.
    """

    channel_map: XorMap | PermutedMap
    states: dict[int, int]
    references: tuple[int, ...]
    calibration: Calibration
    banks: Banks | None
    accuracy: Accuracy
    probes: int
    page_probes: tuple[int, ...]


def recover(
    oracle: TimingOracle, *, budget: int = 15_000, accuracy: float = 0.999, seed: int = 0
) -> Recovery:
    """The channel map behind the pages of `oracle`, from at most `budget` timings.

    accuracy: share of unseen granules that must be right, with 95 % confidence.
    Raises RecoveryError that says what failed if no map explains the timings so well.
    """
    if not 0 < accuracy < 1:
        raise ChannelMapError(f"accuracy={accuracy}: must be between 0 and 1")
    questions = _questions(oracle, budget, seed)
    questions.granule_bytes = find_granule_bytes(questions)
    as_xor = solve_xor(questions)
    solved = as_xor if isinstance(as_xor, Solved) else solve_permuted(questions)
    if isinstance(solved, str):
        raise RecoveryError(
            f"no map fits the timings. As an XOR map: {as_xor}. As permuted groups: {solved}"
        )
    banks = find_banks(questions, solved)
    return _checked(questions, solved, banks, needed(accuracy), accuracy)


def reuse(
    oracle: TimingOracle,
    channel_map: XorMap | PermutedMap,
    *,
    budget: int = 15_000,
    accuracy: float = 0.99,
    seed: int = 0,
) -> Recovery:
    """A map that is known from before, tried quickly on other pages, maybe of another process.

    Raises RecoveryError if it does not fit them.
    """
    questions = _questions(oracle, budget, seed)
    questions.granule_bytes = channel_map.granule_bytes
    solved = find_first_state(questions, channel_map)
    return _checked(questions, solved, None, _QUICK_CHECK, accuracy)


def page_states(
    oracle: TimingOracle, recovery: Recovery, pages: Iterable[int], seed: int = 0
) -> dict[int, tuple[int, int]]:
    """For each page number: its state, and the timings that it took (at most PAGE_PROBES).

    Raises RecoveryError for a page that is in no state of the map.
    """
    found = {}
    solved = Solved(recovery.channel_map, recovery.references, recovery.states)
    questions = Questions(
        Probes(oracle, PAGE_PROBES), recovery.calibration, np.random.default_rng(seed)
    )
    questions.granule_bytes = recovery.channel_map.granule_bytes
    for page in pages:
        questions.probes = Probes(oracle, PAGE_PROBES)
        found[page] = find_state(questions, page, solved), questions.probes.spent
    return found


def _questions(oracle: TimingOracle, budget: int, seed: int) -> Questions:
    rng = np.random.default_rng(seed)
    probes = Probes(oracle, budget)
    return Questions(probes, calibrate(probes, rng), rng)


def _checked(
    questions: Questions, solved: Solved, banks: Banks | None, count: int, accuracy: float
) -> Recovery:
    states = dict(solved.states)
    others = [page for page in range(questions.probes.pages) if page not in states]
    wanted = math.ceil(_SPARE * count * solved.channel_map.granule_bytes / PAGE_BYTES)
    taken = []
    for page in questions.rng.permutation(others)[: max(_CHECKED_PAGES, wanted)].tolist():
        before = questions.probes.spent
        states[page] = find_state(questions, page, solved)
        taken.append(questions.probes.spent - before)
    result = check(questions, solved, states, count)
    if result.low < accuracy:
        # Once more, on as many again: one wrong granule is no verdict yet.
        more = check(questions, solved, states, 2 * count)
        result = Accuracy(result.tested + more.tested, result.right + more.right)
    if result.low < accuracy:
        raise RecoveryError(f"{result}: {accuracy:.3%} was asked for")
    return Recovery(
        channel_map=solved.channel_map,
        states=states,
        references=solved.references,
        calibration=questions.calibration,
        banks=banks,
        accuracy=result,
        probes=questions.probes.spent,
        page_probes=tuple(taken),
    )
