import numpy as np
import pandas as pd
import pytest

from catalogpose.quality.pairs import METRICS
from catalogpose.quality.summary import histogram, spread, worst_first


def test_known_numbers() -> None:
    """Mean, median and quantiles of 0 .. 100 are what one expects."""
    found = spread(np.arange(101.0))
    assert (found.n, found.mean, found.median) == (101, 50.0, 50.0)
    shares = {"p00": 0.0, "p05": 5.0, "p25": 25.0, "p75": 75.0, "p95": 95.0, "p100": 100.0}
    assert dict(found.quantiles) == shares


def test_the_interval_is_that_of_the_mean() -> None:
    """For 400 normal values the interval is near mean ± 1.96 standard errors."""
    values = np.random.default_rng(3).normal(10, 2, 400)
    found = spread(values)
    error = 1.96 * values.std() / 20
    assert found.low == pytest.approx(values.mean() - error, abs=0.03)
    assert found.high == pytest.approx(values.mean() + error, abs=0.03)


def test_the_interval_repeats() -> None:
    """The same values give the same interval: the draws have a fixed seed."""
    values = np.random.default_rng(4).random(30)
    assert spread(values) == spread(values)


def test_rows_of_one_product_are_not_independent() -> None:
    """Ten copies of each value do not make the mean surer when they are one group."""
    values = np.random.default_rng(5).random(12)
    alone, copied = spread(values), spread(values.repeat(10), list("abcdefghijkl" * 10))
    grouped = spread(values.repeat(10), [name for name in "abcdefghijkl" for _ in range(10)])
    assert copied.groups == grouped.groups == 12
    assert grouped.low == pytest.approx(alone.low)
    assert grouped.high == pytest.approx(alone.high)


def test_holes_and_infinities_are_left_out() -> None:
    """NaN is no value; infinity is counted but not averaged."""
    found = spread(np.array([1.0, np.nan, np.inf, 3.0]))
    assert (found.n, found.infinite, found.mean) == (2, 1, 2.0)


@pytest.mark.parametrize("values", [[], [np.nan], [np.inf]])
def test_nothing_is_none(values: list[float]) -> None:
    """Without a finite value there is no mean, no interval and no quantile."""
    found = spread(np.array(values))
    assert (found.n, found.groups, found.mean, found.low, found.median) == (0, 0, None, None, None)
    assert found.quantiles == {}
    assert histogram(np.array(values)) == ()


def test_one_group_has_no_interval() -> None:
    """One value, or one product, says nothing about the spread of others."""
    assert spread(np.array([4.0])).low is None
    assert spread(np.array([4.0, 5.0]), ["a", "a"]).high is None


def test_histogram_counts() -> None:
    """The fullest bin is 1 and the others are in proportion; equal values still make a bar."""
    assert histogram(np.array([0.0, 0.0, 1.0, np.inf]), bins=2) == (1.0, 0.5)
    assert sum(histogram(np.array([0.3, np.nextafter(0.3, 1)]))) == 1.0


def test_worst_row_first() -> None:
    """A row bad in every metric comes first and one without a score last."""
    names = [metric.name for metric in METRICS]
    rows = [
        [0.9, 30.0, 1.0, 0.1, 0.9],
        [np.nan] * 5,
        [0.2, 9.0, 20.0, 0.8, 0.1],
        [0.5, 20.0, np.nan, 0.3, 0.5],
    ]
    rows = [[*row, *[np.nan] * (len(names) - 5)] for row in rows]
    assert list(worst_first(pd.DataFrame(rows, columns=names))) == [2, 3, 0, 1]


def test_the_order_of_equals_is_kept() -> None:
    """Rows of equal scores stay in the manifest's order."""
    table = pd.DataFrame(0.5, index=range(40), columns=[metric.name for metric in METRICS])
    assert list(worst_first(table)) == list(range(40))
