"""SEC-16: users share nothing computed: no cache blocks, no keys or values, no hints in answers."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qwartet import LLM
from qwartet.engine import block_manager
from qwartet.engine.sampling_params import SamplingParams
from qwartet.server.access import Access
from tests.server.attack import CHAT
from tests.server.running_server import RunningServer, wait_for

ANNE, BERT = "key-of-anne-0123", "key-of-bert-0123"
SECRET = [{"role": "user", "content": "Anne's long secret is told here, word by word. " * 6}]


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with RunningServer(LLM(device="cpu"), access=Access(api_keys=[ANNE, BERT])) as running:
        yield running


def ask(server: RunningServer, key: str, **body: Any) -> dict[str, Any]:
    body = {"messages": SECRET, "temperature": 0, "max_tokens": 4, **body}
    return dict(server.post(CHAT, headers={"Authorization": f"Bearer {key}"}, **body).json())


def num_cached(answer: dict[str, Any]) -> int:
    return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])


def test_sec_16_only_the_same_key_finds_what_was_computed(server: RunningServer) -> None:
    assert num_cached(ask(server, ANNE)) == 0
    assert num_cached(ask(server, ANNE)) > 32
    assert num_cached(ask(server, BERT)) == 0, "else the time to first token reveals what Anne has asked"
    assert num_cached(ask(server, BERT)) > 32


@given(
    salts=st.lists(st.binary(max_size=40), min_size=2, max_size=2, unique=True),
    numbers=st.tuples(st.integers(0, 3), st.integers(0, 40)),
)
def test_sec_16_no_salt_can_be_written_as_another_one(salts: list[bytes], numbers: tuple[int, int]) -> None:
    root = block_manager.prefix_root
    assert root(salts[0], *numbers) != root(salts[1], *numbers)
    assert root(salts[0], *numbers) != root(salts[0], numbers[0] + 1, numbers[1])
    # Bytes appended to a salt must not pass for another field.
    assert root(salts[0], *numbers) != root(salts[0] + bytes(8), *numbers)


def test_sec_16_a_block_is_known_by_a_hash_that_nobody_can_forge(monkeypatch: pytest.MonkeyPatch) -> None:
    """SHA-256 over all preceding ids. With a colliding hash, the test sees blocks of others being found."""

    def cached_tokens_of_another_prompt() -> int:
        llm = LLM(device="cpu")
        for prompt in ([100] * 64, [101] * 64):
            request = llm.engine.add_request(prompt, SamplingParams(max_tokens=1, temperature=0))
            while not request.is_finished:
                llm.engine.step()
        return request.num_cached_tokens

    assert block_manager.sha256 is hashlib.sha256
    assert cached_tokens_of_another_prompt() == 0
    monkeypatch.setattr(block_manager, "sha256", lambda _: hashlib.sha256(b"weak"))
    assert cached_tokens_of_another_prompt() > 0


def poison_free_blocks(server: RunningServer) -> None:
    """Overwrites free cache blocks with NaN, so that any result that reads one is NaN."""
    blocks = server.llm.engine.block_manager
    free = torch.tensor(sorted(blocks._free))
    for layer in server.llm.engine.runner.cache.layers:
        for stored in (layer.keys, layer.values):
            assert stored.dtype.is_floating_point
            stored[free] = float("nan")


BODIES = [
    {"temperature": 0},
    {"temperature": 1, "seed": 5, "n": 2},
    {"temperature": 0, "logprobs": True, "top_logprobs": 3},
]


@pytest.mark.parametrize("body", BODIES, ids=["greedy", "sampled", "with logprobs"])
def test_sec_16_an_answer_is_the_same_whoever_else_asks_and_whatever_blocks_held_before(
    server: RunningServer, body: dict[str, Any]
) -> None:
    wait_for(server.is_idle)
    alone = ask(server, ANNE, max_tokens=16, **body)["choices"]

    async def main() -> list[Any]:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:

            async def one(key: str, text: str, **settings: Any) -> Any:
                content = [{"role": "user", "content": text}]
                return await client.post(
                    CHAT,
                    headers={"Authorization": f"Bearer {key}"},
                    json={"messages": content, "max_tokens": 16, **settings},
                )

            anne = one(ANNE, SECRET[0]["content"], **body)
            others = [one(BERT, SECRET[0]["content"] + str(i), temperature=2.0, seed=i) for i in range(7)]
            found = await asyncio.gather(*others[:3], anne, *others[3:])
            return [found[3].json()["choices"], *(other.status_code for other in found if other is not found[3])]

    beside = asyncio.run(main())
    assert beside == [alone, *[200] * 7]
    wait_for(server.is_idle)
    # All blocks are free now: forget their contents, so that none is reused, and fill them with NaN.
    manager = server.llm.engine.block_manager
    for block in list(manager._hash_of):
        manager._forget_content(block)
    poison_free_blocks(server)
    again = ask(server, ANNE, max_tokens=16, **body)
    assert num_cached(again) == 0
    assert again["choices"] == alone


def test_sec_16_the_poison_is_deadly(server: RunningServer) -> None:
    """NaN blocks do change an answer that reads them, so the previous test would notice."""
    first = ask(server, ANNE)
    wait_for(server.is_idle)
    poison_free_blocks(server)
    assert ask(server, ANNE) != first
    manager = server.llm.engine.block_manager
    for block in list(manager._hash_of):
        manager._forget_content(block)
    assert ask(server, ANNE)["choices"] == first["choices"]


def test_sec_16_a_clients_own_salt_is_no_field(server: RunningServer) -> None:
    for field in ("cache_salt", "prefix_cache", "session_id", "request_id", "conv_id", "slot_id", "cache_prompt"):
        answer = ask(server, BERT, **{field: ANNE})
        assert answer["error"]["param"] == field
