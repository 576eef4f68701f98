"""Memory of a training by part: the formula, the launches that ship, and what a plan refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from helpers import CONFIGS, ROOT

from critique_rl.cli import main
from critique_rl.config.run import RunConfig, load_config
from critique_rl.runs.fit import check_batch, memory_lines, trainings
from critique_rl.runs.launch import GIB, GPUS, Launch, read_launch
from critique_rl.runs.memory import Training, activations, adapter_weights, cache, need
from critique_rl.runs.sizes import PUBLISHED, Size
from critique_rl.types import UserError

LAUNCHES = ROOT / "experiments" / "launch"
A100 = GPUS["A100-80GB"]
SEVEN_B, SEVEN_B_SHAPE = PUBLISHED["Qwen/Qwen2.5-7B"]
SIZE = Size(SEVEN_B, "", SEVEN_B_SHAPE)
FULL = Training(
    parameters=SEVEN_B,
    shape=SEVEN_B_SHAPE,
    trained=SEVEN_B,
    rows=4,
    tokens=3072,
    completion=1536,
    reference=True,
)
FSDP, ZERO3, DDP = (Launch(kind, 8) for kind in ("fsdp", "zero3", "ddp"))


def seven_b(*changes: str) -> RunConfig:
    return load_config(CONFIGS / "qwen2.5-7b.yaml", changes)


# -- launches -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "launch"),
    [
        ("one", Launch("one", 1, 1)),
        ("ddp", Launch("ddp", 8, 1)),
        ("ddp-2x8", Launch("ddp", 16, 2)),
        ("fsdp2", Launch("fsdp", 8, 1)),
        ("fsdp2-2x8", Launch("fsdp", 16, 2)),
        ("zero3", Launch("zero3", 8, 1)),
        ("zero3-2x8", Launch("zero3", 16, 2)),
    ],
)
def test_a_launch_that_ships_is_read_as_accelerate_reads_it(name: str, launch: Launch) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    path = LAUNCHES / f"{name}.yaml"
    assert read_launch(path) == launch._replace(path=str(path))
    theirs = load_config_from_file(str(path))
    assert (theirs.num_processes, theirs.num_machines) == (launch.processes, launch.machines)
    assert theirs.mixed_precision == "bf16" and theirs.use_cpu is False


def test_every_large_preset_names_a_launch_that_is_there() -> None:
    for path in CONFIGS.glob("*.yaml"):
        config = load_config(path)
        on_gpu = not all(stage.trainer.get("use_cpu") for stage in config.stages.values())
        assert (config.launch is not None) == on_gpu, path.name
        if config.launch is not None:
            read_launch(config.launch)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: 1", "no distributed_type"),
        ("distributed_type: MEGATRON_LM", "MEGATRON_LM is not planned"),
        ("distributed_type: DEEPSPEED\ndeepspeed_config: {deepspeed_config_file: x.json}", "zero_stage"),
        ("distributed_type: FSDP\nfsdp_config: {fsdp_reshard_after_forward: HYBRID_SHARD}", "HYBRID_SHARD"),
        ("distributed_type: MULTI_GPU\nnum_processes: 0", "numbers above 0"),
    ],
)
def test_a_launch_that_is_not_planned_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "launch.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=reason):
        read_launch(tmp_path / "launch.yaml")
    with pytest.raises(UserError, match="no launch at"):
        read_launch(tmp_path / "absent.yaml")


# -- the formula --------------------------------------------------------------------------------------------


def test_a_full_fine_tune_keeps_five_float32_numbers_a_weight() -> None:
    kept = need(FULL, Launch()).kept
    assert {name: size / SEVEN_B for name, size in kept.items()} == {
        "weights": 4,
        "gradients": 4,
        "moments": 8,
        "reference": 4,
    }
    assert need(FULL, DDP).kept["gradients"] == 8 * SEVEN_B  # and DDP's buckets


@pytest.mark.parametrize(("launch", "numbers"), [(FSDP, 20), (ZERO3, 18)])
def test_shards_are_an_eighth_each(launch: Launch, numbers: int) -> None:
    kept = need(FULL, launch).kept
    assert sum(kept.values()) == pytest.approx(numbers * SEVEN_B / 8)
    sixteen = need(FULL, launch._replace(processes=16)).kept
    assert sum(sixteen.values()) == pytest.approx(sum(kept.values()) / 2)


def test_an_adapter_shares_its_weights_with_its_reference() -> None:
    trained = adapter_weights(SEVEN_B_SHAPE, rank=16)
    assert 0.003 < trained / SEVEN_B < 0.007
    kept = need(replace(FULL, trained=trained, reference=False), DDP).kept
    assert kept["weights"] == 4 * SEVEN_B and "reference" not in kept
    assert sum(kept.values()) < 4.1 * SEVEN_B


def test_the_value_model_of_ppo_is_whole_on_each_gpu() -> None:
    with_values = need(replace(FULL, values=True), DDP).kept
    assert with_values["value model"] == 16 * SEVEN_B


def test_keys_and_values_are_those_of_all_texts_that_are_drawn_at_once() -> None:
    assert cache(SEVEN_B_SHAPE, 1, 2) == 57_344  # bytes a token of Qwen2.5-7B
    drawing = need(replace(FULL, drawn=32), FSDP).phases["drawing critiques"]
    assert drawing["KV cache"] == 32 * 3072 * 57_344
    assert "drawing critiques" not in need(FULL, FSDP).phases


def test_the_largest_phase_counts_and_not_all() -> None:
    wanted = need(replace(FULL, drawn=32), FSDP)
    phases = {name: sum(parts.values()) for name, parts in wanted.phases.items()}
    assert sum(wanted.peak.values()) == max(phases.values()) < sum(phases.values())
    assert wanted.total > sum(wanted.kept.values()) + max(phases.values())


def test_activations_grow_with_rows_and_images_and_without_recomputation() -> None:
    plain = activations(FULL, FSDP)
    assert activations(replace(FULL, rows=8), FSDP) == pytest.approx(2 * plain)
    assert activations(replace(FULL, recomputes=False), FSDP) > 5 * plain
    assert activations(replace(FULL, pixels=1e6), FSDP) > plain


def test_what_waits_on_the_cpu_is_not_on_the_gpu() -> None:
    assert "moments" not in need(FULL, ZERO3._replace(optimizer_on_cpu=True)).kept
    assert need(FULL, FSDP._replace(weights_on_cpu=True)).kept == {}


# -- the trainings of a run ---------------------------------------------------------------------------------


@pytest.mark.parametrize("launch", ["one", "ddp", "ddp-2x8"])
def test_seven_billion_weights_unsharded_do_not_fit_80_gb(launch: str) -> None:
    with pytest.raises(UserError, match=r"does not fit: about .*weights 28\.4.*fsdp2\.yaml.*`lora`"):
        memory_lines(seven_b(), read_launch(LAUNCHES / f"{launch}.yaml"), A100, SIZE)


@pytest.mark.parametrize("launch", ["fsdp2", "fsdp2-2x8", "zero3", "zero3-2x8"])
def test_seven_billion_weights_in_parts_fit(launch: str) -> None:
    config, started = seven_b(), read_launch(LAUNCHES / f"{launch}.yaml")
    planned = {one.name: one.need for one in trainings(config, started, A100, SIZE)}
    assert list(planned) == ["actor SFT", "critic SFT", "stage1", "stage2", "r_refine_only"]
    assert all(one.total < A100.memory for one in planned.values())
    assert "actor" in planned["stage2"].kept and "KV cache of the actor" in str(planned["stage2"].phases)


def test_a_served_actor_and_critiques_by_vllm_take_nothing_here() -> None:
    changes = ["actor_server=http://localhost:8001/v1", "stages.stage2.trainer.use_vllm=true"]
    server = seven_b(*changes, "stages.stage2.trainer.vllm_mode=server")
    (stage2,) = (one.need for one in trainings(server, FSDP, A100, SIZE) if one.name == "stage2")
    assert "actor" not in stage2.kept and "vLLM" not in stage2.kept
    assert "drawing critiques" not in stage2.phases
    beside = seven_b(*changes, "stages.stage2.trainer.vllm_mode=colocate")
    (stage2,) = (one.need for one in trainings(beside, FSDP, A100, SIZE) if one.name == "stage2")
    assert stage2.kept["vLLM"] == pytest.approx(0.3 * A100.memory)


def test_a_rollout_whose_cache_is_too_large_is_refused_with_the_way_out() -> None:
    config = load_config(CONFIGS / "qwen2.5-vl-7b.yaml", ["stages.critic.trainer.use_vllm=false"])
    parameters, shape = PUBLISHED["Qwen/Qwen2.5-VL-7B-Instruct"]
    with pytest.raises(UserError, match=r"KV cache 112\.0.*use_vllm: true"):
        memory_lines(config, FSDP, A100, Size(parameters, "", shape))


def test_a_stage_that_goes_on_with_an_adapter_is_an_adapter() -> None:
    """One place decides it for the memory and for the hours: `RunConfig.trains_adapter`."""
    config = seven_b("stages.stage1.lora={r: 16}", "cold_start.actor_sft={}", "cold_start.critic_sft={}")
    assert [config.trains_adapter(name) for name in ("stage1", "stage2", "r_refine_only", "sft")] == [
        True,
        True,
        False,
        False,
    ]
    planned = {one.name: one.need for one in trainings(config, FSDP, A100, SIZE)}
    assert planned["stage2"].kept["moments"] < 0.1 * GIB < planned["r_refine_only"].kept["moments"]


def test_processes_that_cannot_share_a_rollout_are_refused_with_the_nearest_that_they_can() -> None:
    seven = FSDP._replace(processes=7)
    with pytest.raises(
        UserError, match=r"generation_batch_size=256 is no multiple of .*4 x 7 .*: set it to 252"
    ):
        memory_lines(seven_b(), seven, A100, SIZE)
    check_batch("", 252, 4, 7, 4)


def test_a_value_model_is_refused_where_weights_are_in_parts() -> None:
    with pytest.raises(UserError, match="advantage='gae' holds its value model whole"):
        memory_lines(seven_b("stages.stage1.trainer.advantage=gae"), FSDP, A100, SIZE)


def test_score_is_refused_where_weights_are_in_parts() -> None:
    stage = "stages.score={label: SCoRe, start: actor, method: score}"
    with pytest.raises(UserError, match=r"stages\.score: .*needs whole weights.*launch/ddp\.yaml"):
        memory_lines(seven_b(stage), FSDP, A100, SIZE)


def test_a_training_on_the_cpu_is_not_compared_with_a_gpu() -> None:
    config = load_config(CONFIGS / "tiny.yaml")
    lines = memory_lines(config, Launch(), A100._replace(memory=1.0), SIZE)
    assert any(line.startswith("  stage1: ") and line.endswith("GiB on the CPU") for line in lines)


# -- the command --------------------------------------------------------------------------------------------


def test_the_command_refuses_what_does_not_fit_and_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = [
        "run",
        str(CONFIGS / "tiny.yaml"),
        "--set",
        f"output={tmp_path}",
        "--set",
        "base=Qwen/Qwen2.5-7B",
    ]
    stages = ("stage1", "stage2", "r_refine_only")
    options = ("use_cpu=false", "bf16=true", "per_device_train_batch_size=16")
    on_gpu = [f"stages.{name}.trainer.{option}" for name in stages for option in options]
    given = [
        *config,
        *(word for change in on_gpu for word in ("--set", change)),
        "--from-scratch",
        "--dry-run",
    ]
    assert main([*given, "--launch", str(LAUNCHES / "ddp.yaml")]) == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert error.startswith("error: stage1 does not fit: about ") and "experiments/launch/fsdp2.yaml" in error
    assert main([*given, "--launch", str(LAUNCHES / "fsdp2.yaml"), "--gpu", "H200-141GB"]) == 0
    plan = capsys.readouterr().out
    assert "8 processes, weights in parts by FSDP" in plan and "(H200-141GB)" in plan
    assert "  in all: about" in plan and "on 8 x H200-141GB" in plan
    assert main([*given, "--gpu", "A100"]) == 2 and "A100-80GB" in capsys.readouterr().err
    assert main([*config, "--launch", "x.yaml"]) == 2 and "accelerate launch" in capsys.readouterr().err
