"""A language model that needs no download: real architecture and tokenizer, 0.1 million weights.

It uses the same chat template, prompts, trainer and evaluation as any model from the hub.
"""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM
from transformers.processing_utils import ProcessorMixin

from critique_rl.cold_start.from_scratch import byte_tokenizer, seeded_model
from critique_rl.prompts import RATING_LABEL
from critique_rl.tasks import made_up_facts, made_up_facts_teacher
from critique_rl.tasks.modular_chain import OPERATIONS, SUFFIX

CHAIN_PHRASES = (
    "Question: ",
    "\nSolution: ",
    "Step sentence: ",
    "\nStep sentence: ",
    "\nExplanation: ",
    "\nCorrectness of the step: ",
    "\nCorrectness of the final answer: ",
    "Correct",
    "Wrong",
    "The answer is ",
    "user\n",
    "assistant\n",
    SUFFIX,
    *(f"{operation}{operand}{equals}" for operation, operand in OPERATIONS for equals in ("", "=")),
)
FACT_PHRASES = (
    "Question: ",
    "\nSolution: ",
    made_up_facts_teacher.COMMENTS_LABEL,
    f"\n{RATING_LABEL} ",
    f"\n{made_up_facts_teacher.SUGGESTIONS_LABEL}",
    made_up_facts_teacher.STATED,
    made_up_facts_teacher.MISSING,
    made_up_facts_teacher.SURPLUS,
    "user\n",
    "assistant\n",
    *(f"{name} has " for name in made_up_facts.NAMES),
    *(f" {colour} " for colour in made_up_facts.COLOURS),
    *(f"{thing}." for thing in made_up_facts.THINGS),
    *made_up_facts.REMARKS,
)
PHRASES = {"modular_chain": CHAIN_PHRASES, "made_up_facts": FACT_PHRASES}
"""Phrases of a task that are one token each; other text is bytes. A critique of three steps has 27 tokens."""

CONTEXT = 512


def build_tokenizer(task: str = "modular_chain") -> PreTrainedTokenizerBase:
    """Tokenizer of a task without images, with the task's phrases as single tokens."""
    return byte_tokenizer(PHRASES[task], chat_template="chatml")


def build_model(tokenizer: PreTrainedTokenizerBase, *, seed: int) -> PreTrainedModel:
    """Untrained Qwen2 model in float32; `seed` fixes its weights."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return seeded_model(Qwen2ForCausalLM, config, tokenizer, seed)


def untrained(
    task: str = "modular_chain", *, seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | ProcessorMixin]:
    """Untrained model of `base: tiny` for a task, and its tokenizer, or its processor if the task has images."""
    if task == "drawings":
        from critique_rl.cold_start import tiny_vl

        tokenizer = tiny_vl.build_tokenizer()
        return tiny_vl.build_model(tokenizer, seed=seed), tiny_vl.build_processor(tokenizer)
    tokenizer = build_tokenizer(task)
    return build_model(tokenizer, seed=seed), tokenizer


def save_untrained(directory: str | Path, *, seed: int, task: str = "modular_chain") -> None:
    """Write an untrained model and its tokenizer or processor where `from_pretrained` finds them."""
    for part in untrained(task, seed=seed):
        part.save_pretrained(directory)
