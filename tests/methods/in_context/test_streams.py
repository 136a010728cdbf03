"""Random streams: no two uses share one, and no two visits share their numbers."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from maskwright.engine.state import seeded
from maskwright.methods.in_context.streams import Stream, visit_before_stage_2, visit_in_step

steps = st.integers(0, 10**8)


def test_the_values_are_part_of_every_result():
    names = [
        "WARM_UP",
        "STRONG_VIEW",
        "EPISODE",
        "REFERENCES",
        "LEARNING_ROWS",
        "POLICY_WARM_UP",
        "POLICY",
        "ASSESSMENT",
    ]
    assert {stream.name: int(stream) for stream in Stream} == {name: 1 + i for i, name in enumerate(names)}
    assert max(Stream) < 16  # what ``seeded`` has room for


@given(steps, steps)
def test_visits_before_and_in_stage_2_have_numbers_of_their_own(image: int, step: int):
    before, after = visit_before_stage_2(image), visit_in_step(step)
    assert 0 <= before < visit_in_step(0) <= after
    assert visit_before_stage_2(image + 1) == before - 1
    assert visit_in_step(step + 1) == after + 1


@given(steps, st.sampled_from(Stream), st.integers(0, 1000))
def test_a_generator_depends_on_seed_stream_and_number_alone(number: int, stream: Stream, seed: int):
    first, again = (torch.rand(3, generator=seeded(seed, stream, number)) for _ in range(2))
    assert torch.equal(first, again)
    for other in (s for s in Stream if s != stream):
        assert not torch.equal(first, torch.rand(3, generator=seeded(seed, other, number)))
