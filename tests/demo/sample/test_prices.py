import pytest

from app import page
from prices import total


def test_a_basket_is_summed():
    assert total([("anchor", 2, 1250), ("rope", 1, 499)]) == 2999


def test_an_empty_basket_costs_nothing():
    assert total([]) == 0


def test_negative_counts_are_refused():
    with pytest.raises(ValueError):
        total([("anchor", -1, 1)])


def test_the_shop_answers():
    assert page("/")[1]["total"] == 2999
    assert page("/nowhere")[0] == 404
