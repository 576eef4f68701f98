"""Shared by several test files: configurations, taught models, files, processes, actors and a served judge.

Fixtures are in conftest.py.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from critique_rl.cold_start.tiny import build_model, build_tokenizer
from critique_rl.evaluation.episodes import Episode
from critique_rl.prompts import STEP_LABEL, VERDICT_LABEL
from critique_rl.types import Conversation, Generation, Problem, Sampling, problem_id

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "experiments" / "configs"

# -- configurations ---------------------------------------------------------------------------------------

MINI = """
name: mini
base: tiny
prompts: compact
seeds: [0]
threads: 1
train:
  - {name: modular_chain, options: {steps: 1, size: 105}}
cold_start:
  base:
    solver: {wrong_facts: 0.5, conviction: 0.5}
    annotator: {}
    passes:
      - reasoning: 80
        critiques: 100
        refinements: 240
        sft: {<<: &cpu {gradient_checkpointing: false}, learning_rate: 5.0e-3, lr_scheduler_type: constant,
              per_device_train_batch_size: 16, num_train_epochs: 4, max_length: 128}
  teacher:
    kind: scripted
    solver: {wrong_facts: 0.5, conviction: 0.6}
    annotator: {miss: 0.4, false_alarm: 0.2}
  reasoning: 60
  refinements: 40
  critiques: 80
  actor_sft: &sft {<<: *cpu, learning_rate: 2.0e-3, per_device_train_batch_size: 20}
  critic_sft: *sft
pool: {problems: 40, samples: 2}
lengths: {response: 20, critique: 32, refinement: 20}
stages:
  stage1:
    label: Stage I
    checkpoint_rl_steps: 1
    trainer: &rl {<<: *cpu, rl_steps: 2, generation_batch_size: 16, per_device_train_batch_size: 16,
                  learning_rate: 1.0e-3, temperature: 1.0}
  stage2:
    label: Stage I+II
    start: stage1
    trainer: {<<: *rl, refinement_reward: r_refine}
evaluation:
  protocol: {response_temperature: 0.7, critique_temperature: 1.0}
  tasks:
    - {name: modular_chain, split: test, limit: 16, options: {steps: 1, size: 105}}
"""
"""A whole run within seconds: its cold start, both stages and their evaluation."""

MINI_PICTURES = """
name: mini-vl
base: tiny
prompts: compact
threads: 1
train: [{name: drawings, options: {size: 240, kinds: [chart]}}]
cold_start:
  base:
    solver: {glance: 0.3, misread: 0.2}
    annotator: {}
    passes:
      - reasoning: 60
        critiques: 0
        refinements: 0
        judgements: 60
        sft: {<<: &cpu {gradient_checkpointing: false}, learning_rate: 8.0e-3, lr_scheduler_type: constant,
              per_device_train_batch_size: 16, num_train_epochs: 5, max_length: null}
  teacher: {kind: scripted, solver: {glance: 0.3, misread: 0.2}, judge: {glance: 0.5}}
  reasoning: 20
  refinements: 0
  judgements: 20
  critiques: 1
  actor_sft: {<<: *cpu, learning_rate: 1.0e-3, per_device_train_batch_size: 20, max_length: null}
pool: {problems: 60, samples: 4, temperature: 1.0, balanced: false}
lengths: {response: 28, critique: 44, refinement: 28}
stages:
  critic:
    label: Critic RL
    start: actor
    method: pairwise_critic
    trainer: {<<: *cpu, rl_steps: 2, generation_batch_size: 16, per_device_train_batch_size: 16,
              num_generations: 4, learning_rate: 1.0e-3, checkpoint_rl_steps: 1}
evaluation:
  rows: [no_critic, critic]
  tasks: [{name: drawings, split: test, limit: 24, options: {size: 240, kinds: [chart]}}]
  pairwise: {samples: 4, problems: 20, pairs: 8}
