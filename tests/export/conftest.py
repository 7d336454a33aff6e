import pytest

from tests.small import model


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """name → the PyTorch model, its ONNX runner and their folder; each exported once."""
    pytest.importorskip("onnx", reason="ONNX export needs the package onnx")
    pytest.importorskip("onnxruntime", reason="the runner needs the package onnxruntime")
    from earvae.export.onnx import export_onnx
    from earvae.export.runner import Runner

    made = {}

    def get(name: str, half: bool = False):
        if (name, half) not in made:
            vae = model(name)
            folder = tmp_path_factory.mktemp(name)
            export_onnx(vae, folder, half)
            made[name, half] = vae, Runner(folder, threads=1), folder
        return made[name, half]

    return get
