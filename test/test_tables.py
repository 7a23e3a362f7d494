"""Tables for a terminal."""

from instaseg_ros.tables import text_table


def test_words_stand_left_as_they_are_and_numbers_right() -> None:
    rows = [("007", 1.25, 12), ("1e3", None, 1234), ("a car", float("nan"), 5)]
    lines = text_table(("name", "over\nms", "n"), rows, ("", ".1f", "d")).splitlines()
    assert [line.split() for line in lines[2:]] == [
        ["007", "1.2", "12"],
        ["1e3", "-", "1234"],
        ["a", "car", "nan", "5"],
    ]
    assert [line.split() for line in lines[:2]] == [["name", "over", "n"], ["ms"]]
    assert len({len(line) for line in lines[2:]}) == 1, "all end with a number, at the same column"