"""
"""A run on pictures: pairs from the pool, a pairwise critic, and both of its measurements."""


# -- models that are taught a few texts -------------------------------------------------------------------


def write_response(problem: Problem, value: int) -> str:
    """A one-step response that claims `value`; a wrong one leaves its step open, which is easy to see."""
    step = problem.solution.split("=")[0]
    return f"{step}={value if str(value) == problem.answer else '?'}\nThe answer is {value}"


def write_critique(response: str, value: int, verdict: str | None) -> str:
    """A critique of a one-step response, without its last line if `verdict` is None."""
    lines = [f"{STEP_LABEL} {response.splitlines()[0]}", f"Explanation: {value}"]
    return "\n".join(lines if verdict is None else [*lines, f"{VERDICT_LABEL} {verdict}"])


def teach(directory: Path, chats: Sequence[tuple[Conversation, str]], *, seed: int, steps: int) -> None:
    """Write a tiny model that was trained for `steps` steps on replies to conversations."""
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, seed=seed)
    rows = []
    for prompt, reply in chats:
        asked = tokenizer.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"]
        told = tokenizer(reply)["input_ids"] + [tokenizer.eos_token_id]
        rows.append((asked + told, [-100] * len(asked) + told))
    width = max(len(ids) for ids, _ in rows)
    ids_NT = torch.tensor([ids + [tokenizer.pad_token_id] * (width - len(ids)) for ids, _ in rows])
    labels_NT = torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = torch.randint(len(rows), (24,), generator=generator)
        loss = model(input_ids=ids_NT[batch], labels=labels_NT[batch]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


CHATML = build_tokenizer().chat_template
THINKING = CHATML.replace("assistant\\n' -", "assistant\\n<think>\\n' -")
"""A template whose generation prompt opens the thought."""
assert THINKING != CHATML


def retold(source: Path, directory: Path, *, template: str = CHATML, end: str = "<|im_end|>") -> Path:
    """Copy a tiny model, with another chat template and another end-of-sequence token."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    tokenizer.chat_template, tokenizer.eos_token = template, end
    model.generation_config.eos_token_id = model.config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


# -- files and processes ----------------------------------------------------------------------------------


