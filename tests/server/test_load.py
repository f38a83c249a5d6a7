"""REL-11: 64 clients for two minutes; some disconnect, send nonsense, or hit an injected error."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import time
from collections import Counter
from typing import Any

import httpx
import pytest

from qwartet import LLM
from qwartet.openai_api.chunks import ChatChunks
from qwartet.server.limits import Limits
from tests.server.running_server import RunningServer, wait_for

NUM_CLIENTS = 64
SECONDS = float(os.environ.get("QWARTET_LOAD_SECONDS", "120"))
QUERIES = [f"What is {number} + {number + 3}?" for number in range(20)]
POISON = "an error is put in the way of this"


def body(query: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": query}], "temperature": 0, "max_tokens": 30, **fields}


@pytest.mark.slow
def test_rel_11_a_load_with_faults_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks_of = ChatChunks.of

    def poisoned(self: ChatChunks, index: int, output: Any) -> Any:
        if output.request.params.seed == 666:
            raise ValueError(POISON)
        return chunks_of(self, index, output)

    monkeypatch.setattr(ChatChunks, "of", poisoned)
    monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)  # pytest would keep every line
    # A client that left still counts until the server notices, and another already asks in its place.
    limits = Limits(max_queue=2 * NUM_CLIENTS, queue_timeout_s=500, request_timeout_s=500)
    # A cache that is soon in use as a whole: pages that nobody has written to take no memory.
    llm = LLM(device="cpu", max_model_len=768, num_blocks=256)
    with RunningServer(llm, limits=limits) as server:
        alone = {query: server.chat(**body(query)).json()["choices"][0]["message"]["content"] for query in QUERIES}
        clients = Clients(server, alone)
        asyncio.run(clients.run(min(SECONDS, 20)))  # what is made once is made now
        wait_for(server.is_idle)
        before = footprint(server)
        asyncio.run(clients.run(SECONDS))
        wait_for(server.is_idle)
        after = footprint(server)
    seen = clients.seen
    assert seen["wrong"] == 0, clients.first_wrong
    assert not [kind for kind in seen if kind.startswith("status 5")], seen
    assert min(seen[kind] for kind in ("whole", "stream", "left", "nonsense", "poisoned")) > 10, seen
    assert after["tasks"] <= before["tasks"] and after["descriptors"] <= before["descriptors"], (before, after)
    assert after["rss"] < before["rss"] * 1.05 + (8 << 20), (before, after)


def footprint(server: RunningServer) -> dict[str, int]:
    """Resources that the process holds once its connections are closed."""
    wait_for(lambda: server.call(lambda: server.num_connections) == 0, 15)
    with open("/proc/self/statm") as statm:
        rss = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    tasks = server.call(lambda: len(asyncio.all_tasks()))
    return {"rss": rss, "tasks": tasks, "descriptors": len(os.listdir("/proc/self/fd"))}


class Clients:
    def __init__(self, server: RunningServer, alone: dict[str, str]) -> None:
        self._url, self._alone = f"{server.url}/v1/chat/completions", alone
        self.seen: Counter[str] = Counter()
        self.first_wrong = ""

    async def run(self, seconds: float) -> None:
        end_s = time.monotonic() + seconds
        # No connection is used again that the server may just be closing.
        limits = httpx.Limits(max_connections=NUM_CLIENTS, keepalive_expiry=Limits().keep_alive_s / 2)
        async with httpx.AsyncClient(timeout=300, limits=limits) as client:
            await asyncio.gather(*(self._client(client, number, end_s) for number in range(NUM_CLIENTS)))

    async def _client(self, client: httpx.AsyncClient, number: int, end_s: float) -> None:
        rng = random.Random(number)
        while time.monotonic() < end_s:
            query = rng.choice(QUERIES)
            kind = rng.choices(["whole", "stream", "left", "nonsense", "poisoned"], [4, 4, 2, 1, 1])[0]
            if kind == "whole":
                answer = await client.post(self._url, json=body(query))
                text = answer.json()["choices"][0]["message"]["content"] if answer.status_code == 200 else None
                self._check(answer.status_code, text, query)
            elif kind == "nonsense":
                answer = await client.post(self._url, json=body(query, temperature=rng.choice([-1, "hot", [], None])))
                self.seen[f"status {answer.status_code}"] += answer.status_code not in (200, 400)
            else:
                await self._stream(client, query, kind, rng)
            self.seen[kind] += 1

    async def _stream(self, client: httpx.AsyncClient, query: str, kind: str, rng: random.Random) -> None:
        fields = {"stream": True, **({"seed": 666} if kind == "poisoned" else {})}
        if kind == "left":
            fields |= {"ignore_eos": True, "max_tokens": 500}
        text, last, leave_at = "", "", rng.randrange(1, 12)
        async with client.stream("POST", self._url, json=body(query, **fields)) as response:
            async for line in response.aiter_lines():
                if kind == "left" and (leave_at := leave_at - 1) < 0:
                    return
                if line.startswith("data: {"):
                    chunk = json.loads(line[6:])
                    if "error" in chunk:
                        if kind != "poisoned" or chunk["error"]["code"] != "internal_error":
                            self._wrong(f"{kind} {query}: {line}")
                    else:
                        text += chunk["choices"][0]["delta"].get("content") or ""
                last = line or last
        if last != "data: [DONE]":
            self._wrong(f"{kind} {query}: status {response.status_code}, {text!r}, ends with {last!r}")
        if kind == "stream":
            self._check(response.status_code, text, query)

    def _check(self, status: int, text: str | None, query: str) -> None:
        self.seen[f"status {status}"] += status != 200
        if status == 200 and text != self._alone[query]:
            self._wrong(f"{query}: {text!r} under load, {self._alone[query]!r} alone")

    def _wrong(self, what: str) -> None:
        self.seen["wrong"] += 1
        self.first_wrong = self.first_wrong or what
