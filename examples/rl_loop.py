"""Both stages of Critique-RL in one loop, without a trainer, on the models that the package ships.

The actor is frozen. The critic learns: Stage I rewards its verdict, Stage II also the actor's refinement.

    python examples/rl_loop.py --steps 30
"""

import argparse
from copy import deepcopy
from importlib.resources import files

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, logging

from critique_rl import TransformersActor, rewards
from critique_rl.grading import grade_batch
from critique_rl.prompts import parse_verdict, prompt_set
from critique_rl.tasks import load_task
from critique_rl.training.objectives import kl_k1, kl_k3, rloo_advantages, token_advantages
from critique_rl.types import Sampling, child_seed

B, G = 32, 4  # responses in a step, critiques of each response; N = B * G critiques of up to T tokens
BETA, BETA_1, CLIP = 0.02, 0.2, 0.2  # weight of the KL, weight of r_dis in Stage II, clip range of the ratio
MODELS = files("critique_rl") / "assets" / "tiny"
PROMPTS = prompt_set("compact")


def oracle(problems: list, replies: list) -> list:
    """Grade each reply against its problem's gold answer: True, False, or None if it cannot be graded."""
    items = ({"gold": p.answer, "reply": y, "kind": p.kind} for p, y in zip(problems, replies, strict=True))
    return grade_batch(list(items))


def log_probabilities(model, tokens: Tensor, attention: Tensor, start: int) -> Tensor:
    """(N, T) log-probabilities of the tokens from position `start` on; `tokens` is (N, start + T)."""
    logits = model(input_ids=tokens, attention_mask=attention).logits[:, start - 1 : -1]
    return logits.log_softmax(-1).gather(-1, tokens[:, start:, None]).squeeze(-1)


def train(steps: int, seed: int) -> AutoModelForCausalLM:
    """Train a critic for `steps` steps of each stage."""
    torch.manual_seed(seed)
    actor = TransformersActor(str(MODELS / "actor"))
    critic = AutoModelForCausalLM.from_pretrained(str(MODELS / "sft"))
    tokenizer = AutoTokenizer.from_pretrained(str(MODELS / "sft"), padding_side="left")
    optimizer = torch.optim.AdamW(critic.parameters(), lr=2e-4, betas=(0.9, 0.95), weight_decay=0.0)
    questions = load_task("modular_chain", split="train", size=20_000)
    for step in range(2 * steps):
        stage = 1 if step < steps else 2
        if step in (0, steps):
            reference = deepcopy(critic)  # a stage's KL is taken to the critic that the stage starts from

        # 1. The actor answers B questions. The critic writes G critiques of each response.
        batch = [questions[(step * B + i) % len(questions)] for i in range(B)]
        drawn = Sampling(24, temperature=0.7, seed=child_seed(seed, "responses", step))
        answers = actor.generate([PROMPTS.reasoning_prompt(p.question) for p in batch], drawn)
        problems = [p for p in batch for _ in range(G)]
        responses = [y.text for y in answers for _ in range(G)]
        chats = [PROMPTS.critique_prompt(p.question, y) for p, y in zip(problems, responses, strict=True)]
        prompt = tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt"
        )
        tokens = critic.generate(**prompt, max_new_tokens=48, do_sample=True, top_k=0, use_cache=True)
        start = prompt["input_ids"].size(1)
        critiques = tokenizer.batch_decode(tokens[:, start:], skip_special_tokens=True)
        is_end = (tokens[:, start:] == tokenizer.eos_token_id).long()
        mask = (is_end.cumsum(1) - is_end == 0).long()  # (N, T): 1 up to the end of the critique

        # 2. Read the verdicts. The actor refines its responses after the critiques.
        verdicts = [parse_verdict(c) for c in critiques]
        asked = zip(problems, responses, critiques, strict=True)
        refined = actor.generate([PROMPTS.refinement_prompt(p.question, y, c) for p, y, c in asked], Sampling(24))

        # 3. Reward: r_dis in Stage I, r_refine + beta_1 r_dis in Stage II.
        before, after = oracle(problems, responses), oracle(problems, [z.text for z in refined])
        dis = [rewards.r_dis(v, o) for v, o in zip(verdicts, before, strict=True)]
        refine = [rewards.r_refine(o, z) for o, z in zip(before, after, strict=True)]
        both = [rewards.additive(r, d, beta_1=BETA_1) for r, d in zip(refine, dis, strict=True)]
        reward = torch.tensor(dis if stage == 1 else both)

        # 4. Advantages: each critique against the other critiques of its response; each token pays for its KL.
        attention = torch.cat([prompt["attention_mask"], mask], dim=1)
        with torch.no_grad():
            old = log_probabilities(critic, tokens, attention, start)
            anchor = log_probabilities(reference, tokens, attention, start)
        advantages = rloo_advantages(reward.view(B, G)).view(-1)
        advantages = token_advantages(advantages, kl_k1(old, anchor), mask, beta=BETA)

        # 5. Clipped policy gradient: two passes over the critiques, in two parts each.
        for part in (p for _ in range(2) for p in torch.randperm(B * G).split(B * G // 2)):
            new = log_probabilities(critic, tokens[part], attention[part], start)
            ratio = (new - old[part]).exp()
            gain = torch.minimum(
                ratio * advantages[part], ratio.clamp(1 - CLIP, 1 + CLIP) * advantages[part]
            )
            loss = -(gain * mask[part]).sum() / mask[part].sum()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(critic.parameters(), 1.0)
            optimizer.step()
        kl = (kl_k3(old, anchor) * mask).sum(1).mean()
        print(
            f"stage {stage}  step {step % steps + 1:3}  Acc@Dis {sum(dis) / len(dis):.2f}  "
            f"Acc@Refine {sum(refine) / len(refine):.2f}  reward {reward.mean():.2f}  KL {kl:.3f}", flush=True
        )
    return critic


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=30, help="steps of each stage")
    parser.add_argument("--seed", type=int, default=0)
    logging.disable_progress_bar()
    train(**vars(parser.parse_args()))
