from __future__ import annotations

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from albef.serving.onnxfile import metadata


def graph(path, entries, weights=1000):
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", weights])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", weights])
    constant = helper.make_tensor("w", TensorProto.FLOAT, [weights], [0.5] * weights)
    node = helper.make_node("Mul", ["x", "w"], ["y"])
    model = helper.make_model(helper.make_graph([node], "g", [info], [out], [constant]))
    helper.set_model_props(model, entries)
    onnx.save(model, path)


@given(st.dictionaries(st.text(min_size=1), st.text(), max_size=4))
def test_reads_what_onnx_wrote(tmp_path_factory, entries):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    graph(path, entries)
    assert metadata(path) == entries


def test_cut_file_is_refused(tmp_path):
    graph(tmp_path / "model.onnx", {"a": "b"})
    data = (tmp_path / "model.onnx").read_bytes()
    (tmp_path / "model.onnx").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"model\.onnx: not an ONNX model, or truncated"):
        metadata(tmp_path / "model.onnx")


@pytest.mark.parametrize("data", [b"", b"\xff\xff\xff\xff", b"PK\x03\x04 a zip file"])
def test_other_files_are_refused(tmp_path, data):
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(ValueError, match=r"model\.onnx"):
        metadata(tmp_path / "model.onnx")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="absent"):
        metadata(tmp_path / "absent.onnx")
