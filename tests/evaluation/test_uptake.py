"""What the actor does with critiques, by hand."""

from __future__ import annotations

import pytest

from critique_rl.evaluation.episodes import Episode
from critique_rl.evaluation.uptake import uptake


def episode(response: str, right: bool | None, verdict: str, said: str, refinement: str | None) -> Episode:
    """An episode of a question with gold 7 whose critique says something and ends in a verdict."""
    critique = f"{said}\nCorrectness of the final answer: {verdict}"
    texts = ("q", "demo", "What is 3 + 4?", "7", "number", f"The answer is {response}.", right, critique)
    return Episode(*texts, verdict.lower(), refinement and f"The answer is {refinement}.", None, 5)


def test_shares_by_hand() -> None:
    episodes = [
        episode("7", True, "Correct", "3 + 4 = 7.", "7"),  # follows a right verdict
        episode("7", True, "Correct", "Fine.", "8"),  # does not
        episode("7", True, "Wrong", "It should be 12.", "12"),  # follows a wrong one, takes 12
        episode("8", False, "Wrong", "Add: 7, not 8.", "7.0"),  # follows a right one, takes 7
        episode("8", False, "Wrong", "It is 9.", "8"),  # stays
        episode("8", False, "Correct", "It is 8.", "8"),  # follows a wrong one; 8 is no new number
        episode("8", None, "Wrong", "Hm.", "9"),  # the truth is unknown
        episode("8", False, "unparsed", "It is 5.", "5"),  # takes 5
        episode("nothing", False, "Wrong", "No.", "7"),  # no answer before
        episode("8", False, "Wrong", "It is 6.", None),  # no refinement
    ]
    assert uptake(episodes) == pytest.approx(
        {
            "changed_after_wrong": 3 / 4,
            "kept_after_correct": 2 / 3,
            "followed_right_verdict": 2 / 4,
            "followed_wrong_verdict": 2 / 2,
            "took_stated_value": 3 / 4,
            "n_verdicts": 7,
            "n_stated": 4,
        }
    )


def test_numbers_of_question_and_response_are_not_stated() -> None:
    taken = episode("8", False, "Wrong", "3 + 4 is not 8. x2 is a name, 1,000.50 a number.", "1000.5")
    assert uptake([taken])["took_stated_value"] == 1.0
    nothing_new = episode("8", False, "Wrong", "3 + 4 is not 8.", "4")
    assert uptake([nothing_new])["took_stated_value"] is None


def test_without_critiques_there_is_nothing_to_follow() -> None:
    shares = uptake([])
    assert shares.pop("n_verdicts") == shares.pop("n_stated") == 0
    assert set(shares.values()) == {None}
