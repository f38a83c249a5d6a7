"""/openapi.json is accurate: what it allows is answered as declared, what it forbids is rejected; never a 5xx."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import jsonschema_rs  # what schemathesis validates with
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from qwartet import LLM
from qwartet.server.access import Access
from qwartet.server.app import make_app
from qwartet.server.limits import Limits
from qwartet.server.service import Service
from tests.server.running_server import RunningServer, wait_for

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
MAX_TOKENS = 4
USUAL = 30  # the same ones every time; `make fuzz-http` tries others, and many
NUM_EXAMPLES = int(os.environ.get("QWARTET_FUZZ_EXAMPLES", USUAL))
SCHEMA = schemathesis.openapi.from_dict(make_app(Service(Limits()), Access(), has_page=False).openapi())
OPERATIONS = {operation.ok().label: operation.ok() for operation in SCHEMA.get_all_operations()}
POSTS = [label for label in OPERATIONS if label.startswith("POST")]


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with RunningServer(LLM(device="cpu")) as running:
        yield running
        wait_for(running.is_idle)
        assert running.chat().status_code == 200


def shortened(body: Any, label: str) -> Any:
    """The body with max_tokens capped."""
    if not isinstance(body, dict) or label.endswith("tokenize"):
        return body
    names = ("max_output_tokens",) if label.endswith("/v1/responses") else ("max_tokens", "max_completion_tokens")
    changes = {name: MAX_TOKENS for name in names if isinstance(body.get(name), int) and body[name] > MAX_TOKENS}
    if all(body.get(name) is None for name in names):
        changes[names[0]] = MAX_TOKENS
    return {**body, **changes}


def assert_is_error_object(answer: Any) -> None:
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"] and isinstance(error["message"], str) and len(error["message"]) < 700
    assert error["type"] in ("invalid_request_error", "authentication_error", "permission_error")
    assert error["param"] is None or isinstance(error["param"], str)
    assert isinstance(error["code"], str)


def is_allowed(label: str, body: Any) -> bool:
    """Whether the schema allows a body, by an implementation independent of the server's."""
    operation = SCHEMA.raw_schema["paths"][label.removeprefix("POST ")]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    whole = {**schema, "components": SCHEMA.raw_schema["components"]}
    return bool(jsonschema_rs.validator_for(whole).is_valid(body))


def check(server: RunningServer, label: str, mode: GenerationMode) -> None:
    @given(case=OPERATIONS[label].as_strategy(generation_mode=mode))
    @settings(
        max_examples=NUM_EXAMPLES,
        deadline=None,
        database=None,
        derandomize=NUM_EXAMPLES == USUAL,
        suppress_health_check=list(HealthCheck),
    )
    def holds(case: schemathesis.Case) -> None:
        case.body = shortened(case.body, label)
        answer = case.call(base_url=server.url)
        case.validate_response(answer, checks=CHECKS)
        if mode is GenerationMode.NEGATIVE:
            # Not schemathesis' own check: a value invalid for one member of a union may be valid for another.
            assert answer.status_code >= 400 or is_allowed(label, case.body)
        if answer.status_code >= 300:
            assert_is_error_object(answer)

    holds()


@pytest.mark.parametrize("label", OPERATIONS)
def test_what_the_schema_allows_is_answered_as_it_says(server: RunningServer, label: str) -> None:
    check(server, label, GenerationMode.POSITIVE)


@pytest.mark.parametrize("label", POSTS)
def test_what_the_schema_forbids_is_refused(server: RunningServer, label: str) -> None:
    check(server, label, GenerationMode.NEGATIVE)


def test_only_what_can_be_answered_is_described() -> None:
    schema = SCHEMA.raw_schema
    answers = {
        status for operations in schema["paths"].values() for one in operations.values() for status in one["responses"]
    }
    assert "422" not in answers and not {"HTTPValidationError", "ValidationError"} & set(
        schema["components"]["schemas"]
    )
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses"):
        content = schema["paths"][path]["post"]["responses"]["200"]["content"]
        assert set(content) == {"application/json", "text/event-stream"}


def test_every_route_that_is_served_is_described() -> None:
    answered = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/tokenize", "/detokenize")
    assert set(POSTS) == {f"POST {path}" for path in answered}
    described = {"/v1/models", "/v1/models/{name}", "/health", "/health/live", "/health/ready", "/metrics", "/version"}
    described |= {"/tokenizer_info", "/v1/responses/{response_id}"}
    assert {label.removeprefix("GET ") for label in OPERATIONS if label.startswith("GET")} == described
