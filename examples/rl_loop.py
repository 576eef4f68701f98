"""Both stages of Critique-RL in one loop, without a trainer, on the models that the package ships.

The actor is frozen. The critic learns: Stage I rewards its verdict, Stage II also the actor's refinement.
`python examples/rl_loop.py` takes a minute on one CPU core and prints a line a step, among them:

OUTPUT
"""

import argparse
from copy import deepcopy
from importlib.resources import files

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, logging

from critique_rl import TransformersActor, rewards
from critique_rl.grading import grade_batch
from critique_rl.prompts import parse_verdict, prompt_set
from critique_rl.tasks import load_task
from critique_rl.training.objectives import kl_k1, kl_k3, rloo_advantages, token_advantages
from critique_rl.types import Sampling, child_seed

B, G = 32, 4  # responses a step, critiques of each response; N = B * G critiques of up to T tokens
BETA, BETA_1, CLIP = 0.02, 0.2, 0.2  # weight of the KL, weight of r_dis in Stage II, clip range of the ratio
MODELS = files("critique_rl") / "assets" / "tiny"
PROMPTS = prompt_set("compact")


def right(problems, replies):
    """Whether each reply ends in the gold answer of its problem."""
    pairs = zip(problems, replies, strict=True)
    return grade_batch([{"gold": p.answer, "reply": y.text, "kind": p.kind} for p, y in pairs])


def log_probabilities(model, tokens, attention, start):
    """(N, T) log-probabilities of the critiques' tokens; `tokens` and `attention` are (N, start + T)."""
    logits = model(input_ids=tokens, attention_mask=attention).logits[:, start - 1 : -1]
    return logits.log_softmax(-1).gather(-1, tokens[:, start:, None]).squeeze(-1)


def train(steps, seed=0):
    """Train `steps` steps of Stage I, then as many of Stage II; returns the critic."""
    torch.manual_seed(seed)
    actor = TransformersActor(str(MODELS / "actor"))
    critic = AutoModelForCausalLM.from_pretrained(str(MODELS / "sft"))
    tokenizer = AutoTokenizer.from_pretrained(str(MODELS / "sft"), padding_side="left")
    optimizer = torch.optim.AdamW(critic.parameters(), lr=2e-4, betas=(0.9, 0.95), weight_decay=0.0)
    questions = load_task("modular_chain", split="train", size=20_000)
    for step in range(2 * steps):
        stage = 1 + step // steps
        if step % steps == 0:
            reference = deepcopy(critic)  # the KL of a stage is taken to the critic that it starts from

        # 1. The actor answers B questions. The critic writes G critiques of each response.
        batch = [questions[(step * B + i) % len(questions)] for i in range(B)]
        sampling = Sampling(max_tokens=24, temperature=0.7, seed=child_seed(seed, "responses", step))
        answers = actor.generate([PROMPTS.reasoning_prompt(p.question) for p in batch], sampling)
        problems, responses = [p for p in batch for _ in range(G)], [y for y in answers for _ in range(G)]
        pairs = list(zip(problems, responses, strict=True))
        prompt = tokenizer.apply_chat_template(
            [PROMPTS.critique_prompt(p.question, y.text) for p, y in pairs],
            **{"add_generation_prompt": True, "padding": True, "return_dict": True, "return_tensors": "pt"},
        )
        start = prompt["input_ids"].size(1)
        tokens = critic.generate(**prompt, max_new_tokens=48, do_sample=True, top_k=0, use_cache=True)
        critiques = tokenizer.batch_decode(tokens[:, start:], skip_special_tokens=True)
        end = (tokens[:, start:] == tokenizer.eos_token_id).long()
        mask = (end.cumsum(1) - end == 0).long()  # (N, T): 1 up to the token that ends the critique
        attention = torch.cat([prompt["attention_mask"], mask], dim=1)

        # 2. Read the verdicts. The actor refines each response after its critique.
        verdicts = [parse_verdict(c) for c in critiques]
        chats = [
            PROMPTS.refinement_prompt(p.question, y.text, c)
            for (p, y), c in zip(pairs, critiques, strict=True)
        ]
        refinements = actor.generate(chats, Sampling(max_tokens=24))

        # 3. Reward: r_dis in Stage I, r_refine + beta_1 r_dis in Stage II.
        grades = list(zip(verdicts, right(problems, responses), right(problems, refinements), strict=True))
        dis = [rewards.r_dis(verdict, before) for verdict, before, _ in grades]
        refine = [rewards.r_refine(before, after) for _, before, after in grades]
        both = [rewards.additive(r, d, beta_1=BETA_1) for r, d in zip(refine, dis, strict=True)]
        reward = torch.tensor(dis if stage == 1 else both)

        # 4. Advantage: the reward minus the mean of the other critiques' of that response, minus the KL from there on.
        with torch.no_grad():
            old = log_probabilities(critic, tokens, attention, start)
            anchor = log_probabilities(reference, tokens, attention, start)
        advantages = rloo_advantages(reward.view(B, G)).flatten()
        advantages = token_advantages(advantages, kl_k1(old, anchor), mask, beta=BETA)  # (N, T)

        # 5. Clipped policy gradient: two passes over the critiques, in two halves each.
        for part in [half for _ in range(2) for half in torch.randperm(B * G).chunk(2)]:
            new = log_probabilities(critic, tokens[part], attention[part], start)
            ratio, gain = (new - old[part]).exp(), advantages[part]
            clipped = torch.minimum(ratio * gain, ratio.clamp(1 - CLIP, 1 + CLIP) * gain)
            optimizer.zero_grad()
            (-(clipped * mask[part]).sum() / mask[part].sum()).backward()
            torch.nn.utils.clip_grad_norm_(critic.parameters(), 1.0)
            optimizer.step()
        found = {
            "Acc@Dis": sum(dis) / len(dis),
            "Acc@Refine": sum(refine) / len(refine),
            "reward": reward.mean(),
        }
        found["KL"] = (kl_k3(old, anchor) * mask).sum(1).mean()  # of a critique, in nats
        print(
            f"stage {stage} step {step % steps + 1}", *(f"{k} {v:.3f}" for k, v in found.items()), flush=True
        )
    return critic


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=40, help="steps of each stage")
    parser.add_argument("--seed", type=int, default=0)
    logging.disable_progress_bar()
    train(**vars(parser.parse_args()))
