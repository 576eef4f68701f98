"""The names that README, documentation, notebooks and published model cards have used import as ever.

Users' scripts, cards and notebooks hold these paths. A name may move; `critique_rl.moved` then finds it under its
former path. No line is ever removed here.
"""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys

import pytest

import critique_rl
from critique_rl.moved import FORMER, FormerPaths

PUBLISHED = """
critique_rl: OpenAIActor PairwiseCriticConfig PairwiseCriticTrainer Stage1Config Stage1Trainer
    Stage2Config Stage2Trainer TransformersActor rewards tiny_vl
critique_rl.actors: BACKENDS TransformersActor
critique_rl.actors.base: check_request
critique_rl.arms:
critique_rl.artifacts:
critique_rl.audit: judge_prompt
critique_rl.baselines: BASELINES
critique_rl.baselines.actor_rl:
critique_rl.baselines.label_sft:
critique_rl.baselines.mixed:
critique_rl.baselines.pairwise_critic:
critique_rl.baselines.score:
critique_rl.baselines.self_training:
critique_rl.baselines.super_correct:
critique_rl.callbacks:
critique_rl.citations:
critique_rl.cli:
critique_rl.cold_start: base_examples critic_examples fine_tune
critique_rl.config: load_config
critique_rl.critic_data: load_pairs pairs_of_responses swap to_dataset
critique_rl.critic_data.pairs: balance
critique_rl.display: Display
critique_rl.evaluation: Course Protocol evaluate read_episodes
critique_rl.grading: explain extract_answer grade grade_batch paper_compat
critique_rl.grading.paper_compat: grade
critique_rl.images: image_bytes
critique_rl.localisation: first_flagged_step step_judgments
critique_rl.measures: by_round
critique_rl.metrics: metrics
critique_rl.model_card:
critique_rl.notebook: COMMITTED EXPERIMENTS cases claims episodes examples figure lines measured
    run_scripts sheet start table
critique_rl.objectives: KL_ESTIMATES clipped_reference gae grpo_advantages kl_forward kl_k1
    rloo_advantages token_advantages value_loss whiten with_own_cost
critique_rl.pair_evaluation:
critique_rl.pairwise: PairwiseCriticTrainer
critique_rl.pairwise_rewards: completion_text legacy_r_format legacy_r_pref pairwise_reward
    parse_preference r_format r_pref
critique_rl.pipeline: Run
critique_rl.plan:
critique_rl.policy_benchmarks: command
critique_rl.pool: collect_pool
critique_rl.preflight:
critique_rl.prompts: COMPACT PAPER PROMPT_SETS VERDICT_LABEL Verdict paper_compat_judgment_is_right
    parse_rating parse_verdict prompt_set
critique_rl.recorded:
critique_rl.report:
critique_rl.reports:
critique_rl.reward_benchmarks:
critique_rl.reward_benchmarks.measures: metrics_by_item
critique_rl.rewards: REFINEMENT_REWARDS additive gated r_correction r_delta r_dis r_dis_scored r_refine
critique_rl.scaling: chains interval majority_at majority_by_problem majority_vote outcome pass_at
    pass_at_k pass_by_problem tokens_at
critique_rl.scoring: ScoreRange make_scorer
critique_rl.self_critique: Item curve judge_summary tournament tournaments
critique_rl.self_critique.knockout: tournament
critique_rl.stages: CritiqueReward CritiqueTrainer Stage2Trainer
critique_rl.standalone:
critique_rl.study:
critique_rl.tables:
critique_rl.tasks: TASKS Task gold_report load_task
critique_rl.tasks.drawings_teacher: Annotator Judge Looker
critique_rl.tasks.modular_chain: Chain SUFFIX
critique_rl.tasks.modular_chain_teacher: Annotator Solver
critique_rl.tasks.published: load_published make_problem
critique_rl.tasks.rows: HubSplit Row
critique_rl.teachers: ScriptedTeacher
critique_rl.tiny: save_untrained
critique_rl.tiny_vl: save_untrained
critique_rl.trainer: CriticTrainer load_critic
critique_rl.types: Conversation Generation Problem Sampling UserError
critique_rl.value_model:
critique_rl.view:
critique_rl.vision:
"""
"""A module and its names in each paragraph; a module without names was published as a whole."""
USES = [
    (module, name)
    for module, _, names in (
        line.partition(":") for line in PUBLISHED.replace("\n    ", " ").split("\n") if line
    )
    for name in names.split() or [""]
]


@pytest.mark.parametrize(("module", "name"), USES, ids=lambda part: part)
def test_a_published_name_imports(module: str, name: str) -> None:
    imported = importlib.import_module(module)
    if name:
        exec(f"from {module} import {name}", {})
        # A former path hands out the object itself: `isinstance` and `except` work whatever path it came from.
        value = getattr(imported, name)
        if getattr(value, "__module__", "").startswith("critique_rl") and hasattr(value, "__name__"):
            assert getattr(importlib.import_module(value.__module__), value.__name__) is value


def test_the_package_has_the_names_that_it_lists() -> None:
    for name in critique_rl.__all__:
        assert getattr(critique_rl, name).__name__ == name
    with pytest.raises(AttributeError, match="no_such_name"):
        critique_rl.no_such_name  # noqa: B018


@pytest.mark.parametrize("former", sorted(FORMER))
def test_a_former_path_leads_to_modules_that_exist(former: str) -> None:
    for home in FORMER[former]:
        assert importlib.util.find_spec(f"critique_rl.{home}") is not None, home
    with pytest.raises(ImportError):
        exec(f"from critique_rl.{former} import no_such_name", {})


def test_modules_of_other_packages_are_left_alone() -> None:
    """`fsspec.callbacks` and `trl.trainer` end like former paths."""
    for former in FORMER:
        assert FormerPaths().find_spec(former) is None
        assert FormerPaths().find_spec(f"fsspec.{former}") is None
        assert FormerPaths().find_spec(f"other.critique_rl.{former}") is None


def test_a_former_path_of_one_module_is_that_module() -> None:
    """Two copies would have two classes of one name."""
    for former, new in (("callbacks", "training.callbacks"), ("baselines.mixed", "methods.mixed")):
        old = importlib.import_module(f"critique_rl.{former}")
        assert old is importlib.import_module(f"critique_rl.{new}")


def test_the_published_program_runs() -> None:
    command = [sys.executable, "-m", "critique_rl.cli", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout.lower()
