"""The language of templates: what jinja2's sandbox renders, and marks that stay with their characters."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jinja2 import TemplateError
from transformers.utils.chat_template_utils import _compile_jinja_template

from qwartet.tokenizer.templates.budget import Budget
from qwartet.tokenizer.templates.evaluate import Evaluation
from qwartet.tokenizer.templates.failure import Rejection, TemplateFailure
from qwartet.tokenizer.templates.parsed import parse
from qwartet.tokenizer.templates.traced import FROM_TEMPLATE, marks_of

# Letters of the request are capitals and those of the template are small, so that a mark can be checked by its letter.
VARIABLES: dict[str, Any] = {
    "text": "ONE TWO",
    "padded": " \n PAD \t ",
    "lines": "L\nM\r\nN\n\nO\n",
    "empty": "",
    "number": 7,
    "fraction": 2.5,
    "truth": True,
    "nothing": None,
    "texts": ["B", "A", "C", "A"],
    "numbers": [3, 1, 2],
    "mapping": {"K": "V", "J": [1, "W"], "items": "I"},
    "people": [{"NAME": "X", "AGE": 3, "in": {"DEEP": "P"}}, {"NAME": "Y", "AGE": 1, "in": {"DEEP": "Q"}}],
    "messages": [{"role": "R", "content": "H"}, {"role": "S", "content": ["T", {"text": "U"}]}],
}

SNIPPETS = [
    # Texts and their methods
    "{{ text }}|{{ text ~ 'x' ~ 1 ~ none ~ true ~ 2.5 }}|{{ 'a' + text + 'b' }}",
    "{{ text * 2 }}|{{ 3 * 'xy' }}",
    "{{ text.lower() }}|{{ 'ab'.upper() }}|{{ text.title() }}|{{ text.capitalize() }}|{{ 'ß'.upper() }}",
    "{{ padded.strip() }}|{{ padded.lstrip() }}|{{ padded.rstrip() }}|{{ ('xx' + text + 'xx').strip('x') }}",
    "{{ text.split() }}|{{ text.split(' ') }}|{{ (text + 'x').split('O') }}|{{ text.rsplit('O', 1) }}",
    "{{ padded.split() }}|{{ ' a b  c '.split(none, 1) }}|{{ ' a b  c '.rsplit(none, 1) }}|{{ ''.split() }}",
    "{% for part in ('x' + text + 'y').split('O') %}[{{ part }}]{% endfor %}",
    "{% for part in (padded + 'x ' + text).split() %}[{{ part }}]{% endfor %}",
    "{% for line in lines.splitlines() %}[{{ line }}]{% endfor %}",
    "{% for line in lines.splitlines(true) %}[{{ line }}]{% endfor %}",
    "{{ text.replace('O', 'o') }}|{{ 'aoa'.replace('a', text) }}|{{ text.replace('T', 'tt', 1) }}",
    "{{ text.partition(' ') }}|{{ text.rpartition('O') }}",
    "{{ text.partition('x') }}|{{ text.rpartition('x') }}",
    "{{ '-'.join(texts) }}|{{ text.join(['a', 'b', 'c']) }}|{{ ''.join([]) }}",
    "{{ text.startswith('ON') }}|{{ text.startswith(('x', 'O')) }}",
    "{{ text.endswith('x') }}|{{ text.find('T') }}",
    "{{ text.index('T') }}|{{ text.rfind('O') }}|{{ text.count('O') }}",
    "{{ text.isupper() }}|{{ '12'.isdigit() }}",
    "{{ text.removeprefix('ON') }}|{{ text.removesuffix('WO') }}|{{ text.removesuffix('') }}",
    "{{ text[0] }}|{{ text[-1] }}|{{ text[1:3] }}|{{ text[::-1] }}",
    "{{ text[::2] }}|{{ text[99] }}|{{ text[99:] }}",
    "{% for character in text %}{{ character }}.{% endfor %}",
    # Numbers and comparisons
    "{{ 7 + 2 }}|{{ 7 - 2 }}|{{ 7 * 2 }}|{{ 7 / 2 }}|{{ 7 // 2 }}",
    "{{ 7 % 2 }}|{{ 2 ** 10 }}|{{ -number }}|{{ +2.5 }}",
    "{{ 1 < 2 < 3 }}|{{ 1 < 2 > 3 }}|{{ 'a' < 'b' }}|{{ 1 == 1.0 }}",
    "{{ 'a' != 'b' }}|{{ [1] == [1] }}|{{ true + 1 }}",
    "{{ 'NE' in text }}|{{ 'x' not in text }}|{{ 'A' in texts }}|{{ 'K' in mapping }}|{{ 3 in numbers }}",
    "{{ nothing == none }}|{{ unknown == other }}|{{ unknown == none }}|{{ 'x' in unknown }}",
    "{{ 'a' if truth else 'b' }}|{{ 'a' if not truth }}|{{ unknown or 'd' }}",
    "{{ text and number }}|{{ '' or [] or 0 }}",
    # Lists, mappings, tuples
    "{{ texts }}|{{ texts[1] }}|{{ texts[-1] }}|{{ texts[9] }}",
    "{{ texts[1:] }}|{{ texts[::-1] }}|{{ texts + ['d'] }}",
    "{{ mapping.K }}|{{ mapping['K'] }}|{{ mapping.X }}|{{ mapping.get('K') }}|{{ mapping.get('X', 'd') }}",
    "{{ mapping['items'] }}|{{ mapping.keys() | list }}|{{ mapping.values() | list }}|{{ mapping.J[1] }}",
    "{% for key, value in mapping.items() %}{{ key }}={{ value }};{% endfor %}",
    "{{ (1, 'a') }}|{{ {'a': 1, 'b': text} }}|{{ [] }}|{{ {} }}",
    "{{ (1,) }}|{{ dict(a=1, b=text) }}|{{ dict([('a', 1)]) }}",
    "{{ 'a' 'b' }}|{{ [[1, 2], [3]] }}|{{ [1, 2] * 2 }}|{{ range(3) | list }}|{{ range(5, 1, -2) | list }}",
    # Statements
    "{% for n in numbers %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{% endfor %}",
    "{% for n in numbers %}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{% endfor %}",
    "{% for n in texts %}{{ loop.previtem }}<{{ n }}>{{ loop.nextitem }}{{ loop.changed(n) }}{% endfor %}",
    "{% for n in numbers %}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "{% for n in [] %}x{% else %}none{% endfor %}|{% for n in unknown %}x{% else %}none{% endfor %}",
    "{% for n in range(9) if n is odd %}{{ n }}{{ loop.length }}{% else %}x{% endfor %}",
    "{% for n in range(9) %}{% if n == 2 %}{% continue %}{% endif %}{{ n }}{% endfor %}",
    "{% for n in range(9) %}{% if n == 5 %}{% break %}{% endif %}{{ n }}{% else %}x{% endfor %}",
    "{% for key in mapping %}{{ key }}{% endfor %}",
    "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for x in [[1, [2, [3]]]] recursive %}<{{ loop.depth }}{{ loop(x) if x is iterable else x }}>{% endfor %}",
    "{% set x = 1 %}{% for n in numbers %}{% set x = n %}{{ x }}{% endfor %}{{ x }}",
    "{% set ns = namespace(x=1) %}{% for n in numbers %}{% set ns.x = ns.x + n %}{% endfor %}{{ ns.x }}{{ ns.y }}",
    "{% if number > 9 %}a{% elif number > 5 %}b{% else %}c{% endif %}|{% if empty %}a{% endif %}",
    "{% if truth %}{% set y = text %}{% endif %}{{ y }}{{ z }}",
    "{% set a, b = 1, text %}{{ b }}{{ a }}",
    "{% set block %}<{{ text }}>{% endset %}{{ block }}{{ block | length }}",
    "{% set block | lower %}<{{ text }}>{% endset %}{{ block }}|{% filter lower %}{{ text }}{% endfilter %}",
    "{% with a = 1, b = text %}{{ a }}{{ b }}{% endwith %}{{ a }}|{% raw %}{{ x }}{% endraw %}|{# no #}",
    "{% macro m(a, b='d', c=none) %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ m(1) }}{{ m(text, c=3) }}{{ m(b=2) }}",
    "{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, x=2) }}",
    "{% macro m(n) %}{{ n }}{% if n %}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(3) }}",
    "{% macro m() %}({{ caller() }}){% endmacro %}{% call m() %}in {{ text }}{% endcall %}",
    "{% macro m() %}({{ caller(text) }}){% endmacro %}{% call(x) m() %}in {{ x }}{% endcall %}",
    "{% set y = 'outer' %}{% macro m() %}{{ y }}{% endmacro %}{% set y = 'later' %}{{ m() }}",
    "a\n  {% if truth %}\n  b\n  {%- endif %}\n c {{- 1 -}} d\n{% generation %}{{ text }}{% endgeneration %}\n",
    # Filters
    "{{ text | lower }}|{{ text | length }}|{{ texts | count }}",
    "{{ padded | trim }}|{{ 'xax' | trim('x') }}|{{ 'ab c' | title }}",
    "{{ text | upper }}|{{ text | capitalize }}|{{ text | replace('O', 'o') }}",
    "{{ 7 | string }}|{{ text | safe }}",
    "{{ text | replace('O', 'o', 1) }}|{{ text | wordcount }}",
    "{{ text | reverse }}|{{ numbers | reverse | list }}",
    "{{ lines | indent }}|{{ lines | indent(2, true) }}",
    "{{ lines | indent('> ', blank=true) }}|{{ '' | indent }}",
    "{{ unknown | default('d') }}|{{ '' | default('d', true) }}",
    "{{ none | default('d') }}|{{ none | d('d', true) }}",
    "{{ texts | first }}|{{ texts | last }}|{{ [] | first }}",
    "{{ texts | join('-') }}|{{ numbers | join(', ') }}",
    "{{ people | join('-', attribute='NAME') }}|{{ texts | sort }}",
    "{{ numbers | sort(reverse=true) }}|{{ text | list }}",
    "{{ people | sort(attribute='AGE') | map(attribute='NAME') | list }}|{{ texts | unique | list }}",
    "{{ people | map(attribute='in.DEEP') | join }}|{{ people | map(attribute='X', default='d') | list }}",
    "{{ texts | map('lower') | list }}|{{ texts | map('replace', 'A', 'a') | join }}",
    "{{ numbers | select('odd') | list }}|{{ numbers | reject('gt', 1) | list }}",
    "{{ [0, 1, ''] | select | list }}",
    "{{ people | selectattr('AGE', 'equalto', 1) | map(attribute='NAME') | list }}",
    "{{ people | rejectattr('AGE', 'lt', 2) | list | length }}",
    "{{ people | selectattr('AGE') | list | length }}",
    "{{ numbers | sum }}|{{ people | sum(attribute='AGE') }}|{{ numbers | max }}",
    "{{ numbers | min }}|{{ ['b', 'B'] | max }}",
    "{{ mapping | dictsort }}|{{ mapping | items | list }}",
    "{{ {'b': 2, 'a': 3} | dictsort(by='value', reverse=true) }}",
    "{{ '7' | int }}|{{ 'x' | int }}|{{ 'x' | int(3) }}",
    "{{ 'ff' | int(base=16) }}|{{ '2.9' | int }}|{{ '2.5' | float }}",
    "{{ 2.567 | round(1) }}|{{ 2.5 | round }}|{{ 2.1 | round(0, 'ceil') }}",
    "{{ 2.9 | round(method='floor') }}|{{ -3 | abs }}",
    "{{ mapping | tojson }}|{{ text | tojson }}",
    "{{ [1, none, true, 2.5] | tojson(indent=2) }}|{{ 'é<>&' | tojson }}",
    "{{ {'b': 1, 'a': 2} | tojson(sort_keys=true, separators=(',', ':')) }}",
    "{{ 'é' | tojson(ensure_ascii=true) }}",
    # Tests
    "{{ text is string }}|{{ mapping is mapping }}|{{ texts is sequence }}",
    "{{ text is iterable }}|{{ number is iterable }}",
    "{{ nothing is none }}|{{ truth is true }}|{{ truth is boolean }}",
    "{{ 1 is integer }}|{{ 1.5 is float }}|{{ 1 is number }}",
    "{{ unknown is defined }}|{{ unknown is undefined }}|{{ mapping.X is defined }}|{{ text is not none }}",
    "{{ 4 is divisibleby 2 }}|{{ 3 is odd }}|{{ 4 is even }}",
    "{{ 1 is in numbers }}|{{ 'a' is lower }}|{{ 1 is eq 1 }}",
    "{{ 1 is sameas 1 }}|{{ 2 is ge 2 }}|{{ 2 is ne 2 }}",
    "{{ 2 is lessthan 3 }}|{{ range is callable }}|{{ unknown is sequence }}",
    # Contents as templates of conversations read them
    "{% for m in messages %}{{ m.content if m.content is string else m.content | map('string') | join }}{% endfor %}",
    "{% for m in messages %}{{ m.role }}{% if m['content'] is not string %}{{ m.content[1] }}{% endif %}{% endfor %}",
]  # fmt: skip

FAILING = [
    "{{ unknown.x }}", "{{ unknown + 1 }}", "{{ unknown < 1 }}", "{{ unknown() }}", "{{ text + 1 }}", "{{ 1 in 'a' }}",
    "{{ 1 // 0 }}", "{{ text() }}", "{% for x in 7 %}{% endfor %}", "{% set a, b = 1, 2, 3 %}", "{{ text.index('x') }}",
    "{{ unknown | tojson }}", "{{ texts.append('x') }}", "{{ mapping.pop('K') }}", "{{ 1 < 'a' }}",
    "{{ mapping.update({'x': 1}) }}", "{% set text.x = 1 %}", "{{ text.split('') }}", "{{ text | no_such_filter }}",
    "{{ text is no_such_test }}", "{{ messages | map('xyz') | list }}",
    "{{ 7 | length }}", "{{ {[]: 1} }}", "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", "{{ raise_exception('no') }}",
    "{% macro m(a) %}{% endmacro %}{{ m(b=1) }}", "{{ 'x' * 'y' }}", "{{ -text }}",
]  # fmt: skip


REFUSED_HERE_ONLY = [
    "{{ 7 | items }}", "{{ ''.__class__ }}", "{{ mapping.__init__ }}", "{{ mapping['__class__'] }}", "{{ 'x' % 1 }}",
    "{{ 'x'.format(1) }}", "{{ 'x' | format }}", "{{ text.ljust(9) }}", "{{ text | center(9) }}", "{{ lipsum() }}",
    "{{ text | escape }}", "{{ text | urlize }}", "{{ texts | random }}", "{{ texts | batch(2) | list }}",
    "{{ text.encode() }}", "{{ text | map(attribute='__class__') | list }}", "{{ text.replace('', '-') }}",
    "{{ texts.index('A') }}", "{{ mapping.clear }}", "{{ 10 ** 10000 }}", "{{ (-8) ** 0.5 }}", "{{ range(10 ** 6) }}",
    "{{ namespace(_x=1) }}", "{{ text | attr('x') }}",
]  # fmt: skip


def ours(source: str) -> str:
    variables = json.loads(json.dumps(VARIABLES))
    return Evaluation(Budget(variables), variables).render(parse(source))


@pytest.mark.parametrize("source", SNIPPETS)
def test_a_template_gives_what_jinja2_gives(source: str) -> None:
    assert str(ours(source)) == _compile_jinja_template(source).render(**VARIABLES)


@pytest.mark.parametrize("source", FAILING)
def test_what_jinja2_refuses_is_refused(source: str) -> None:
    with pytest.raises((TemplateError, TypeError, ValueError, ZeroDivisionError)):
        _compile_jinja_template(source).render(**VARIABLES)
    with pytest.raises((TemplateFailure, Rejection)):
        ours(source)


@pytest.mark.parametrize("source", REFUSED_HERE_ONLY)
def test_what_no_template_of_a_conversation_needs_is_refused(source: str) -> None:
    with pytest.raises(TemplateFailure):
        ours(source)


KEEPS_CASE = [
    source for source in SNIPPETS if not any(word in source for word in ("lower", "upper", "title", "capital", "ß"))
]


@pytest.mark.parametrize("source", KEEPS_CASE)
def test_a_letter_of_the_request_is_never_taken_for_one_of_the_template(source: str) -> None:
    text = ours(source)
    for character, mark in zip(text, marks_of(text), strict=True):
        assert not (character.isupper() and mark == FROM_TEMPLATE and character not in "TFN"), (text, character)
    # T, F and N begin True, False and None; those of the request are checked where nothing else is written.
    if "True" not in text and "False" not in text and "None" not in text:
        assert not any(c.isupper() and m == FROM_TEMPLATE for c, m in zip(text, marks_of(text), strict=True))


@pytest.mark.parametrize(
    "source",
    [
        "a{{ text }}b", "{{ 'a' + text + 'b' }}", "{{ 'a' ~ text ~ 'b' }}", "{{ ['a', text, 'b'] | join }}",
        "{{ ' a' .strip() }}{{ text.replace('x', 'y') }}{{ 'b' }}", "{{ 'xaxbx'.split('x')[1] }}{{ text }}b",
        "{% set t %}a{{ text }}{% endset %}{{ t }}b", "{% macro m(t) %}a{{ t }}b{% endmacro %}{{ m(text) }}",
        "{% for c in 'a' ~ text ~ 'b' %}{{ c }}{% endfor %}", "{{ ('b' ~ text[::-1] ~ 'a')[::-1] }}",
        "{{ ('a#b').replace('#', text) }}", "{{ text.join(['a', 'b']) }}", "{{ ('a' ~ text ~ 'b') | trim }}",
        "{{ ('a' ~ text ~ 'b').partition('x')[0] }}", "{{ ('a' ~ text ~ 'b') | string | safe }}",
        "{{ 'A'.lower() ~ text ~ 'B' | lower }}",
    ],
)  # fmt: skip
def test_a_letter_of_the_template_is_known_as_one(source: str) -> None:
    text = ours(source)
    assert (text, marks_of(text)) == ("aONE TWOb", b"\1\0\0\0\0\0\0\0\1")


def test_what_is_neither_is_taken_for_the_request() -> None:
    for source in ("{{ 7 }}", "{{ number }}", "{{ [text] }}", "{{ mapping | tojson }}", "{{ true }}"):
        assert FROM_TEMPLATE not in marks_of(ours(source))
    assert set(marks_of(ours("{{ {'a': ['b']} | tojson }}"))) == {FROM_TEMPLATE}


def test_the_date_is_in_the_form_that_the_template_asks_for() -> None:
    from datetime import datetime

    assert ours("{{ strftime_now('%d %B %Y%%') }}") == datetime.now().strftime("%d %B %Y%%")
    for source in ("{{ strftime_now('%9999999d') }}", "{{ strftime_now(7) }}", "{{ strftime_now('x' * 200) }}"):
        with pytest.raises(TemplateFailure, match="the date format"):
            ours(source)
