"""Templates that loop, allocate or look for a way out end soon, with an error, in little memory."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from qwartet.errors import ChatTemplateError
from qwartet.tokenizer.templates.template import ChatTemplate

MESSAGES = [{"role": "user", "content": "hello " * 200}, {"role": "assistant", "content": "yes"}]
MAX_SECONDS = 10.0  # of processor time; the worst takes half a second
MAX_BYTES = 100 << 20

DOUBLING = "{% set ns = namespace(v='xy') %}{% for i in range(99) %}{% set ns.v = ns.v + ns.v %}{% endfor %}"
NESTING = "{% set ns = namespace(v=['x']) %}{% for i in range(35) %}{% set ns.v = [ns.v, ns.v] %}{% endfor %}"
DEEP = NESTING.replace("range(35)", "range(5000)").replace("[ns.v, ns.v]", "[ns.v]")
LONG = "{% set long = 'ab' * 400000 %}"
TEN_LOOPS = "".join(f"{{% for i{n} in range(10000) %}}" for n in range(10)) + "{% endfor %}" * 10

HOSTILE = {
    # Loops
    "range": "{% for i in range(10 ** 9) %}{% endfor %}",
    "range of a huge step": "{{ range(-(2 ** 70), 2 ** 70) }}",
    "nested loops": TEN_LOOPS,
    "loop without a body": "{% for i in range(90000) %}{% for j in range(90000) if false %}{% endfor %}{% endfor %}",
    "loop over characters": LONG + "{% for a in long %}{% for b in long %}{% endfor %}{% endfor %}",
    "recursive loop": "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "macro that calls itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "macro that calls itself twice": "{% macro m() %}{{ m() ~ m() }}{% endmacro %}{{ m() }}",
    "two macros that call each other": (
        "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}"
    ),
    "macro with itself as default": "{% macro m(x=m()) %}{% endmacro %}{{ m() }}",
    "caller": "{% macro m() %}{{ caller() }}{% endmacro %}{% call m() %}{{ m.caller() }}{% endcall %}",
    "map in map": "{{ range(9999) | map('string') | map('list') | map('join') | list | map('list') | list }}" * 50,
    # Texts
    "multiplied text": "{{ 'x' * 10 ** 9 }}",
    "multiplied text twice": "{{ ('x' * 10 ** 5) * 10 ** 5 }}",
    "multiplied list": "{{ [1] * 10 ** 9 }}",
    "multiplied tuple": "{{ 10 ** 9 * (1, 2) }}",
    "doubling text": DOUBLING,
    "doubling text by ~": DOUBLING.replace("ns.v + ns.v", "ns.v ~ ns.v"),
    "doubling text by a block": DOUBLING.replace(
        "{% set ns.v = ns.v + ns.v %}", "{% set v %}{{ ns.v }}{{ ns.v }}{% endset %}{% set ns.v = v %}"
    ),
    "doubling text by replace": DOUBLING.replace("ns.v + ns.v", "ns.v.replace('x', ns.v)"),
    "doubling text by join": DOUBLING.replace("ns.v + ns.v", "[ns.v, ns.v] | join"),
    "doubling text by a filter block": "{% filter replace('x', 'x' * 99999) %}{{ 'x' * 99999 }}{% endfilter %}",
    "doubling list": DOUBLING.replace("'xy'", "[1, 2]"),
    "a huge join": LONG + "{{ range(99999) | join(long) }}",
    "a huge join by a method": LONG + "{{ long.join(range(99999) | map('string') | list) }}",
    "output again and again": LONG + "{% for i in range(99999) %}{{ long }}{% endfor %}",
    "kept again and again": LONG
    + "{% set ns = namespace(v=[]) %}{% for i in range(9999) %}{% set ns.v = ns.v + [long ~ i] %}{% endfor %}",
    "split into millions": LONG + "{% for i in range(99) %}{% set x = long.split('a') %}{% endfor %}",
    "list of millions": LONG + "{% for i in range(99) %}{% set x = long | list %}{% endfor %}",
    "lists kept again and again": "{% set ns = namespace(v=[]) %}"
    "{% for i in range(999) %}{% set ns.v = ns.v + [range(99999) | list] %}{% endfor %}",
    "slices kept again and again": "{% set all = range(99999) | list %}{% set ns = namespace(v=[]) %}"
    "{% for i in range(999) %}{% set ns.v = ns.v + [all[:]] %}{% endfor %}",
    "numbers written again and again": (
        "{% set ns = namespace(v=[]) %}{% for i in range(999) %}"
        "{% set ns.v = ns.v + [range(99999) | map('string') | list] %}{% endfor %}"
    ),
    "numbers added again and again": "{% for i in range(99999) %}{{ range(99999) | sum }}{% endfor %}",
    "numbers mapped to themselves": "{% for i in range(999) %}{{ range(99999) | map(attribute=none) }}{% endfor %}",
    "indented": "{{ 'a\\nb' | indent(10 ** 9) }}",
    "indented by a text": LONG + "{{ ('a\\n' * 9999) | indent(long) }}",
    "JSON indented": "{{ [[[1]]] | tojson(indent=10 ** 9) }}",
    "JSON separated": LONG + "{{ range(99) | list | tojson(separators=(long, long)) }}",
    "searched for slowly": LONG + "{% for i in range(9999) %}{{ long.rfind('b' ~ 'a' * 200000) }}{% endfor %}",
    "searched for": LONG + "{% for i in range(9999) %}{{ ('a' * 99 ~ 'b') in long }}{% endfor %}",
    "stripped slowly": LONG + "{% for i in range(9999) %}{{ long.strip('cdefghijklmnop' * 999 ~ 'ab') }}{% endfor %}",
    "compared": LONG + "{% set other = 'ab' * 400000 %}{% for i in range(99999) %}{{ long == other }}{% endfor %}",
    "format": "{{ '%999999999d' % 1 }}",
    "format method": "{{ '{:>999999999}'.format(1) }}",
    "format filter": "{{ '%999999999d' | format(1) }}",
    "centred": "{{ 'x' | center(10 ** 9) }}",
    "date": "{{ strftime_now('%999999999d') }}",
    # Values that contain each other many times
    "nested lists compared": NESTING + "{% set a = ns.v %}" + NESTING + "{{ a == ns.v }}",
    "nested lists written": NESTING + "{{ ns.v }}",
    "nested lists as JSON": NESTING + "{{ ns.v | tojson }}",
    "nested tuples as a key": NESTING.replace("['x']", "('x',)").replace("[ns.v, ns.v]", "(ns.v, ns.v)")
    + "{{ {ns.v: 1} }}",
    "nested lists searched": NESTING + "{{ 7 in ns.v }}",
    "nested lists looked for": NESTING + "{{ ns.v in [ns.v, 1] }}",
    "nested lists sorted": NESTING + "{{ ns.v | sort }}",
    "nested tuples without repetition": NESTING.replace("[ns.v, ns.v]", "(ns.v, ns.v)") + "{{ ns.v | unique | list }}",
    "deep lists as JSON": DEEP + "{{ ns.v | tojson }}",
    "deep lists compared": DEEP + "{{ ns.v == ns.v }}",
    "deep lists written": DEEP + "{{ ns.v }}",
    # Numbers
    "power": "{{ 9 ** (9 ** 9) }}",
    "power of a power": "{% set ns = namespace(v=3) %}{% for i in range(99) %}{% set ns.v = ns.v * ns.v %}{% endfor %}",
    "long number": "{{ ('9' * 4000) | int * ('9' * 4000) | int }}",
    "rounded": "{{ 1.5 | round(10 ** 9) }}",
    "division by zero": "{{ 1 / 0 }}",
    # Ways out
    "class": "{{ ''.__class__.__mro__ }}",
    "class by item": "{{ ''['__class__'] }}",
    "class by filter": "{{ '' | attr('__class__') }}",
    "class by map": "{{ [''] | map(attribute='__class__') | list }}",
    "class by join": "{{ [''] | join(attribute='__class__.__mro__') }}",
    "class by parts": "{{ ''['__cl' ~ 'ass__'] }}",
    "globals of a function": "{{ range.__globals__ }}",
    "globals of namespace": "{{ namespace.__init__.__globals__ }}",
    "globals of a macro": "{% macro m() %}{% endmacro %}{{ m.__init__ }}",
    "globals of the loop": "{% for x in [1] %}{{ loop.__class__ }}{% endfor %}",
    "cycler": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "self": "{{ self.__init__ }}",
    "namespace attribute": "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "changed messages": "{{ messages.append(1) }}",
    "changed message": "{{ messages[0].update(x=1) }}",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_ends_with_an_error(name: str) -> None:
    template = ChatTemplate(HOSTILE[name], "chat_template.jinja")
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(ChatTemplateError) as caught:
            template.render(MESSAGES, add_generation_prompt=True)
        seconds, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert seconds < MAX_SECONDS and peak < MAX_BYTES, (seconds, peak >> 20)
    assert "chat template fails in line 1: " in str(caught.value) and len(str(caught.value)) < 400
    assert MESSAGES[0] == {"role": "user", "content": "hello " * 200}


def test_a_long_text_takes_no_more_memory_than_its_characters() -> None:
    template = ChatTemplate("{{ ('x' * 16000000) | length }}", "chat_template.jinja")
    tracemalloc.start()
    try:
        assert template.render(MESSAGES) == "16000000"
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MAX_BYTES, peak >> 20


def test_what_a_template_may_do_grows_with_the_conversation() -> None:
    source = "{% for m in messages %}{% for i in range(400) %}{{ i }}{% endfor %}{{ m.content }}{% endfor %}"
    template = ChatTemplate(source, "chat_template.jinja")
    assert len(template.render([{"role": "user", "content": "x"}] * 1000)) > 10**6
    assert len(template.render([{"role": "user", "content": "x" * 10**6}] * 3)) > 3 * 10**6
