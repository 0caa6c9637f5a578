"""Whatever strangers write, it is read or refused; scripts/fuzz.py goes on with this for as long as one likes."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.web.decoding import DECODERS, FORMS, in_time


@pytest.mark.parametrize("decoder", DECODERS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(FORMS)).flatmap(FORMS.__getitem__))
def test_whatever_comes_is_read_or_refused(decoder, content):
    in_time(DECODERS[decoder], content)
