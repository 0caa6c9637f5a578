"""Token buckets by themselves: what they let through, what they remember, and how much room they take."""

import tracemalloc
from fractions import Fraction

from hypothesis import example, given
from hypothesis import strategies as st

from web.access.buckets import HEAVY_MOST, IDLE_MOST, LIGHT_MOST, SECOND, Buckets, Rate

MEBIBYTE = 2**20


class Clock:
    def __init__(self):
        self.now = 10**15

    def __call__(self):
        return self.now


rates = st.builds(Rate, st.sampled_from([0.1, 1 / 3, 1, 7, 20 / 60, 1000, 999_999.999]), st.integers(1, 30))
# Mostly a few tokens' time, so that there is something to decide.
pauses = st.lists(st.one_of(st.just(0.0), st.floats(0, 3), st.floats(0, 100)), max_size=150)


@given(rates, pauses)
@example(Rate(1 / 3, 5), [0.0] * 6 + [0.9999] * 5)
def test_in_no_span_of_time_more_get_through_than_the_burst_and_what_the_rate_adds(rate, pauses):
    """Nor fewer than there are tokens for; and what is told of each is true."""
    clock = Clock()
    buckets, tokens, passed = Buckets(rate, clock), Fraction(rate.burst), []
    for pause in pauses:
        step = int(pause * rate.interval)
        clock.now += step
        tokens = min(Fraction(rate.burst), tokens + Fraction(step, rate.interval))
        standing = buckets.draw("a")
        if tokens >= 1:
            tokens -= 1
            passed.append(clock.now)
            assert standing.refused_for == 0
        else:
            assert standing.refused_for == (1 - tokens) * rate.interval
        assert standing.remaining == int(tokens)
        assert standing.full_in == (rate.burst - tokens) * rate.interval
        assert standing.limit == rate.burst
        assert buckets.look("a").remaining == standing.remaining
    assert rate.interval >= SECOND / rate.per_second
    for first, began in enumerate(passed):
        for last, ended in enumerate(passed[first:], first):
            assert last - first + 1 <= rate.burst + Fraction(ended - began, rate.interval)


@given(rates, rates, st.integers(0, 40), st.floats(0, 3))
def test_a_new_rate_holds_at_once_and_what_is_missing_stays_missing(before, after, draws, pause):
    clock = Clock()
    buckets = Buckets(before, clock)
    for _ in range(draws):
        left = buckets.draw("a").remaining
    clock.now += int(pause * before.interval)
    was = buckets.look("a")
    buckets.adopt(after)
    now = buckets.look("a")
    assert now.limit == after.burst
    missing = Fraction(was.full_in, before.interval)
    assert abs(Fraction(now.full_in, after.interval) - min(missing, after.burst)) <= Fraction(1, 1000)
    if draws >= before.burst and not pause and after.burst <= before.burst:
        assert (left, now.remaining) == (0, 0)
    through = sum(not buckets.draw("a").refused_for for _ in range(after.burst + 2))
    assert through == now.remaining


@given(rates, st.lists(st.tuples(st.integers(-(10**18), 10**18), st.integers(0, 40)), max_size=8))
def test_a_clock_that_jumps_lets_a_bucket_be_empty_at_worst(rate, jumps):
    clock = Clock()
    buckets = Buckets(rate, clock)
    for jump, draws in jumps:
        clock.now += jump
        through = sum(not buckets.draw("a").refused_for for _ in range(draws))
        assert through <= rate.burst
        assert buckets.look("a").full_in <= rate.room
    buckets.look("a")
    clock.now += rate.interval
    assert not buckets.draw("a").refused_for


def test_callers_do_not_draw_from_each_others_buckets():
    buckets = Buckets(Rate(1, 2), Clock())
    assert [buckets.draw(name).refused_for > 0 for name in "aabba"] == [False, False, False, False, True]


def test_a_million_addresses_take_no_more_room_than_is_said():
    """100,000 are kept of them, in 25 MiB; and once the flood is over, that is given back."""
    clock = Clock()
    buckets = Buckets(Rate(1, 10), clock)
    tracemalloc.start(1)
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(HEAVY_MOST + 10_000):
            name = f"2001:db8:ffff:{number:x}::/64"
            buckets.draw(name)
            buckets.draw(name)
        for number in range(LIGHT_MOST + 10_000):
            buckets.draw(f"2001:db8:aaaa:{number:x}::/64")
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(buckets) == LIGHT_MOST + HEAVY_MOST == 100_000
    assert after - before < 25 * MEBIBYTE
    for number in range(1_000_000):
        buckets.draw(str(number))
    assert len(buckets) <= 100_000
    assert buckets.forgotten >= 1_000_000 - LIGHT_MOST
    clock.now += 10 * SECOND
    for _ in range(100_000):
        buckets.draw("one")
    assert len(buckets) <= IDLE_MOST


def test_nobody_gets_his_empty_bucket_forgotten_by_coming_from_elsewhere():
    """Neither by a visit from each of very many addresses, nor by as many as there is room for that draw an eighth."""
    buckets = Buckets(Rate(0.1, 16), Clock())
    for _ in range(16):
        buckets.draw("attacker")
    for number in range(2 * LIGHT_MOST):
        buckets.draw(f"light {number}")
        buckets.draw(f"light {number}")
    assert buckets.forgotten == LIGHT_MOST
    for number in range(HEAVY_MOST - 1):
        for _ in range(3):
            buckets.draw(f"heavy {number}")
    assert buckets.look("attacker").refused_for > 0
    for _ in range(3):
        buckets.draw("one more")
    assert buckets.look("heavy 0").remaining == 16  # the one that was used longest ago; to look at one is to use it
    assert buckets.look("attacker").refused_for > 0


def test_the_emptiest_are_told_first_and_none_that_is_full():
    clock = Clock()
    buckets = Buckets(Rate(1, 10), clock)
    for name, draws in (("a", 1), ("b", 10), ("c", 5), ("d", 2)):
        for _ in range(draws):
            buckets.draw(name)
    clock.now += SECOND
    assert [(name, it.remaining) for name, it in buckets.emptiest(3)] == [("b", 1), ("c", 6), ("d", 9)]
    assert [name for name, _ in buckets.emptiest(10)] == ["b", "c", "d"]
    clock.now -= 100 * SECOND
    assert buckets.emptiest(1)[0][1].full_in == 10 * SECOND
