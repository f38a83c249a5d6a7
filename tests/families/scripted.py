"""A tiny Qwen3 whose answers are scripted: what is written is forced, token by token, through the whole engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qwartet import LLM
from qwartet.engine.async_engine import AsyncEngine
from qwartet.engine.request import RequestOptions
from qwartet.openai_api.endpoints import CHAT_PATH, REQUESTS, Endpoints
from qwartet.openai_api.error import ApiError
from qwartet.tokenizer.hf_tokenizer import HfTokenizer
from tests.families.stock import new_model, save
from tests.tokenizer.hf_files import small_content, write_tokenizer
from tests.tokenizer.vocabularies import SMALL_N

CONTEXT = 4096


def write_model(directory: Path, template: str, case: str = "qwen3", **generation: Any) -> Path:
    """A checkpoint of one layer with a tokenizer and a chat template."""
    save(new_model(case, max_position_embeddings=CONTEXT, num_hidden_layers=1), directory)
    write_tokenizer(directory, small_content(), template)
    settings = {"do_sample": False, "eos_token_id": [SMALL_N + 2, SMALL_N], **generation}
    (directory / "generation_config.json").write_text(json.dumps(settings))
    return directory


def load(directory: Path) -> LLM:
    return LLM(directory, device="cpu", dtype="fp32", weight_cache=False)


class Script:
    """Forces the ids of a text, and then the end of the turn."""

    def __init__(self, tokenizer: HfTokenizer, text: str) -> None:
        self.ids = [*tokenizer.encode(text, allowed_special="all"), tokenizer.im_end_id]
        self._num_before: int | None = None  # ids of the prompt

    def __call__(self, logits: Tensor, ids: Sequence[int]) -> Tensor:
        """Logits of a row, given the ids before it."""
        if self._num_before is None:
            self._num_before = len(ids)
        forced = torch.full_like(logits, -torch.inf)
        forced[self.ids[len(ids) - self._num_before]] = 0
        return forced


@contextmanager
def scripted(llm: LLM, text: str) -> Iterator[None]:
    """The next request through the API is answered with this text; its structure is kept to, or it fails."""
    assert isinstance(llm.tokenizer, HfTokenizer)
    options = partial(RequestOptions, logits_processors=(Script(llm.tokenizer, text),), speculates=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qwartet.openai_api.endpoints.RequestOptions", options)
        yield


def answered(llm: LLM, text: str, path: str = CHAT_PATH, **body: Any) -> dict[str, Any]:
    """The answer to a request, given what the model says; ApiError."""

    async def main() -> dict[str, Any]:
        async with AsyncEngine(llm.engine) as engine:
            return await Endpoints(llm, engine, ["model"]).answer(path, body)

    with scripted(llm, text):
        return asyncio.run(main())


def streamed(llm: LLM, text: str, path: str = CHAT_PATH, **body: Any) -> list[dict[str, Any]]:
    """The chunks of the same answer."""

    async def main() -> list[dict[str, Any]]:
        async with AsyncEngine(llm.engine) as engine:
            endpoints = Endpoints(llm, engine, ["model"])
            request = endpoints.parse(REQUESTS[path], {"stream": True, **body})
            async with await endpoints.begin(request, endpoints.prepare(request)) as exchange:
                return [chunk.model_dump(exclude_unset=True) async for group in exchange.chunks() for chunk in group]

    with scripted(llm, text):
        return asyncio.run(main())


def refused(make: Callable[[], Any]) -> ApiError:
    """The error that a call raises."""
    with pytest.raises(ApiError) as caught:
        make()
    return caught.value
