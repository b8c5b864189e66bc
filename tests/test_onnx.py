"""Networks leave as ONNX where they give the same answers, and only there."""

# ruff: noqa: F811  fixtures of another file

import json
import sys

import pytest
import torch
from test_export import call, on_the_cpu, run  # noqa: F401

from ppfer.base.errors import PpferError
from ppfer.cli import onnx_file
from ppfer.study.protectors import regressor

onnxruntime = pytest.importorskip("onnxruntime")


def answers(path, given: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: given.numpy()})[0])


def test_the_whole_method_gives_the_same_pixels_of_any_number_of_frames(run, call, tmp_path):
    path, clips = tmp_path / "c.onnx", torch.rand(1, 7, 3, 16, 16)
    assert call("export", "--approach", "ppfer", "--out", path) == 0
    with torch.no_grad():
        meant = run.protector("ppfer").build(run)(clips)
    torch.testing.assert_close(answers(path, clips), meant, rtol=0, atol=onnx_file.EXACT)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    said = session.get_modelmeta().custom_metadata_map
    assert "worst attacker (clip): 79.2 % (19/24" in json.loads(said["card"])


def test_the_regressor_reads_the_same_numbers(run, call, tmp_path):
    path, frames = tmp_path / "r.onnx", torch.rand(3, 3, regressor.SIDE, regressor.SIDE)
    assert call("export", "--approach", "regressor", "--out", path) == 0
    with torch.no_grad():
        meant = regressor.shipped(regressor.Regressor(), run.config).eval()(frames)
    torch.testing.assert_close(answers(path, frames), meant, rtol=0, atol=onnx_file.EXACT)


def test_what_is_no_network_or_differs_or_lacks_its_packages_is_refused(
    run, call, tmp_path, capsys, monkeypatch
):
    path = tmp_path / "x.onnx"
    assert call("export", "--approach", "codebook_names", "--out", path) == 2
    assert "does more than a network does, and has no .onnx file" in capsys.readouterr().err
    assert call("export", "--approach", "mean", "--out", path) == 2
    assert "stands on split, which is about a run's clips" in capsys.readouterr().err
    monkeypatch.setattr(onnx_file, "EXACT", -1.0)
    with pytest.raises(PpferError, match="in ONNX it differs by .*; nothing written"):
        onnx_file.write_onnx(torch.nn.Linear(2, 2), torch.rand(2, 2), {0: "rows"}, path, {})
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert call("export", "--approach", "regressor", "--out", path) == 2
    assert "pip install -e '.[onnx]'" in capsys.readouterr().err
    assert not path.exists()
