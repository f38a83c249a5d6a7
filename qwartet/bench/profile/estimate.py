"""How long will rows take? From the limits of the machine at first, then corrected by the rows that are done."""

from __future__ import annotations

from qwartet.bench.ceilings import Ceilings
from qwartet.bench.profile.row import Row
from qwartet.bench.profile.settings import ATTENTION_SETTINGS

START_S = 6.0  # of a process that loads a model


class Estimator:
    """Expected seconds of rows on a machine with these ceilings."""

    def __init__(self, ceilings: Ceilings) -> None:
        self._ceilings = ceilings
        self._spent: dict[str, tuple[float, float]] = {}  # attention -> seconds taken, and expected from the limits

    def seconds(self, row: Row) -> float:
        """Of a whole row."""
        taken, expected = self._spent.get(row.attention, (1.0, 1.0))
        return START_S + sum(self._limits(row)) * taken / expected

    def seconds_done(self, row: Row, prompt: int, generated: int) -> float:
        """Of the part of a row that has computed so many tokens of its prompt and generated so many."""
        if not prompt:
            return 0.0
        prefill, decode = self._limits(row)
        share = (prefill * prompt / row.context + decode * generated / row.generate) / (prefill + decode)
        return START_S + (self.seconds(row) - START_S) * share

    def learn(self, row: Row) -> None:
        """Takes note of a measured row."""
        if row.measured is not None:
            taken, expected = self._spent.get(row.attention, (0.0, 0.0))
            self._spent[row.attention] = (taken + row.measured.seconds, expected + sum(self._limits(row)))

    def _limits(self, row: Row) -> tuple[float, float]:
        """Seconds of prefill and of decoding at typical shares of the machine's limits."""
        setting, ceilings = ATTENTION_SETTINGS[row.attention], self._ceilings
        assert row.forecast is not None, "a row that cannot run takes no time"
        prefill, decode = row.forecast.prefill, row.forecast.decode
        peak = ceilings.int8_gop_s if row.precision.startswith("int") else ceilings.bf16_gop_s
        read = ceilings.read_gb_s * 1e9 * setting.decode_share
        prefill_s = max(prefill.operations / (peak * 1e9 * setting.prefill_share), prefill.num_bytes / read)
        return prefill_s, row.generate * decode.num_bytes / read
