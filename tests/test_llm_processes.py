"""A process that uses an LLM ends when its main thread does, whatever is open; a forked child answers or fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent

START = """
import os, signal, sys, threading, time
from qwartet import LLM, SamplingParams
from qwartet.errors import EngineFailedError

LONG = dict(temperature=0, max_tokens=1900, ignore_eos=True)
QUERY, ANSWER = "What is 23 + 45?", "23 + 45 = 68"

def ask():
    return llm.chat(QUERY, temperature=0)[0]

def begin():
    stream = llm.chat_stream("hello", **LONG)
    next(stream)
    return stream

"""

FORK = """
def in_child(work):
    child = os.fork()
    if child == 0:
        signal.alarm(40)
        try:
            work()
        except BaseException as error:
            print(type(error).__name__, error, flush=True)
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, "the child failed"

"""

ENDS = {
    "idle": "llm = LLM(device='cpu'); ask()",
    "never asked": "llm = LLM(device='cpu')",
    "half a stream": "llm = LLM(device='cpu'); stream = begin()",
    "half a stream in a cycle": "llm = LLM(device='cpu'); one = [begin()]; one.append(one)",
    "a daemon that waits": """
llm = LLM(device='cpu')
threading.Thread(target=lambda: llm.chat('hello', **LONG), daemon=True).start()
while not llm.engine.scheduler.running: time.sleep(0.001)
""",
    "an error": "llm = LLM(device='cpu'); stream = begin(); 1 / 0",
    "an exit": "llm = LLM(device='cpu'); stream = begin(); sys.exit(3)",
    "an engine that failed": """
llm = LLM(device='cpu')
llm.engine.runner.run = lambda batch: 1 / 0
try: ask()
except EngineFailedError: pass
""",
    "an LLM asked at exit": """
import atexit
llm = LLM(device='cpu')
atexit.register(lambda: print(ask()))
""",
}
CODES = {"an error": 1, "an exit": 3}


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", START + script], capture_output=True, text=True, cwd=REPOSITORY, timeout=100,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_the_interpreter_ends_whatever_is_open() -> None:
    """Each case is a child of one process that has loaded the slow imports, and exits like an interpreter."""
    script = f"""
ENDS, CODES = {ENDS!r}, {CODES!r}
for name, script in ENDS.items():
    child = os.fork()
    if child == 0:
        signal.alarm(40)
        exec(script)
        break
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code == CODES.get(name, 0), (name, code)
else:
    print("all ended")
"""
    done = run(script)
    assert done.stdout.endswith("all ended\n"), done.stdout + done.stderr[-2000:]
    assert "23 + 45 = 68" in done.stdout, "nothing was asked at exit"
    assert "qwartet-engine" not in done.stderr and "atal" not in done.stderr, done.stderr


def test_a_thread_that_is_no_daemon_has_its_answer_after_the_main_thread_has_ended() -> None:
    done = run(
        """
llm = LLM(device="cpu")
def work():
    while threading.main_thread().is_alive(): time.sleep(0.01)
    print(ask())
threading.Thread(target=work).start()
"""
    )
    assert (done.returncode, done.stdout) == (0, "23 + 45 = 68\n"), done.stderr


def test_a_forked_child_answers() -> None:
    done = run(
        FORK
        + """
llm = LLM(device="cpu")
ids = llm.tokenizer.encode(QUERY)
def check():
    assert ask() == ANSWER and "".join(llm.chat_stream(QUERY, temperature=0)) == ANSWER
    assert len(llm.logits(ids)) == len(ids)
check()
for _ in range(3):
    in_child(check)
    check()
in_child(lambda: in_child(check))
def close():
    llm.close()
    assert not [one for one in threading.enumerate() if one.name == "qwartet-engine"]
in_child(close)
check()
print("done")
"""
    )
    assert done.stdout == "done\n", done.stdout + done.stderr


def test_a_child_forked_during_an_answer_is_told_and_its_parent_goes_on() -> None:
    done = run(
        FORK
        + """
llm = LLM(device="cpu")
alone = "".join(llm.chat_stream("hello", **LONG))
stream = llm.chat_stream("hello", **LONG)
first = next(stream)
other = threading.Thread(target=lambda: llm.chat("hello", **LONG))
other.start()
def told():
    for use in (lambda: list(stream), ask, lambda: llm.generate(["a"]), lambda: next(begin())):
        try:
            use()
            raise SystemExit("nothing was said")
        except EngineFailedError as error:
            assert "the process was forked during a step; load the model in the child" in str(error), error
    llm.close()
    with LLM(device="cpu") as mine:
        assert mine.chat(QUERY, temperature=0)[0] == ANSWER
in_child(told)
assert first + "".join(stream) == alone and ask() == ANSWER
other.join()
print("done")
"""
    )
    assert done.stdout == "done\n", done.stdout + done.stderr


def test_ctrl_c_in_a_program_is_one_interrupt_and_the_next_question_is_answered() -> None:
    done = run(
        """
llm = LLM(device="cpu")
for number in range(5):
    timer = threading.Timer(0.01 * number, os.kill, (os.getpid(), signal.SIGINT))
    try:
        timer.start()
        llm.chat("hello", **LONG)
        time.sleep(50)
    except KeyboardInterrupt:
        assert not llm.engine.has_unfinished
    assert ask() == ANSWER
print("done")
"""
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
