"""TODO docstring."""

from __future__ import annotations

import re

COLUMNS = {
    "acc": "Acc",
    "acc_refine": "Acc@Refine",
    "delta": "Δ",
    "delta_ci": "c→i",
    "delta_ic": "i→c",
    "acc_dis": "Acc@Dis",
    "acc_dis_parsed": "Acc@Dis (parsed)",
    "acc_dis_balanced": "Acc@Dis (balanced)",
    "parse_rate": "parse rate",
}

SCORED_COLUMNS = {
    "score": "Score",
    "score_refine": "Score@Refine",
    "delta": "Δ",
    "mse_dis": "MSE@Dis",
    "mae_dis": "MAE@Dis",
    "parse_rate": "parse rate",
}
"""Where replies are scored: in units of the score, and of the ratings from 1 to 10."""

PAIRWISE_COLUMNS = {
    "acc": "Acc",
    "critic_acc_mean": "Critic",
    "critic_acc_both": "Critic, both orders",
    "critic_said_first": "says first",
    "critic_parse_rate": "parse rate",
}

CHOSEN = {"majority": "Majority", "self_critique": "Self critique", "pass": "Pass"}
"""Where models are critics of pairs: these, and what is chosen among N of their own samples."""

LOCALISATION_COLUMNS = {
    "first_error_acc": "First error found",
    "flagged_early": "flags earlier",
    "flagged_late": "flags later",
    "not_flagged": "flags nothing",
    "right_unflagged": "Right ones not flagged",
    "consistent_rate": "steps agree with verdict",
}


def label(metric: str) -> str:
    """Heading of a metric.

    >>> label("acc_refine"), label("pass_at_10"), label("mse_dis")
    ('Acc@Refine', 'Pass@10', 'MSE@Dis')
    """
    at = re.fullmatch(r"(\w+)_at(?:_(\d+))?", metric)
    if at:
        return f"{at[1].replace('_', ' ').capitalize()}@{at[2] or 'K'}"
    for known in (COLUMNS, SCORED_COLUMNS, PAIRWISE_COLUMNS, LOCALISATION_COLUMNS):
        if metric in known:
            return known[metric]
    return metric.replace("_", " ")


def _is_share(name: str, unit: str) -> bool:
    plain = name.startswith(("score", "mse_", "mae_", "tokens", "steps", "n_"))
    return not plain and not (unit == "score" and name == "delta")
