"""What the page's timeline is made of is kept only while somebody looks."""

from observed import X

from missile_jax.observe.recent import Recent


def test_launches_are_kept_from_the_first_look_on(managed):
    recent = Recent(managed)
    managed.infer("quick", X)
    assert recent.look() == []
    managed.infer("quick", X)
    assert [one.model for one in recent.look()] == ["quick"]
    recent.close()
    assert not managed._mux.observers
    assert recent.look() == []
    recent.close()


def test_nobody_who_looks_is_forgotten(managed):
    recent = Recent(managed, forget_after_s=0.01)
    recent.look()
    timer = recent._timer
    assert timer is not None
    timer.join(60)
    assert not managed._mux.observers
