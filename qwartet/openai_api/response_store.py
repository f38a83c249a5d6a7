"""Responses kept in memory for a while, so that later requests can refer to them instead of sending them again.

The oldest are dropped to make room for new ones. A response is found only with the API key that it was stored for.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from qwartet.openai_api.error import ApiError
from qwartet.openai_api.protocol import MAX_MESSAGES
from qwartet.openai_api.responses_answer import ResponseObject
from qwartet.openai_api.responses_request import InputItem, InputReference, ResponsesRequest

MAX_ENTRY_BYTES = 4 << 20  # per response; reading and writing more would hold up other requests
_ITEM: TypeAdapter[Any] = TypeAdapter(InputItem)
_Key = tuple[str, str]  # the salt of an API key, and an id


@dataclass(frozen=True)
class _Entry:
    response: bytes  # JSON, as sent
    conversation: bytes  # JSON: the items of the responses that it continues, of its input, and of its output
    items: dict[str, bytes]  # JSON of its output items, by id

    @property
    def num_bytes(self) -> int:
        return len(self.response) + len(self.conversation) + sum(map(len, self.items.values()))


class ResponseStore:
    """Stores at most `max_bytes` of response text; 0 stores nothing. Thread-safe."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._entries: OrderedDict[_Key, _Entry] = OrderedDict()
        self._owners: dict[_Key, _Key] = {}  # responses of output items
        self._num_bytes = 0
        self._lock = threading.Lock()

    def resolve(self, body: ResponsesRequest, salt: str) -> None:
        """Fills in the items that a body refers to; ApiError if one is not stored."""
        earlier, own = [], None
        if body.previous_response_id is not None:
            entry = self._entries.get((salt, body.previous_response_id))
            if entry is None:
                what = f"Previous response with id {body.previous_response_id!r:.80} not found"
                raise self._missing(400, what, "previous_response_id", "previous_response_not_found")
            earlier = [_ITEM.validate_python(item) for item in json.loads(entry.conversation)]
        if isinstance(body.input, list):
            seen: set[str] = set()
            own = [self._item(item, place, salt, seen) for place, item in enumerate(body.input)]
        body.refer(earlier, own, is_stored=body.store is not False and self.max_bytes > 0)
        if len(body.items) > MAX_MESSAGES:
            message = f"the conversation has {len(body.items)} items; at most {MAX_MESSAGES} are allowed"
            raise ApiError(400, message, param="previous_response_id", code="invalid_value")

    def _item(self, item: Any, place: int, salt: str, seen: set[str]) -> Any:
        if not isinstance(item, InputReference):
            return item
        if item.id in seen:  # a short body could refer to a long item a thousand times
            message = f"the item {item.id!r:.80} is referenced twice; reference it once"
            raise ApiError(400, message, param=f"input.{place}", code="invalid_value")
        seen.add(item.id)
        entry = self._entries.get(self._owners.get((salt, item.id), ("", "")))
        if entry is None:
            raise self._missing(400, f"Item with id {item.id!r:.80} not found", f"input.{place}", "item_not_found")
        return _ITEM.validate_python(json.loads(entry.items[item.id]))

    def put(self, body: ResponsesRequest, response: ResponseObject, salt: str) -> None:
        """Stores the response to a body."""
        output = [item.model_dump() for item in response.output]
        entry = _Entry(
            response.model_dump_json().encode(),
            _json([item.model_dump() for item in body.items] + output),
            {item["id"]: _json(item) for item in output},
        )
        if entry.num_bytes > min(self.max_bytes, MAX_ENTRY_BYTES):
            return
        with self._lock:
            while self._num_bytes + entry.num_bytes > self.max_bytes:
                self._remove(next(iter(self._entries)))
            self._entries[salt, response.id] = entry
            self._owners |= {(salt, item_id): (salt, response.id) for item_id in entry.items}
            self._num_bytes += entry.num_bytes

    def get(self, response_id: str, salt: str) -> bytes:
        """The JSON of a response; ApiError 404 if it is not stored."""
        entry = self._entries.get((salt, response_id))
        if entry is None:
            raise self._missing(404, f"Response with id {response_id!r:.80} not found", "response_id", "not_found")
        return entry.response

    def delete(self, response_id: str, salt: str) -> None:
        """Deletes a response; ApiError 404 if it is not stored."""
        self.get(response_id, salt)
        with self._lock:
            if (salt, response_id) in self._entries:
                self._remove((salt, response_id))

    def _remove(self, key: _Key) -> None:
        entry = self._entries.pop(key)
        self._num_bytes -= entry.num_bytes
        for item_id in entry.items:
            del self._owners[key[0], item_id]

    def _missing(self, status: int, what: str, param: str, code: str) -> ApiError:
        why = "it was not stored, or was dropped for newer ones" if self.max_bytes else "no responses are stored here"
        return ApiError(status, f"{what}: {why}; send the items themselves in input", param=param, code=code)


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
