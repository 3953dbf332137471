"""The ahead-of-time compiler's check fails where it should, and the predictor counts loops as they are."""

from __future__ import annotations

import dataclasses
import os
import subprocess

import pytest

pytest.importorskip("triton")

from tools.aot import __main__ as aot
from tools.aot import budgets, cases, cuda, prediction, triton
from tools.aot.cases import CASES, Shape
from tools.aot.prediction import MATRIX, Every
from unitok_kernels import nvcc
from unitok_kernels.ops._triton.configs import TARGETS

GOOD = budgets.Figures("sm_90", "some 64k", "kernel", 100, 0, 0, 20480, 200, {"FADD": 9}, "IGMMA")
BUDGETS = {"sm_90": {GOOD.key: budgets.budget_of(GOOD)}}


def test_figures_within_their_budget_pass():
    assert budgets.complaints(GOOD, BUDGETS) == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"registers": 106}, "registers 106"),
        ({"shared": 30_000}, "shared 30000"),
        ({"loop": 221}, "loop 221"),
        ({"spills": 1}, "spill"),
        ({"stack": 8}, "stack of 8"),
        ({"matrix": "IMMA"}, "no IGMMA"),
        ({"matrix": ""}, "no IGMMA"),
        ({"kernel": "another"}, "no budget"),
    ],
)
def test_each_excess_fails_by_itself(change, word):
    [said] = budgets.complaints(dataclasses.replace(GOOD, **change), BUDGETS)
    assert word in said


@pytest.mark.parametrize("target", TARGETS)
def test_a_budget_does_not_excuse_more_shared_memory_than_the_target_has(target):
    figures = dataclasses.replace(GOOD, target=target, shared=budgets.SHARED_LIMITS[target] * 1024 + 1)
    [said] = budgets.complaints(figures, {target: {figures.key: budgets.budget_of(figures)}})
    assert "the target has" in said


@pytest.mark.parametrize("kind", ["IMMA", "IGMMA", "UTCIMMA", "v_mfma"])
def test_a_missing_matrix_instruction_fails(kind):
    budget = budgets.budget_of(dataclasses.replace(GOOD, matrix=kind))
    [said] = budgets.complaints(dataclasses.replace(GOOD, matrix=""), {"sm_90": {GOOD.key: budget}})
    assert f"no {kind}" in said


def test_budgets_of_cuda_kernels_keep_spills_and_stack_from_growing():
    figures = dataclasses.replace(GOOD, case="encode.cu", spills=15, stack=16)
    known = {"sm_90": {figures.key: budgets.budget_of(figures)}}
    assert budgets.complaints(figures, known) == []
    for change, word in (({"spills": 16}, "must be 15"), ({"stack": 24}, "must be 16")):
        [said] = budgets.complaints(dataclasses.replace(figures, **change), known)
        assert word in said
    assert "spills" not in budgets.budget_of(dataclasses.replace(GOOD, spills=15))


def test_code_of_an_older_triton_is_held_to_its_spills_alone(monkeypatch):
    monkeypatch.setitem(budgets.OLDER_SPILLS, GOOD.key, 3)
    assert budgets.spilled(dataclasses.replace(GOOD, spills=3, registers=255, matrix="")) == []
    for change, word in (({"spills": 4}, "must be 3"), ({"kernel": "another", "spills": 1}, "must be none")):
        figures = dataclasses.replace(GOOD, **change)
        [said] = budgets.spilled(figures)
        assert word in said
        monkeypatch.setattr(aot, "measure_all", lambda *_, figures=figures: [figures])
        assert aot.main(["--spills", "--backend", "triton"]) == 1


def test_a_matrix_instruction_outside_of_loops_does_not_count():
    outside = sass("IMMA R0", "L1:", "FADD R1", "@P0 BRA `(.L1)", "EXIT")
    inside = sass("L1:", "IMMA R1", "@P0 BRA `(.L1)", "L2:", *["FADD R1"] * 9, "@P0 BRA `(.L2)", "EXIT")
    assert budgets.figures_of(outside)["matrix"] == ""
    found = budgets.figures_of(inside)
    assert (found["matrix"], found["loop"]) == ("IMMA", 2)


