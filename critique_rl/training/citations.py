"""Publications to cite for the methods of this package."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Publication:
    """A publication.

    Attributes:
        name: Name of the method.
        title: Title of the publication.
        id: arXiv identifier; empty if there is none.
        citation: BibTeX entry.
    """

    name: str
    title: str
    id: str
    citation: str

    @property
    def for_trl(self) -> dict[str, str]:
        """Fields that trl's trainers take for the model cards that they write."""
        return {"title": self.title, "id": self.id, "citation": self.citation}


CRITIQUE_RL = Publication(
    "Critique-RL",
    "Critique-RL: Training Language Models for Critiquing through Two-Stage Reinforcement Learning",
    "2510.24320",
    """@misc{xi2025critiquerl,
  title         = {{Critique-RL: Training Language Models for Critiquing through Two-Stage Reinforcement
                   Learning}},
  author        = {Zhiheng Xi and Jixuan Huang and Xin Guo and Boyang Hong and Dingwen Yang and Xiaoran Fan and
                   Shuo Li and Zehui Chen and Junjie Ye and Siyu Yuan and Zhengyin Du and Xuesong Yao and Yufei Xu
                   and Jiecao Chen and Rui Zheng and Tao Gui and Qi Zhang and Xuanjing Huang},
  year          = {2025},
  eprint        = {2510.24320},
  archivePrefix = {arXiv}
}""",
)
LLAVA_CRITIC_R1 = Publication(
    "LLaVA-Critic-R1",
    "LLaVA-Critic-R1: Your Critic Model is Secretly a Strong Policy Model",
    "2509.00676",
    """@misc{wang2025llavacriticr1,
  title         = {{LLaVA-Critic-R1: Your Critic Model is Secretly a Strong Policy Model}},
  author        = {Xiyao Wang and Chunyuan Li and Jianwei Yang and Kai Zhang and Bo Liu and Tianyi Xiong and
                   Furong Huang},
  year          = {2025},
  eprint        = {2509.00676},
  archivePrefix = {arXiv}
}""",
)
TRL = Publication(
    "TRL",
    "TRL: Transformers Reinforcement Learning",
    "",
    """@software{vonwerra2020trl,
  title   = {{TRL: Transformers Reinforcement Learning}},
  author  = {von Werra, Leandro and Belkada, Younes and Tunstall, Lewis and Beeching, Edward and Thrush, Tristan
             and Lambert, Nathan and Huang, Shengyi and Rasul, Kashif and Gallouédec, Quentin},
  license = {Apache-2.0},
  url     = {https://github.com/huggingface/trl},
  year    = {2020}
}""",
)
