"""What a needle run is made of."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qwartet.errors import SettingError
from qwartet.evaluate.data.files import read_text
from qwartet.evaluate.filler.prose import Language
from qwartet.files import sha256_of

CARD_LENGTHS = (1024, *range(4096, 32769, 4096))  # the lengths of the published picture
MAX_CELLS = 10_000


def evenly(count: int) -> tuple[int, ...]:
    """So many depths from 0 to 100 per cent, as the published harness spaces them."""
    if count < 1:
        raise SettingError(f"--needle-depths is {count}; it must be at least 1", param="needle_depths")
    return tuple(dict.fromkeys(round(100 * n / (count - 1)) for n in range(count))) if count > 1 else (50,)


@dataclass(frozen=True)
class OwnNeedle:
    """A needle of the user's."""

    text: str
    question: str
    answer: str  # what an answer has to contain


@dataclass(frozen=True)
class NeedleSettings:
    """Lengths x depths x needles, in which language, and in what."""

    lengths: tuple[int, ...] = CARD_LENGTHS  # tokens of prompt and answer together
    depths: tuple[int, ...] = evenly(10)  # per cent of the hay before the needle
    needles: int = 1  # for each length and depth, each in other hay
    language: Language = "en"  # of needle and question
    hay: Language | Path | None = None  # prose of a language, or a text file; None: prose of `language`
    buffer: int = 200  # tokens of each length that question and answer take
    own: OwnNeedle | None = None

    def __post_init__(self) -> None:
        if not self.lengths or not self.depths:
            raise SettingError("a needle run needs at least one length and one depth", param="needle_lengths")
        if wrong := [depth for depth in self.depths if not 0 <= depth <= 100]:
            raise SettingError(f"--needle-depths has {wrong[0]}; it must be between 0 and 100", param="needle_depths")
        if self.needles < 1:
            raise SettingError(f"--needles is {self.needles}; it must be at least 1", param="needles")
        num_cells = len(self.lengths) * len(self.depths) * self.needles
        if num_cells > MAX_CELLS:
            raise SettingError(f"{num_cells:,} needle questions exceed the limit of {MAX_CELLS:,}; use fewer depths")
        if self.own is not None and not all(text.strip() for text in asdict(self.own).values()):
            raise SettingError("a needle needs a text, a question and an answer; pass all three", param="needle_text")

    @property
    def hay_language(self) -> Language | None:
        """None for a text file."""
        if isinstance(self.hay, Path):
            return None
        return self.hay or self.language

    def hay_text(self) -> str:
        """The text of the user's hay file; DataError where it cannot be read."""
        assert isinstance(self.hay, Path), "prose is not read"
        return read_text(self.hay)

    def to_dict(self) -> dict[str, Any]:
        """As JSON; a hay file by its hash."""
        values = asdict(self)
        values["hay"] = sha256_of(self.hay) if isinstance(self.hay, Path) else self.hay_language
        return {**values, "lengths": list(self.lengths), "depths": list(self.depths)}
