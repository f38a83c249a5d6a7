"""EleutherAI's lm-evaluation-harness with an LLM of this process as its model: standard tasks, standard prompts.

from qwartet.evaluate.harness import run_harness
run_harness(llm, ["mmlu", "gsm8k"], num_fewshot=5, limit=100)["results"]
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwartet.errors import SettingError
from qwartet.evaluate.answerers.engine import without_thinking
from qwartet.llm import LLM
from qwartet.tokenizer.chatml import Message
from qwartet.tokenizer.thinking import ThinkingPart, begins_in

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

UNSAFE_TASKS = ("humaneval", "mbpp")  # they would run model-written code in this process
DEFAULT_MAX_TOKENS = 256  # of lm-eval


def run_harness(
    llm: LLM,
    tasks: Sequence[str],
    *,
    num_fewshot: int | None = None,
    limit: int | None = None,
    include_path: Path | None = None,
    apply_chat_template: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """What lm_eval.simple_evaluate returns: results, versions and samples of each task.

    `include_path`: a directory of task files (YAML), which alone are known then. SettingError without lm-eval, for
    unknown tasks, and for tasks that run model-written code.
    """
    try:
        import lm_eval
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise SettingError("--harness lm-eval needs lm-eval; install it: pip install 'qwartet[harness]'") from None
    if unsafe := [task for task in tasks if task.startswith(UNSAFE_TASKS)]:
        raise SettingError(f"lm-eval runs model-written code of {unsafe[0]} without a sandbox; leave out --harness")
    manager = TaskManager(
        include_path=None if include_path is None else str(include_path), include_defaults=include_path is None
    )
    if unknown := [task for task in tasks if not manager.match_tasks([task])]:
        raise SettingError(f"lm-eval has no task {unknown[0]!r:.60}; see lm-eval ls tasks")
    found: dict[str, Any] = lm_eval.simple_evaluate(
        model=_harness_model(llm),
        tasks=list(tasks),
        task_manager=manager,
        num_fewshot=num_fewshot,
        limit=limit,
        apply_chat_template=apply_chat_template,
        fewshot_as_multiturn=apply_chat_template or None,
        bootstrap_iters=0,
        random_seed=seed,
        numpy_random_seed=seed,
        torch_random_seed=seed,
        fewshot_random_seed=seed,
    )
    return found


def _harness_model(llm: LLM) -> Any:
    from lm_eval.api.model import LM
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    class QwartetModel(LM):  # type: ignore[misc]
        """An LLM behind lm-eval's interface. Chats are answered without thinking, if the model can."""

        def __init__(self) -> None:
            super().__init__()
            self._chats: dict[str, list[int]] = {}  # a rendered conversation -> its ids, control tokens included

        @property
        def tokenizer_name(self) -> str:
            return llm.model_path.name

        def chat_template(self, chat_template: bool | str = False) -> str:
            return "chatml" if chat_template else ""

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            """A conversation as text. Its ids are kept: text alone never becomes a control token."""
            messages = [Message(turn["role"], turn["content"]) for turn in chat_history]
            ids = llm.prompt_ids(messages, add_generation_prompt, **without_thinking(llm))
            text = llm.tokenizer.decode(ids)
            self._chats[text] = ids
            return text

        def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
            return self._likelihoods([self._pair(*request.args) for request in requests])

        def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
            totals = []
            for request in requests:
                windows = get_rolling_token_windows(
                    token_list=llm.tokenizer.encode(request.args[0]),
                    prefix_token=llm.tokenizer.eod_id,
                    max_seq_len=llm.engine.max_model_len - 1,
                    context_len=1,
                )
                found = self._likelihoods([make_disjoint_window(window) for window in windows])
                totals.append(sum(logprob for logprob, _ in found))
            return totals

        def generate_until(self, requests: list[Instance]) -> list[str]:
            answers: dict[int, str] = {}
            alike: dict[tuple[str, ThinkingPart], list[int]] = {}
            for index, request in enumerate(requests):
                chat = self._chats.get(request.args[0])
                thinking = "answer" if chat is None else begins_in(llm.tokenizer, chat)
                alike.setdefault((json.dumps(request.args[1], sort_keys=True), thinking), []).append(index)
            for (_, thinking), indices in alike.items():
                params = llm.sampling_params(**_sampling(requests[indices[0]].args[1]))
                room = llm.engine.max_model_len - params.max_tokens
                prompts = [self._ids(requests[index].args[0])[-room:] for index in indices]
                for index, done in zip(indices, llm.generate(prompts, params, thinking=thinking), strict=True):
                    if done.error is not None:
                        raise done.error
                    answers[index] = done.text
            return [answers[index] for index in range(len(requests))]

        def _ids(self, text: str) -> list[int]:
            return self._chats.get(text) or llm.tokenizer.encode(text)

        def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
            chat = self._chats.get(context)
            return llm.likelihood_ids(context, continuation) if chat is None else (chat, self._ids(continuation))

        def _likelihoods(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
            room = llm.engine.max_model_len
            cut = [(context[-(room - len(continuation)) :], continuation) for context, continuation in pairs]
            return [(one.logprob, one.is_greedy) for one in llm.loglikelihood(cut)]

    return QwartetModel()


def _sampling(settings: dict[str, Any]) -> dict[str, Any]:
    """lm-eval's generation settings as ours; greedy unless they sample."""
    until = settings.get("until") or []
    return {
        "stop": [until] if isinstance(until, str) else list(until),
        "max_tokens": settings.get("max_gen_toks", DEFAULT_MAX_TOKENS),
        "temperature": settings.get("temperature", 0.0) if settings.get("do_sample") else 0.0,
        "repetition_penalty": 1.0,
    }
