"""TODO docstring."""

from __future__ import annotations

from dataclasses import dataclass, field

from critique_rl import rewards
from critique_rl.training.config import CriticConfig, one_of
from critique_rl.types import UserError

COLUMNS = {"question": str, "response": str, "answer": str, "kind": str}


@dataclass
class CritiqueConfig(CriticConfig):
    r"""Configuration of one stage: that of any critic, and the terms of the paper's rewards.

    Args:
        refinement_reward: `r_refine`, `r_delta` or `r_correction`; None never calls the actor (Stage I).
        combination: `additive` (paper, Eq. 9) or `gated` (released code) joining of refinement and r_dis.
        beta_1: Coefficient of r_dis beside a refinement reward; 0 drops it (`w/o discrimination`).
        signed_dis: r_dis in {-1, 1} instead of {0, 1} when it is the only reward.
        response_source: `pool` (released code: the dataset's responses) or `online` (Algorithm 1: the actor
            answers each question afresh).
        response_max_tokens: Most tokens of an online response.
        response_temperature: Sampling temperature of an online response.
        refinement_max_tokens: Most tokens of a refinement.
        refinement_temperature: Sampling temperature of a refinement; 0 is greedy.
        tolerance: Distance from the true rating at which r_dis of a scored reply reaches 0; None is for replies
            that are right or wrong.
        oracle_noise: Share of the labels o and o' that the rewards see inverted, by a hash of their text. What is
            logged of judgment and refinement uses the true ones.
    """

    refinement_reward: str | None = field(default=None, metadata={"help": "Eq. 4, 5 or 6; none in Stage I."})
    combination: str = field(default="additive", metadata={"help": "additive (Eq. 9) or gated (code)."})
    beta_1: float = field(default=0.2, metadata={"help": "Coefficient of r_dis in Stage II, section 5.1."})
    signed_dis: bool = field(default=False, metadata={"help": "r_dis in {-1, 1} when it stands alone."})
    response_source: str = field(default="pool", metadata={"help": "pool or online."})
    response_max_tokens: int = field(default=1024, metadata={"help": "Tokens of an online response."})
    response_temperature: float = field(default=0.7, metadata={"help": "Of an online response."})
    refinement_max_tokens: int = field(default=1024, metadata={"help": "Tokens of a refinement."})
    refinement_temperature: float = field(default=0.0, metadata={"help": "0 is greedy, as released."})
    tolerance: float | None = field(default=None, metadata={"help": "delta of r_dis for scored replies."})
    oracle_noise: float = field(default=0.0, metadata={"help": "Share of inverted labels in the rewards."})

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("refinement_reward", self.refinement_reward, (None, *rewards.REFINEMENT_REWARDS))
        one_of("combination", self.combination, rewards.STAGE_2_REWARDS)
        one_of("response_source", self.response_source, ("pool", "online"))
        if self.combination == "gated" and self.refinement_reward is None:
            raise UserError("combination='gated' needs a refinement_reward; Stage I has none.")
        if self.tolerance is not None:
            self._check_scored()
        if not 0.0 <= self.oracle_noise < 0.5:
            raise UserError(f"oracle_noise={self.oracle_noise} is not between 0 and 0.5.")

    def _check_scored(self) -> None:
        """Refuse what has no meaning where replies are scored."""
        if self.tolerance is not None and self.tolerance <= 0:
            raise UserError(f"tolerance={self.tolerance} must be above 0.")
        of_grades = {
            "refinement_reward": self.refinement_reward in ("r_delta", "r_correction"),
            "combination": self.combination == "gated",
            "signed_dis": self.signed_dis,
            "oracle_noise": self.oracle_noise != 0.0,
        }
        for name, given in of_grades.items():
            if given:
                raise UserError(
                    f"{name}={getattr(self, name)!r} is for replies that are right or wrong; with tolerance="
                    f"{self.tolerance} they are scored."
                )

    @property
    def truth(self) -> str:
        """Column of the dataset that holds r_oracle(x, y)."""
        return "response_correct" if self.tolerance is None else "response_rating"


@dataclass
class Stage1Config(CritiqueConfig):
    """Stage I: reward r_dis, KL to the model the run starts from (the SFT critic). Paper Eq. 8."""


@dataclass
class Stage2Config(CritiqueConfig):
    """Stage II: reward r_refine + beta_1 r_dis, KL to the Stage I critic it starts from. Paper Eq. 9."""

    refinement_reward: str | None = field(default="r_refine", metadata={"help": "Eq. 4, 5 or 6."})
