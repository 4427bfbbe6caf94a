"""benchmarks.swap: the bound, and which models it takes."""

import pytest

from benchmarks.swap import _summary, bound_ns, floor_ns, subjects


@pytest.mark.parametrize(
    ("arrivals", "computes", "needs", "bound"),
    [
        ([10, 20], [5, 5], [1, 2], 25),  # the link is slower
        ([1, 2], [50, 50], [1, 2], 101),  # the compute is slower
        ([10], [3, 4], [0, 1], 14),  # the first segment needs nothing
    ],
)
def test_the_bound_waits_for_what_a_segment_needs(
    arrivals: list[float], computes: list[float], needs: list[int], bound: float
) -> None:
    assert bound_ns(arrivals, computes, needs) == bound


@pytest.mark.parametrize(
    ("cpu", "processors", "floor"),
    [
        (36, 2, 18),  # all are wanted all the time
        (36, 4, 10),  # the compute leaves some
        (30, 2, 15),
    ],
)
def test_the_floor_shares_work_out_over_processors(cpu: int, processors: int, floor: int) -> None:
    assert floor_ns(10, 4, cpu, processors) == floor


def test_the_floor_is_no_less_than_the_copy() -> None:
    assert floor_ns(10, 40, 36, 2) == 40


def test_light_models_are_told_by_bus_beside_their_floor() -> None:
    rows = [
        {
            "model": model, "bus": bus, "heavy": heavy, "ratio_to_resident": ratio,
            "floor_to_resident": ratio - 0.1, "ratio_to_bound": 1, "us_per_leaf": 1,
            "us_per_new_leaf": 2,
        }
        for model, bus, heavy, ratio in (
            ("a", "bare", False, 1.5), ("b", "bare", False, 1.25), ("a", "10 %", True, 4),
            ("b", "10 %", False, 1.75),
        )
    ]  # fmt: skip
    summary = _summary(rows)
    assert summary["light_rows"] == 3
    assert summary["ratio_to_resident_light_max"] == 1.75
    assert summary["ratio_to_resident_light_max.bare"] == 1.5
    assert summary["ratio_to_resident_light_max.10 %"] == 1.75
    assert summary["light_floor_max"] == 1.65
    assert summary["light_floor_max.bare"] == 1.4


def test_subjects_are_those_asked_for() -> None:
    (subject,) = subjects(["squeezenet"])
    assert subject.name == subject.model.name == "squeezenet"
    assert subject.inputs.shape == (1, 227, 227, 3)
