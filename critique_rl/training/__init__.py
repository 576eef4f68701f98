"""The one trainer of critics, on trl's GRPOTrainer, and its two users: the stages and the critic of pairs.

May import actors, grading, rewards, prompts and vision; no method, run or report.
"""
