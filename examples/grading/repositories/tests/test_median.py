import pytest
from median import median


def test_the_median_of_one_number_is_that_number():
    assert median([7]) == 7


def test_the_median_of_an_odd_count_is_the_middle_one():
    assert median([3, 1, 2]) == 2


def test_the_median_of_an_even_count_is_halfway_between_the_middle_two():
    assert median([4, 1, 2, 3]) == 2.5


def test_nothing_has_no_median():
    with pytest.raises(ValueError):
        median([])
