"""The held-back conversations that measurements read: the same for a seed, and readable by their readers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from qwartet.bench.contexts import read_conversations
from recipes.demo import heldout
from recipes.demo.corpus import mixture


def test_conversations_are_the_same_for_a_seed_and_more_begin_with_fewer() -> None:
    assert list(heldout.held_out(30)) == list(heldout.held_out(60))[:30]
    assert list(heldout.held_out(30)) != list(heldout.held_out(30, seed=1))


def test_only_the_test_split_is_drawn_from(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(mixture, "draw", lambda _rng, split, progress: asked.append(("draw", split, progress)))
    monkeypatch.setattr(mixture, "draw_long", lambda _rng, split: asked.append(("long", split, 1.0)))
    list(heldout.held_out(2000))
    assert set(asked) == {("draw", "test", 1.0), ("long", "test", 1.0)}
    assert 5 <= sum(kind == "long" for kind, _, _ in asked) <= 40


def test_what_is_written_is_what_bench_numerics_reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "build" / "heldout.jsonl"
    monkeypatch.setattr(sys, "argv", ["heldout", str(file), "--conversations", "20"])
    heldout.main()
    assert read_conversations(file) == [list(conversation.messages) for conversation in heldout.held_out(20)]
