"""benchmarks.swap: the bound, and which models it takes."""

import pytest

from benchmarks.swap import bound_ns, subjects


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


def test_subjects_are_those_asked_for() -> None:
    (subject,) = subjects(["squeezenet"])
    assert subject.name == subject.model.name == "squeezenet"
    assert subject.inputs.shape == (1, 227, 227, 3)