def test_kernels_have_the_names_of_the_source():
    names = [
        "_ZN6unitok6encodeILi128ENS_9WarpgroupEEEvNS_10EncodeCallENS_4RoomIXT_EEE",
        "_ZN6unitok41_GLOBAL__N__84d54e29_9_encode_cu_cabe91f76finishENS_6ChainsES1_iliPfS2_Pl",
    ]
    assert list(cuda.readable(names).values()) == ["encode<128, Warpgroup>", "finish"]


def test_a_source_for_sm_90a_is_read_on_sm_90_alone():
    targets = ["sm_80", "sm_90", "sm_100", "gfx942"]
    assert [cuda.architecture(t, "encode.cu") for t in targets] == ["sm_80", "sm_90", "sm_100", None]
    assert [cuda.architecture(t, "encode_sm90a.cu") for t in targets] == [None, "sm_90a", None, None]


def test_without_nvcc_the_cuda_kernels_are_left_out_and_a_line_says_so(monkeypatch, capsys):
    monkeypatch.setattr(nvcc, "find", lambda: None)
    monkeypatch.setattr(aot, "measure_all", lambda targets, cases, sources: [] if not sources else pytest.fail("nvcc"))
    assert aot.main(["--check", "--backend", "cuda"]) == 0
    assert "csrc/cuda: left out, there is no nvcc" in capsys.readouterr().err


def test_the_cuda_kernels_are_compiled_where_there_is_nvcc_and_their_cubins_kept(monkeypatch, tmp_path):
    calls = []

    def run(command, **options):
        calls.append(command)
        if "-cubin" in command:
            command[-1].write_bytes(b"code")
        return subprocess.CompletedProcess(command, 0, stdout="nvcc 1")

    monkeypatch.setattr(nvcc, "find", lambda: "nvcc")
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(cuda, "KEPT", tmp_path)
    assert cuda.missing() is None
    for flags, made in ((nvcc.FLAGS, 1), (nvcc.FLAGS, 1), (("-O1",), 2)):
        monkeypatch.setattr(nvcc, "FLAGS", flags)
        assert cuda.compiled("sm_90", cuda.sources()[0]) == b"code"
        assert sum("-cubin" in command for command in calls) == made
        assert len(list(tmp_path.iterdir())) == 1


