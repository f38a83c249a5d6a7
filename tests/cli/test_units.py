"""Numbers that people write and read."""

from __future__ import annotations

import pytest

from qwartet.cli.units import format_bytes, format_count, parse_count
from qwartet.errors import SettingError


@pytest.mark.parametrize(
    ("text", "count"),
    [("1", 1), ("4096", 4096), ("32k", 32_000), ("32K", 32_768), ("1.5k", 1500), ("1m", 1_000_000), ("1M", 1 << 20)],
)
def test_a_small_letter_counts_in_thousands_and_a_capital_in_1024s(text: str, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "k", "0", "-1", "1.5", "0.0001k", "32kk", "32 k", "1e3", "٣", "9" * 20, "inf"])
def test_what_is_no_whole_number_is_refused_with_the_spelling(text: str) -> None:
    with pytest.raises(SettingError, match="write 4096, 32k"):
        parse_count(text)


def test_sizes_have_three_digits() -> None:
    sizes = (0, 999, 1024, 5 << 20, 999 << 20, 41 << 30, 3 << 50)
    assert [*map(format_bytes, sizes)] == ["0 B", "999 B", "1.0 KiB", "5.0 MiB", "999 MiB", "41.0 GiB", "3072 TiB"]


def test_counts_have_a_unit() -> None:
    assert [*map(format_count, (0, 999, 1500, 3_200_000, 72_287_920_128))] == ["0", "999", "1.5 k", "3.2 M", "72.3 B"]
