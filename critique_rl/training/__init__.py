"""The trainer of critics on trl's GRPOTrainer, and its uses: the two stages of Critique-RL, the critic of pairs.

May import actors, grading, rewards, prompts, vision and what is below them; no method, run or report.
"""