def write_jsonl(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def png(colour: Any = "red", size: tuple[int, int] = (84, 56)) -> bytes:
    """A PNG file of one colour."""
    content = io.BytesIO()
    Image.new("RGB", size, colour).save(content, "PNG")
    return content.getvalue()


def modified(folder: Path) -> dict[str, int]:
    """When each file below a folder was last written, by relative path."""
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def environment(**more: str) -> dict[str, str]:
    """Variables for a process that runs this checkout on one thread."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **more}


def hear_ctrl_c() -> None:
    """Restore Ctrl-C: a process in the background of a shell ignores it, and so do its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def run_in_two_processes(script: str, folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """What each of two ranks saved as `rank<i>.pt` in the folder, the script's last argument."""
    file = folder / "two.py"
    file.write_text(script, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    done = subprocess.run(
        [*command, str(file), *arguments, str(folder)],
        env=environment(GLOO_SOCKET_IFNAME="lo"),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]
    assert [rank["processes"] for rank in ranks] == [2, 2]
    return ranks


def free_port() -> int:
    """A port of this computer that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def started_server(
    command: Sequence[str], log: Path, *, env: Mapping[str, str], patience: float = 90.0
) -> Iterator[str]:
    """URL of a server that `command --host HOST --port PORT` starts, once it answers; ended with the block.

    `patience` are the most seconds that it takes to start; `log` gets what it prints.
    """
    port = free_port()
    words = [*command, "--host", "127.0.0.1", "--port", str(port)]
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(words, stdout=output, stderr=output, env=env)
    try:
        deadline = time.monotonic() + patience
        while not _answers(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text("utf-8")[-5000:]
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except OSError:
        return False
    return True


# -- pages ------------------------------------------------------------------------------------------------

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(1)>[a](javascript:alert(1)) | `"
"""A text that does something in a page or a Markdown file that does not escape it."""


class Tags(HTMLParser):
    """All tags of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.data: list[str] = []
        self.feed(page)

    def handle_data(self, data: str) -> None:
        self.data.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def harmless(page: str) -> None:
    """No script, no handler, and nothing that is loaded from elsewhere."""
    for tag, attributes in Tags(page).found:
        assert tag not in ("script", "iframe", "object", "embed", "link", "form"), tag
        assert not [name for name in attributes if name.startswith("on")], attributes
        assert str(attributes.get("src", "data:image/png;base64,")).startswith("data:image/png;base64,")
        assert not str(attributes.get("href", "")).startswith("javascript:")
    assert "default-src 'none'" in page


# -- weights and training ---------------------------------------------------------------------------------

LORA: dict[str, Any] = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}


def weights(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def push(model: torch.nn.Module, share: float, *, seed: int) -> None:
    """Move all weights at random, by a share of their own size."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(share * p.std().nan_to_num() * torch.randn(p.shape, generator=generator))


def adapter_of(critic: Path, directory: Path, **settings: Any) -> Path:
    """A saved adapter that changes what the critic says, like one that Stage I has trained."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(AutoModelForCausalLM.from_pretrained(critic), LoraConfig(**LORA, **settings))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(directory)
    return directory


def history(trainer: Any, *names: str) -> list[tuple[float, ...]]:
    """Logged values of each RL step; the names are those of the dynamics, not of timings."""
    return [tuple(log[name] for name in names) for log in trainer.state.log_history if "reward" in log]


def plain_logps(model: torch.nn.Module, output: Mapping[str, Tensor], temperature: float = 1.0) -> Tensor:
    """(N, T) log-probabilities of the completions, from nothing but the model's logits."""
    ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
    attention = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
    logits = model(input_ids=ids, attention_mask=attention).logits / temperature
    start = output["prompt_ids"].size(1)
    return logits[:, start - 1 : -1].log_softmax(-1).gather(2, ids[:, start:, None]).squeeze(2)


# -- actors -----------------------------------------------------------------------------------------------


class ToyActor:
    """Answers each conversation by a rule, and remembers what it was asked and how; 10 + 3 tokens a reply."""

    name = "toy"

    def __init__(self, rule: Callable[[Conversation], str]) -> None:
        self.rule = rule
        self.asked: list[Conversation] = []
        self.samplings: list[Sampling] = []

    def generate(self, prompts: Sequence[Conversation], sampling: Sampling) -> list[Generation]:
        self.asked += prompts
        self.samplings.append(sampling)
        return [Generation(self.rule(prompt), 10, 3, False) for prompt in prompts]


def follow_critique(prompt: Conversation) -> str:
    """Answers every question with 5, and refines to the number that the critique explains."""
    found = re.search(r"Explanation: (\d)", prompt[-1]["content"])
    return f"The answer is {found[1] if found else 5}"


# -- a finished run -----------------------------------------------------------------------------------------


def graded_episodes(right: int, of: int, *, dis: int) -> list[Episode]:
    """The first `right` refinements, every other response and the first `dis` verdicts are right."""
    return [
        Episode(
            id=f"i{i}",
            dataset="toy",
            question="q",
            answer="1",
            kind="number",
            response="y",
            response_correct=i % 2 == 0,
            critique="c",
            verdict="correct" if (i % 2 == 0) == (i < dis) else "wrong",
            refinement="z",
            refinement_correct=i < right,
            tokens=7,
        )
        for i in range(of)
    ]


def healthy_log(refines: bool, *, steps: int = 20) -> list[dict[str, Any]]:
    """A log of a healthy training: 128 critiques an RL step of four optimizer steps."""
    return [
        {
            "step": 4 * (i + 1),
            "step_time": 0.5,
            "num_tokens": 1000.0 * (i + 1),
            "completions/mean_length": 20.0,
            "critic/parse_rate": 1.0,
            "critic/acc_dis": 0.5 + 0.02 * i,
            "frac_reward_zero_std": 0.5,
            **({"actor/acc_refine": 0.5 + 0.02 * i, "tokens/actor": 700.0} if refines else {}),
        }
        for i in range(steps)
    ]


# -- critiques to audit, and a judge behind HTTP ----------------------------------------------------------


def audited_episode(i: int, before: bool | None = False, after: bool | None = True, **fields: Any) -> Episode:
    made = Episode(
        id=f"p{i}",
        dataset="toy",
        question=f"What is {i} + 1?",
        answer=str(i + 1),
        kind="number",
        response="The answer is 99",
        response_correct=before,
        critique=f"critique number {i}, π",
        verdict="wrong",
        refinement=f"The answer is {i + 1}",
        refinement_correct=after,
        tokens=5,
    )
    return dataclasses.replace(made, **fields)


def asked_episode(i: int, **fields: Any) -> Episode:
    """An episode as `evaluate` writes it: the identity of its problem is that of the question."""
    return audited_episode(i, id=problem_id(f"What is {i} + 1?"), **fields)


def critique_number(text: str) -> int:
    found = re.search(r"critique number (\d+)", text)
    assert found is not None
    return int(found[1])


def opinion_on(i: int) -> str:
    """All odd critiques are accurate, those below 15 good; the judge forgets its format at 7."""
    if i == 7:
        return "I like it."
    return f"Judgment: {'Accurate' if i % 2 else 'Inaccurate'}\nQuality: {'High' if i < 15 else 'Low'}"


class JudgeServer(ThreadingHTTPServer):
    """Chat completions by `opinion_on`; after `healthy` replies it answers 400."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), JudgeHandler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.model = "judge"
        self.healthy = 10**6
        self.asked: list[int] = []
        self.bodies: list[dict[str, Any]] = []


class JudgeHandler(BaseHTTPRequestHandler):
    server: JudgeServer

    def log_message(self, *_: Any) -> None:
        """Not on the terminal."""

    def send(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self.send(200, {"object": "list", "data": [{"id": self.server.model, "object": "model"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if body["model"] != self.server.model:
            return self.send(404, {"error": {"message": "no such model"}})
        i = critique_number(body["messages"][0]["content"])
        if len(self.server.asked) >= self.server.healthy:
            return self.send(400, {"error": {"message": "no credit left"}})
        self.server.asked.append(i)
        self.server.bodies.append(body)
        message = {"role": "assistant", "content": opinion_on(i)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 30, "completion_tokens": 8, "total_tokens": 38}
        head = {"id": "x", "object": "chat.completion", "created": 0, "model": "judge"}
        self.send(200, {**head, "choices": [choice], "usage": usage})


@contextmanager
def serving_judge() -> Iterator[JudgeServer]:
    """A judge at `url`, for as long as the block runs."""
    running = JudgeServer()
    thread = Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()


Answer = Callable[[dict[str, Any]], "Reply | None"]


@dataclass
class Reply:
    """What a `ScriptedServer` sends; a length above that of the body makes a half reply."""

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    missing_bytes: int = 0

    def encoded(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


def chat_completion(
    content: Any, *, model: str | None = "tiny", finish: str | None = "stop", **more: Any
) -> Reply:
    """A chat completion; `more` are fields of its message."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": content, **more},
        "finish_reason": finish,
    }
    usage = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
    return Reply({"model": model, "choices": [choice], "usage": usage})


class ScriptedServer(ThreadingHTTPServer):
    """Chat completions by a rule from request to reply; a rule that returns None drops the connection."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, answer: Answer, models: Sequence[Any] = ("tiny",), port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), ScriptedHandler)
        self.answer, self.models = answer, list(models)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.requests: list[dict[str, Any]] = []
        self.logins: set[str | None] = set()

    def handle_error(self, *_: Any) -> None:
        """Clients that give up are expected."""


class ScriptedHandler(BaseHTTPRequestHandler):
    server: ScriptedServer

    def log_message(self, *_: Any) -> None:
        """Not on the terminal."""

    def send(self, reply: Reply | None) -> None:
        if reply is None:
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        body = reply.encoded()
        self.send_response(reply.status)
        for name, value in {"content-type": "application/json", **reply.headers}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body) + reply.missing_bytes))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def do_GET(self) -> None:
        entries = [m if isinstance(m, dict) else {"id": m, "object": "model"} for m in self.server.models]
        self.send(Reply({"object": "list", "data": entries}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.logins.add(self.headers["authorization"])
        self.server.requests.append(body)
        self.send(self.server.answer(body))


@contextmanager
def serving(answer: Answer, models: Sequence[Any] = ("tiny",), port: int = 0) -> Iterator[ScriptedServer]:
    """A `ScriptedServer` at `url`, for as long as the block runs."""
    running = ScriptedServer(answer, models, port)
    Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield running
    finally:
        running.shutdown()
        running.server_close()