def test_a_kept_cubin_goes_with_every_file_that_it_was_made_of(monkeypatch, tmp_path):
    texts = {"cuda/room/a.cu": '#include "near.h"', "cuda/room/near.h": '#include "far.cuh"', "cuda/far.cuh": ""}
    texts |= {
        "cuda/other.h": "",
        "cpu/number.h": "",
        "cuda/room/b.cu": '#include "../../cpu/number.h"\n#include <cmath>',
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(cuda, "CSRC", tmp_path)
    assert {path.name for path in cuda.read_with(tmp_path / "cuda/room/a.cu")} == {"a.cu", "near.h", "far.cuh"}
    assert {path.name for path in cuda.read_with(tmp_path / "cuda/room/b.cu")} == {"b.cu", "number.h"}
    assert cuda.sources() == ["a.cu", "b.cu"]


@pytest.mark.parametrize(("figures", "status"), [(GOOD, 0), (dataclasses.replace(GOOD, spills=2), 1)])
def test_the_exit_status_of_check(figures, status, monkeypatch, tmp_path):
    path = tmp_path / "budgets.json"
    budgets.write_budgets([GOOD], path)
    monkeypatch.setattr(aot, "BUDGETS", path)
    monkeypatch.setattr(aot, "measure_all", lambda *_: [figures])
    assert aot.main(["--check", "--op", "residual_encode"]) == status


def test_an_unknown_operation_is_refused(capsys):
    assert aot.main(["--op", "nothing"]) == 2
    assert "residual_encode" in capsys.readouterr().err


def sass(*lines: str) -> prediction.Loop:
    """Make a listing of labels ("L1:") and instructions, and give its loops."""
    text = [
        f".{line}" if line.endswith(":") else f"        /*{16 * n:04x}*/   {line} ;" for n, line in enumerate(lines)
    ]
    return prediction.kernels("\n".join([".text.k:", *text]))["k"]


def test_loops_nest_and_run_as_often_as_said():
    code = sass("MOV R0", "L1:", "IADD R1", "L2:", "HMMA R2", "FADD R3", "@P0 BRA `(.L2)", "@P1 BRA `(.L1)", "EXIT")
    assert prediction.slots(code, ({"": 4}, {MATRIX: 8, "": 1000})) == 2 + 4 * (2 + 8 * 3)


def test_a_rare_block_that_jumps_back_is_no_loop():
    code = sass("@P0 BRA `(.L2)", "L1:", "FADD R1", "EXIT", "L2:", "MOV R2", "BRA `(.L1)")
    assert code.inner == []


def test_a_call_out_of_a_loop_is_a_jump_and_a_divergent_branch_is_not():
    code = sass("L1:", "BRA.DIV UR4, `(.L3)", "@P0 CALL.REL.NOINC `(.L2)", "BRA `(.L1)", "L2:", "EXIT", "L3:", "MOV R1")
    assert sum(code.inner[0].mix.values()) == 3
    assert sum(code.mix.values()) == 1


def test_an_unrolled_loop_runs_less_often():
    code = sass("L1:", *["HMMA R1"] * 8, "FADD R2", "@P0 BRA `(.L1)", "EXIT")
    assert prediction.slots(code, ({MATRIX: Every(32, "HMMA", 4)},)) == 1 + 16 * 10


def test_a_loop_that_nobody_has_given_trips_is_refused():
    with pytest.raises(ValueError, match="no trips are given"):
        prediction.slots(sass("L1:", "FADD R1", "@P0 BRA `(.L1)", "EXIT"), ())


def test_the_amd_assembler_is_read_too():
    loop = [".LBB0_1:", "\tv_mfma_f32 a", "\tv_add b", "\ts_cbranch_scc1 .LBB0_1"]
    lines = ["k:      ; @k", "\ts_load x", *loop, "\ts_endpgm", ".Lfunc_end0:"]
    code = prediction.kernels("\n".join(lines))["k"]
    assert prediction.slots(code, ({MATRIX: 10},)) == 10  # vector instructions alone


@pytest.mark.parametrize(
    ("slots_a_warp", "rows_a_warp", "milliseconds"),
    [(49 * 256 * 4, 32, 1.75), (156 / 2 * 32 * 4, 16, 0.70), (123 / 2 * 32 * 4, 16, 0.55)],
)
def test_the_time_of_known_counts(slots_a_warp, rows_a_warp, milliseconds):
    seconds = prediction.issue_seconds(slots_a_warp, 1e6 / rows_a_warp, prediction.DEVICES["sm_90"])
    assert seconds * 1e3 == pytest.approx(milliseconds, rel=0.01)


def test_a_page_without_a_folder_is_refused_before_anything_is_compiled(monkeypatch, tmp_path, capsys):
    pytest.importorskip("triton")
    monkeypatch.setattr(aot, "measure_all", lambda *arguments: pytest.fail("this takes minutes"))
    assert aot.main(["--page", str(tmp_path / "none" / "page.md")]) == 2
    assert "--page must be in a folder that exists" in capsys.readouterr().err


def test_the_floors_of_known_cases():
    floors = {case.shape: case.floors("sm_90") for case in CASES if case.shape and case.itemsize == 4}
    main, audio = floors[Shape(1 << 20, 32, 256, 4)], floors[Shape(150_000, 128, 1024, 8)]
    assert [round(1e6 * s) for s in main.values()] == [139, 96, 90]
    assert [round(1e6 * s) for s in audio.values()] == [636, 110, 50]
    mixture = floors[Shape(1 << 20, 32, 256, 4, chains=2)]
    assert [round(1e6 * mixture[name]) for name in ("tf32", "epilogue")] == [278, 192]


@pytest.mark.compiled
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter has replaced the compiler")
def test_a_kernel_compiles_without_a_device(monkeypatch):
    case = next(case for case in CASES if case.operation == "nearest_codeword")
    _, figures = triton.measure("sm_90", case)
    assert (figures.spills, figures.stack, figures.matrix) == (0, 0, "IGMMA")
    assert figures.registers > 0
    assert figures.predicted > 1e6 * max(case.floors("sm_90").values())
    monkeypatch.setitem(cases.RESCORED, (32, 256), 1.0)  # rows that are searched again cost time
    assert triton.measure("sm_90", case)[1].predicted > 5 * figures.predicted
