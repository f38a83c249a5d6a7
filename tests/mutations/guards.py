"""The guards of the server, each with the change that removes it and the test that must then fail."""

from __future__ import annotations

from dataclasses import dataclass

SERVER = "qwartet/server/"
API = "qwartet/openai_api/"
FRAMING = "tests/server/test_framing.py::test_sec_08_"
SEC, REL = "tests/server/test_sec_", "tests/server/test_rel_"


@dataclass(frozen=True)
class Guard:
    """A piece of source that occurs exactly once in its file."""

    name: str
    file: str
    source: str
    without: str  # the replacement
    test: str  # node id


GUARDS = (
    # Access
    Guard(
        "the Host header must be a name of this machine",
        SERVER + "guard.py",
        "if self._hosts is not None and (",
        "if False and (",
        SEC + "access.py::test_sec_14_a_local_server_answers_to_its_own_names_alone",
    ),
    Guard(
        "a key is required",
        SERVER + "guard.py",
        "if self._key_hashes and not is_public:",
        "if False:",
        SEC + "access.py::test_sec_13_every_route_but_the_public_ones_wants_a_key_in_every_method",
    ),
    Guard(
        "only exact public paths are public",
        SERVER + "guard.py",
        "is_public = path in PUBLIC or path.startswith(PUBLIC_PREFIX)",
        "is_public = any(path.endswith(one) for one in PUBLIC) or PUBLIC_PREFIX in path",
        SEC + "access.py::test_sec_13_only_a_whole_path_is_public",
    ),
    Guard(
        "the path checked is the one that the router sees",
        SERVER + "guard.py",
        "path = _route_path(scope)",
        'path = scope["path"]',
        SEC + "access.py::test_sec_13_a_root_path_opens_nothing",
    ),
    Guard(
        "keys are compared in constant time",
        SERVER + "guard.py",
        "[hmac.compare_digest(sent, known) for known in self._key_hashes]",
        "[sent == known for known in self._key_hashes]",
        SEC + "access.py::test_sec_12_no_secret_is_compared_with_an_operator",
    ),
    Guard(
        "all keys are compared, even after a match",
        SERVER + "guard.py",
        "matches = [hmac.compare_digest(sent, known) for known in self._key_hashes]",
        "matches = (hmac.compare_digest(sent, known) for known in self._key_hashes)",
        SEC + "access.py::test_sec_12_whatever_is_sent_all_keys_are_compared_in_constant_time",
    ),
    Guard(
        "the scheme must be Bearer",
        SERVER + "guard.py",
        'if scheme.lower() != "bearer" or not any(matches):',
        "if not any(matches):",
        SEC + "access.py::test_sec_12_any_other_key_is_refused_and_not_repeated",
    ),
    Guard(
        "the cache is salted with the key",
        SERVER + "guard.py",
        'scope["state"]["cache_salt"] = self._check_key(headers)',
        "self._check_key(headers)",
        SEC + "isolation.py::test_sec_16_only_the_same_key_finds_what_was_computed",
    ),
    Guard(
        "the salt is part of a block's hash",
        "qwartet/engine/block_manager.py",
        "len(salt)]).tobytes() + salt).digest()",
        "len(salt)]).tobytes()).digest()",
        SEC + "isolation.py::test_sec_16_only_the_same_key_finds_what_was_computed",
    ),
    Guard(
        "a body's content type must be JSON",
        SERVER + "http_body.py",
        'if content_type != "application/json":',
        "if False:",
        SEC + "access.py::test_sec_14_what_a_page_may_send_unasked_is_not_read",
    ),
    Guard(
        "no redirects to the host of a Host header",
        SERVER + "app.py",
        "redirect_slashes=False,",
        "redirect_slashes=True,",
        SEC + "access.py::test_sec_13_no_redirect_leads_to_what_a_host_header_says",
    ),
    # HTTP
    Guard(
        "compressed bodies are rejected",
        SERVER + "http_body.py",
        'not in ("", "identity"):',
        'not in ("", "identity") and False:',
        SEC + "http.py::test_sec_08_a_compressed_body_is_not_unpacked",
    ),
    Guard(
        "a declared length is within the limit",
        SERVER + "http_body.py",
        "if declared.isdigit() and int(declared) > limits.max_body_bytes:",
        "if False:",
        SEC + "http.py::test_sec_08_who_asks_before_sending_is_refused_before",
    ),
    Guard(
        "an undeclared length is within the limit",
        SERVER + "http_body.py",
        "if len(body) + len(part) > limits.max_body_bytes:",
        "if False:",
        SEC + "http.py::test_sec_08_the_limit_of_a_body_holds_to_the_byte_however_it_comes",
    ),
    Guard(
        "a body must arrive in time",
        SERVER + "http_body.py",
        "async with asyncio.timeout(limits.body_timeout_s):",
        "async with asyncio.timeout(None):",
        SEC + "http.py::test_sec_08_a_body_that_comes_slowly_is_answered_and_ends_the_connection",
    ),
    Guard(
        "a body is not read forever after its answer",
        SERVER + "connection.py",
        "self._is_lingering = True\n            self._end_after(LINGER_S)",
        "pass",
        SEC + "http.py::test_sec_08_a_body_that_comes_slowly_is_answered_and_ends_the_connection",
    ),
    Guard(
        "headers must arrive in time",
        SERVER + "connection.py",
        "self._timer = self.loop.call_later(seconds, self.transport.abort)",
        "pass",
        SEC + "http.py::test_sec_08_headers_that_come_slowly_end_the_connection",
    ),
    Guard(
        "the size of headers is limited",
        SERVER + "connection.py",
        "if len(head) > MAX_HEADER_BYTES:",
        "if False:",
        SEC + "http.py::test_sec_08_headers",
    ),
    Guard(
        "the number of headers is limited",
        SERVER + "connection.py",
        'if head.count(b"\\n") > MAX_HEADERS:',
        "if False:",
        SEC + "http.py::test_sec_08_headers",
    ),
    Guard(
        "a request has one length",
        SERVER + "guard.py",
        'if "transfer-encoding" in headers and "content-length" in headers:',
        "if False:",
        SEC + "http.py::test_sec_08_a_request_of_no_certain_length_is_refused_and_nothing_follows",
    ),
    Guard(
        "after a request of two lengths nothing is read",
        SERVER + "json_answer.py",
        'headers["connection"] = "close"',
        "pass",
        SEC + "http.py::test_sec_08_a_request_of_no_certain_length_is_refused_and_nothing_follows",
    ),
    Guard(
        "the number of chunks of a body is limited",
        SERVER + "connection.py",
        "if self.num_chunks > MAX_CHUNKS:",
        "if False:",
        FRAMING + "a_body_in_many_chunks_is_read_up_to_the_limit",
    ),
    Guard(
        "parsing takes turns with other connections",
        SERVER + "connection.py",
        "size = len(self._backlog) if is_plain else BYTES_A_TURN",
        "size = len(self._backlog)",
        FRAMING + "a_body_in_chunks_of_one_byte_stalls_nobody",
    ),
    Guard(
        "data after an early answer is not parsed",
        SERVER + "connection.py",
        'if message["type"] == "http.response.start" and self._is_chunked:',
        "if False:",
        FRAMING + "what_comes_behind_an_early_answer_is_not_parsed",
    ),
    Guard(
        "reading waits for parsing",
        SERVER + "connection.py",
        "if self._is_wanted and not self._is_held:",
        "if self._is_wanted:",
        FRAMING + "a_flood_is_not_read_faster_than_it_is_parsed",
    ),
    Guard(
        "the length of a path is limited",
        SERVER + "guard.py",
        'if len(scope["path"]) > MAX_PATH_CHARS:',
        "if False:",
        SEC + "http.py::test_sec_08_odd_requests_are_answered",
    ),
    Guard(
        "ranges are not served",
        SERVER + "app.py",
        'if pair[0] != b"range"',
        "if True",
        SEC + "http.py::test_sec_08_a_range_of_many_parts_is_the_whole_file_at_once",
    ),
    Guard(
        "the number of connections is limited",
        SERVER + "guard.py",
        "if self._num_open > self._service.limits.max_connections and not is_public:",
        "if False:",
        SEC + "http.py::test_sec_08_more_connections_than_the_limit_are_told_so_and_health_is_served",
    ),
    # The contents of a body
    Guard(
        "numbers are finite",
        API + "json_body.py",
        "parse_float=_finite_float, parse_constant=_refuse_constant",
        "",
        SEC + "fields.py::test_sec_07_what_is_no_json_is_told_so",
    ),
    Guard(
        "deeply nested JSON is rejected",
        API + "json_body.py",
        "except RecursionError:",
        "except ZeroDivisionError:",
        SEC + "fields.py::test_sec_07_what_is_no_json_is_told_so",
    ),
    Guard(
        "the number of values in JSON is limited",
        SERVER + "http_body.py",
        "if num_marks > MAX_JSON_MARKS:",
        "if False:",
        SEC + "bombs.py::test_sec_09_a_body_of_very_many_values_is_refused_soon_and_in_little_memory",
    ),
    Guard(
        "the number of errors per body is limited",
        API + "error.py",
        "if error.error_count() > MAX_ERRORS:",
        "if False:",
        SEC + "bombs.py::test_sec_09_of_very_many_errors_only_the_number_is_told",
    ),
    Guard(
        "the length of an error message is limited",
        API + "error.py",
        "self.message = _shortened(message, MAX_MESSAGE_CHARS)",
        "self.message = message",
        SEC + "fields.py::test_sec_07_what_is_too_much_is_refused_by_name",
    ),
    Guard(
        "unknown fields are rejected",
        API + "object.py",
        'extra="forbid"',
        'extra="ignore"',
        SEC + "fields.py::test_sec_05_a_request_brings_no_template",
    ),
    Guard(
        "types are not converted",
        API + "object.py",
        "strict=True",
        "strict=False",
        SEC + "fields.py::test_sec_07_values_of_another_type_are_not_converted",
    ),
    Guard(
        "the number of completions per request is limited",
        SERVER + "service.py",
        "if num_completions > self.limits.max_completions:",
        "if False:",
        SEC + "fields.py::test_sec_06_too_many_completions_are_refused_before_anything_is_allocated",
    ),
    Guard(
        "a text that cannot fit is not tokenised",
        API + "prepare.py",
        "if body.num_chars > most:",
        "if False:",
        SEC + "bombs.py::test_sec_09_a_text_of_one_thing_over_and_over_is_answered_soon_and_stalls_nobody",
    ),
    Guard(
        "ids must be token ids",
        API + "token_ids.py",
        "wrong = next((one for one in request.tokens if not 0 <= one < tokenizer.num_tokens), None)",
        "wrong = None",
        SEC + "bombs.py::test_sec_09_ids_without_end_are_not_turned_into_text",
    ),
    Guard(
        "special tokens in text stay text",
        "qwartet/tokenizer/chatml.py",
        "return tokenizer.encode(message.content, allowed_special=())",
        'return tokenizer.encode(message.content, allowed_special="all")',
        SEC + "text.py::test_sec_19_no_content_opens_or_closes_a_turn",
    ),
    Guard(
        "the size of a regex is limited",
        "qwartet/engine/structure_limits.py",
        '_check_size("regex", len(regex.encode()), MAX_REGEX_BYTES, "bytes")',
        "pass",
        "tests/engine/test_structure.py::test_a_regex_or_choice_at_a_limit_is_taken_and_one_above_it_refused",
    ),
    Guard(
        "nothing is fetched for a schema",
        "qwartet/engine/structure_limits.py",
        'if not reference.startswith("#"):',
        "if False:",
        "tests/engine/test_structure.py::test_an_ill_formed_schema_is_refused_with_a_reason",
    ),
    Guard(
        "links out of the page's folder are not followed",
        SERVER + "app.py",
        "_Static(directory=STATIC)",
        "_Static(directory=STATIC, follow_symlink=True)",
        SEC + "access.py::test_sec_15_nothing_but_the_pages_own_files_is_given_out",
    ),
    # Answers and logs
    Guard(
        "every answer has the headers that protect a browser",
        SERVER + "guard.py",
        "out.setdefault(name, value)",
        "pass",
        SEC + "access.py::test_sec_21_every_answer_forbids_foreign_scripts",
    ),
    Guard(
        "paths are escaped in the log",
        SERVER + "guard.py",
        'ascii(scope["path"])[:200]',
        'scope["path"][:200]',
        SEC + "logs.py::test_sec_18_nothing_that_is_sent_can_write_a_line_of_the_log",
    ),
    Guard(
        "log lines contain no terminal control characters",
        "qwartet/cli/serve.py",
        "return inert(super().format(record))",
        "return super().format(record)",
        SEC + "logs.py::test_sec_18_what_the_log_writes_steers_no_terminal",
    ),
    Guard(
        "request ids are harmless",
        SERVER + "guard.py",
        "if _REQUEST_ID.fullmatch(asked_id)",
        "if asked_id",
        SEC + "logs.py::test_sec_18_a_request_id_is_taken_over_only_where_it_is_harmless",
    ),
    Guard(
        "an unexpected error has a fixed message",
        API + "error.py",
        'code="not_finite")\n    return internal_error()',
        'code="not_finite")\n    return ApiError(500, str(error), code="internal_error")',
        "tests/server/test_error_texts.py::test_sec_17_whatever_fails_its_text_is_told_to_nobody",
    ),
    Guard(
        "a full log queue drops lines",
        SERVER + "stderr.py",
        "if self._num_waiting_bytes + len(raw) > self._max_waiting_bytes:",
        "if False:",
        "tests/server/test_stderr.py::test_whoever_writes_never_waits_and_what_is_lost_is_counted",
    ),
    Guard(
        "unsupported fields that would change the answer are rejected inside messages too",
        API + "object.py",
        "return name in _REFUSED_INSIDE and",
        "return False and",
        "tests/openai_api/test_passed_over.py::test_what_would_change_the_answer_is_refused_by_its_name_wherever_it_stands",
    ),
    Guard(
        "messages of unexpected errors are not logged",
        API + "log.py",
        "return [type(error).__name__, *(",
        "return [str(error), *(",
        SEC + "logs.py::test_sec_17_a_failure_anywhere_tells_nobody_what_it_was_about",
    ),
    Guard(
        "no error leaves the application with its message",
        SERVER + "guard.py",
        'raise ConnectionAbortedError("a response was cut off; see above") from None',
        "raise",
        SEC + "logs.py::test_sec_17_a_failure_anywhere_tells_nobody_what_it_was_about",
    ),
    # Faults
    Guard(
        "the length of the queue is limited",
        SERVER + "service.py",
        "if self._num_admitted + num_completions > max(",
        "if False and self._num_admitted > max(",
        REL + "faults.py::test_rel_03_exactly_those_beyond_the_queue_are_refused",
    ),
    Guard(
        "a disconnected client is not answered",
        SERVER + "answering.py",
        "await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)",
        "await asyncio.wait({work})",
        REL + "faults.py::test_rel_01_after_a_storm_of_cancellations_the_next_request_is_served",
    ),
    Guard(
        "a client that reads nothing is disconnected",
        SERVER + "answering.py",
        "lambda: limit.reschedule(0)",
        "lambda: None",
        REL + "faults.py::test_rel_13_who_does_not_read_loses_the_connection_and_the_others_go_on",
    ),
    Guard(
        "silent streams send keep-alives",
        SERVER + "answering.py",
        "if body or is_silent:",
        "if body:",
        REL + "faults.py::test_a_silent_stream_shows_signs_of_life",
    ),
    Guard(
        "a stream that breaks says so",
        SERVER + "answering.py",
        "await write(_event(self._exchange.broken_off(self._told(error))))",
        "self._told(error)",
        REL + "faults.py::test_rel_05_an_error_in_a_step_is_told_to_every_stream",
    ),
    Guard(
        "a stream has an end",
        SERVER + "answering.py",
        'await write(b"" if self._exchange.is_response else DONE, more=False)',
        'await write(b"", more=False)',
        "tests/server/test_http_answers.py::test_rel_14_no_piece_of_a_stream_ends_inside_a_character",
    ),
    Guard(
        "a response that breaks off ends with response.failed",
        "qwartet/openai_api/exchange.py",
        "return self._chunks.failure(error)",
        "return error.to_object()",
        "tests/server/test_http_responses.py::test_a_stream_that_breaks_off_ends_with_response_failed",
    ),
    Guard(
        "stored responses take bounded memory",
        "qwartet/openai_api/response_store.py",
        "while self._num_bytes + entry.num_bytes > self.max_bytes:",
        "while False:",
        "tests/server/test_http_responses.py::test_the_oldest_responses_make_room_and_the_memory_is_bounded",
    ),
    Guard(
        "a response larger than the store evicts nothing",
        "qwartet/openai_api/response_store.py",
        "if entry.num_bytes > min(self.max_bytes, MAX_ENTRY_BYTES):",
        "if False:",
        "tests/server/test_http_responses.py::test_the_oldest_responses_make_room_and_the_memory_is_bounded",
    ),
    Guard(
        "an engine that has failed is not ready",
        SERVER + "service.py",
        'return "ready" if self._endpoints.engine.is_healthy else "failed"',
        'return "ready"',
        REL + "faults.py::test_rel_05_an_error_in_a_step_is_told_to_every_stream",
    ),
    Guard(
        "a stopping server accepts no new requests",
        SERVER + "service.py",
        "if self._is_draining:",
        "if False:",
        REL + "faults.py::test_rel_10_health_while_loading_ready_failed_and_draining",
    ),
)
