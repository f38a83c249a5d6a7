"""When a request's tokens arrived, and statistics of many such times.

Times count from the moment at which a request was due, even if the server or the client fell behind.

    TTFT   from then to the first token                 ITL   between two outputs of a request; a step that yields
    TPOT   from the first token to the last, a token          several tokens (speculation) is one output
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

PERCENTILES = (50, 90, 99)


@dataclass
class RequestTimes:
    """One request's times, in seconds after the start."""

    arrival_s: float
    output_s: list[float] = field(default_factory=list)  # of each output with tokens
    num_tokens: int = 0  # of all outputs

    @property
    def ttft_s(self) -> float:
        return self.output_s[0] - self.arrival_s

    @property
    def tpot_s(self) -> float | None:
        """None for a completion of one token."""
        num_later = self.num_tokens - 1
        return (self.output_s[-1] - self.output_s[0]) / num_later if num_later > 0 else None

    @property
    def itl_s(self) -> list[float]:
        return [after - before for before, after in pairwise(self.output_s)]

    @property
    def e2e_s(self) -> float:
        """From the arrival to the last token."""
        return self.output_s[-1] - self.arrival_s


def load_report(times: Sequence[RequestTimes], seconds: float, num_prompt_tokens: int) -> dict[str, Any]:
    """Statistics of the requests answered in `seconds`; plain values, ready for JSON."""
    num_output_tokens = sum(one.num_tokens for one in times)
    return {
        "requests": len(times),
        "seconds": round(seconds, 4),
        "output_tokens": num_output_tokens,
        "output_tok_s": round(num_output_tokens / seconds, 2),
        "total_tok_s": round((num_output_tokens + num_prompt_tokens) / seconds, 2),
        "requests_s": round(len(times) / seconds, 4),
        "ttft_ms": percentiles_ms([one.ttft_s for one in times]),
        "tpot_ms": percentiles_ms([one.tpot_s for one in times if one.tpot_s is not None]),
        "itl_ms": percentiles_ms([gap for one in times for gap in one.itl_s]),
        "e2e_ms": percentiles_ms([one.e2e_s for one in times]),
    }


def percentiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    """The nearest-rank percentiles of some times, in milliseconds; nothing for none."""
    ordered = sorted(seconds)
    if not ordered:
        return {}
    ranks = {share: max(-(-len(ordered) * share // 100) - 1, 0) for share in PERCENTILES}
    return {f"p{share}": round(1000 * ordered[rank], 3) for share, rank in ranks.items()}
