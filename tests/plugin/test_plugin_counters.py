"""What passes through is counted by its reason, and nothing else is."""

import plugin_worker as worker
import pytest
from plugins import CPU_MINORS, FILES, WRAPPER


@pytest.mark.parametrize("minor", CPU_MINORS)
def test_each_upload_that_passes_through_raises_the_count_of_its_reason_alone(minor, process):
    # A process of its own: it has two more tenants.
    raised = process(minor, True, tenant="counted")(worker.passed_uploads)
    assert raised == {
        "plain": {"uploads_placed": 1, "uploads_placed_bytes": 8000},
        "int4": {"uploads_passed_type": 1},
        "empty": {"uploads_passed_empty": 1},
        "in host memory": {"uploads_passed_memory": 1},
        "without an arena": {"uploads_passed_off": 1},
        "larger than the arena": {"uploads_passed_full": 1},
        "that fits": {"uploads_placed": 1, "uploads_placed_bytes": 4000},
    }


@pytest.mark.parametrize("minor", CPU_MINORS)
def test_transfer_managers_are_charged_from_first_to_last(minor, process):
    steps = process(minor, True, tenant="moving")(worker.transfers, str(FILES), str(WRAPPER))
    assert steps == {
        "made": 6000,
        "retrieved": 6000,
        "arrived": True,
        "manager ended": 4000,
        "buffer ended": 0,
        "managers": [1, 1],
    }
