import numpy as np
import pytest

from catalogpose.quality.intervals import Interval, difference_interval, mean_interval


def test_the_interval_covers_as_often_as_it_says() -> None:
    """Of 80 samples of 60 values, about 95 % have an interval that holds the true mean."""
    rng = np.random.default_rng(1)
    found = [mean_interval(rng.normal(3, 1, 60)) for _ in range(80)]
    held = sum(each.low <= 3 <= each.high for each in found)
    assert 70 <= held <= 79


def test_the_interval_repeats() -> None:
    """The same values give the same interval, and it is around their mean."""
    values = np.random.default_rng(2).random(40)
    found = mean_interval(values)
    assert found == mean_interval(values)
    assert (found.n, found.groups, found.mean) == (40, 40, values.mean())
    assert found.low < found.mean < found.high


def test_a_constant_difference_is_certain() -> None:
    """Pairs that differ by the same have an interval without width, however they spread."""
    values = np.random.default_rng(3).normal(20, 9, 50)
    found = difference_interval(values + 0.5, values)
    assert (found.n, found.groups) == (50, 50)
    assert [found.mean, found.low, found.high] == pytest.approx([0.5, 0.5, 0.5])


def test_pairing_makes_a_difference_surer() -> None:
    """Where hard rows are hard for both, the paired interval is far narrower than either mean's."""
    rng = np.random.default_rng(4)
    hard = rng.normal(20, 5, 100)
    first, second = hard + rng.normal(0.3, 0.5, 100), hard + rng.normal(0, 0.5, 100)
    paired, alone = difference_interval(first, second), mean_interval(first)
    assert paired.high - paired.low < (alone.high - alone.low) / 4
    assert paired.low > 0


def test_the_difference_turns_with_its_sides() -> None:
    """First less second is the negative of second less first, the interval's ends too."""
    first, second = np.random.default_rng(5).random((2, 30))
    one, other = difference_interval(first, second), difference_interval(second, first)
    assert [one.mean, one.low, one.high] == pytest.approx([-other.mean, -other.high, -other.low])


def test_seeds_of_one_pair_are_not_independent() -> None:
    """Two seeds that measured the same do not make a mean surer when they share a group."""
    values = np.random.default_rng(6).random(20)
    names = [str(number) for number in range(20)] * 2
    twice = mean_interval(np.tile(values, 2), names)
    once = mean_interval(values, names[:20])
    assert (twice.n, twice.groups) == (40, 20)
    assert [twice.low, twice.high] == pytest.approx([once.low, once.high])


def test_rows_without_both_values_are_left_out() -> None:
    """NaN on one side and infinity on both take a row out; n says so."""
    first = np.array([1.0, np.nan, np.inf, 4.0])
    second = np.array([0.0, 0.0, np.inf, 2.0])
    found = difference_interval(first, second)
    assert (found.n, found.mean) == (2, 1.5)


def test_too_little_has_no_interval() -> None:
    """No value has no mean, and one group says nothing of others."""
    assert mean_interval(np.array([np.nan])) == Interval(
        n=0, groups=0, mean=None, low=None, high=None
    )
    found = mean_interval(np.array([1.0, 3.0]), ["a", "a"])
    assert (found.n, found.groups, found.mean, found.low, found.high) == (2, 1, 2.0, None, None)


def test_lengths_must_fit() -> None:
    """Values that are not paired, and groups of another number, are a ValueError."""
    with pytest.raises(ValueError, match="not paired"):
        difference_interval(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="3 values and 2 groups"):
        mean_interval(np.zeros(3), ["a", "b"])
