"""Options of the two stages of Critique-RL: the rewards of the paper, and texts of the actor."""

from __future__ import annotations

from dataclasses import dataclass

from critique_rl import rewards
from critique_rl.training.config import CriticConfig, one_of, option
from critique_rl.types import UserError

COLUMNS = {"question": str, "response": str, "answer": str, "kind": str}
"""Columns of the data of both stages and their types; `CritiqueConfig.truth` is one more."""


@dataclass
class CritiqueConfig(CriticConfig):
    """Configuration of one stage: that of any critic, and the terms of the paper's rewards."""

    refinement_reward: str | None = option(
        None,
        "`r_refine` (Eq. 4), `r_delta` (Eq. 5), `r_correction` (Eq. 6); `None` (Stage I) asks no actor.",
        "paper, Eq. 8",
    )
    combination: str = option(
        "additive", "`additive`, or `gated`: -1 for a wrong verdict.", "paper, Eq. 9; released code: `gated`"
    )
    beta_1: float = option(
        0.2, "Weight of r_dis in Stage II; 0 drops it.", "paper, section 5.1; appendix G has 0.9"
    )
    signed_dis: bool = option(
        False, "r_dis in {-1, 1} if it is the only reward.", "paper, Eq. 7; the released code has -1 and 1"
    )
    response_source: str = option(
        "pool", "`pool`, or `online`: the actor answers afresh.", "released code; Algorithm 1 is `online`"
    )
    response_max_tokens: int = option(1024, "Most tokens of an online response.", "released code")
    response_temperature: float = option(0.7, "Sampling temperature of an online response.", "released code")
    refinement_max_tokens: int = option(1024, "Most tokens of a refinement.", "released code")
    refinement_temperature: float = option(
        0.0, "Sampling temperature of a refinement; 0 is greedy.", "released code"
    )
    tolerance: float | None = option(
        None,
        "For scored replies: distance from the true rating at which r_dis is 0; `None`: right and wrong.",
        "paper, appendix E, without a value",
    )
    balanced_rollouts: bool = option(
        False,
        "Each rollout has as many right as wrong responses: a chance surplus of one favours its verdict.",
        "ours",
    )
    oracle_noise: float = option(
        0.0,
        "Share of labels that rewards see inverted, by a hash of the text; metrics use the true labels.",
        "ours, for a control",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("refinement_reward", self.refinement_reward, (None, *rewards.REFINEMENT_REWARDS))
        one_of("combination", self.combination, rewards.STAGE_2_REWARDS)
        one_of("response_source", self.response_source, ("pool", "online"))
        if self.combination == "gated" and self.refinement_reward is None:
            raise UserError("combination='gated' needs a refinement_reward; Stage I has none.")
        if self.balanced_rollouts and self.response_source == "online":
            raise UserError(
                "balanced_rollouts=True needs graded responses; those of `online` are not known yet."
            )
        if self.tolerance is not None:
            self._check_scored(self.tolerance)
        if not 0.0 <= self.oracle_noise < 0.5:
            raise UserError(f"oracle_noise={self.oracle_noise} is not between 0 and 0.5.")

    def _check_scored(self, tolerance: float) -> None:
        """Refuse options that have no meaning where replies are scored."""
        if tolerance <= 0:
            raise UserError(f"tolerance={tolerance} must be above 0.")
        needs_grades = {
            "refinement_reward": self.refinement_reward in ("r_delta", "r_correction"),
            "combination": self.combination == "gated",
            "signed_dis": self.signed_dis,
            "balanced_rollouts": self.balanced_rollouts,
            "oracle_noise": self.oracle_noise != 0.0,
        }
        for name, is_set in needs_grades.items():
            if is_set:
                raise UserError(
                    f"{name}={getattr(self, name)!r} is for replies that are right or wrong; with tolerance="
                    f"{tolerance} they are scored."
                )

    @property
    def truth(self) -> str:
        """Column of the dataset that holds r_oracle(x, y)."""
        return "response_correct" if self.tolerance is None else "response_rating"


@dataclass
class Stage1Config(CritiqueConfig):
    """Stage I: reward r_dis, KL to the model that the run starts from (the SFT critic). Paper Eq. 8."""


@dataclass
class Stage2Config(CritiqueConfig):
    """Stage II: reward r_refine + beta_1 r_dis, KL to the Stage I critic that it starts from. Paper Eq. 9."""

    refinement_reward: str | None = option("r_refine", source="paper, Eq. 9")
