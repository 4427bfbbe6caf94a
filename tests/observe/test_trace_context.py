"""W3C trace context: what is taken up, what is passed on, what is ignored."""

import pytest

from missile_jax.observe.trace import new_trace, trace_context

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_a_header_is_taken_up_and_passed_on():
    context = trace_context({"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "v=1,w=2"})
    assert context is not None
    assert (context.trace_id, context.span_id, context.sampled) == (TRACE, PARENT, True)
    assert context.traceparent == f"00-{TRACE}-{PARENT}-01"
    child = context.child()
    assert (child.trace_id, child.sampled, child.state) == (TRACE, True, "v=1,w=2")
    assert child.span_id != PARENT


def test_who_does_not_sample_is_not_sampled():
    context = trace_context({"traceparent": f"00-{TRACE}-{PARENT}-00"})
    assert context is not None
    assert not context.sampled
    assert context.child().traceparent.endswith("-00")


def test_a_later_version_may_say_more():
    assert trace_context({"traceparent": f"01-{TRACE}-{PARENT}-03-more"}) is not None


@pytest.mark.parametrize(
    "header",
    [
        "",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{PARENT}-01",
    ],
)
def test_what_is_not_valid_counts_as_absent(header):
    assert trace_context({"traceparent": header}) is None


def test_a_state_that_is_too_long_is_dropped():
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "a=" + "b" * 600}
    context = trace_context(headers)
    assert context is not None
    assert context.state == ""


def test_new_traces_differ():
    assert new_trace().trace_id != new_trace().trace_id
    assert trace_context({"traceparent": new_trace().traceparent}) is not None
