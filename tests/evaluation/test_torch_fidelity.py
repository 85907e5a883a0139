"""The same numbers as torch-fidelity on the same folders, with its Inception network of random weights.

torch-fidelity is not in the lock, for its wheel holds a package `tests`:
pip install --no-deps --target /tmp/fidelity torch-fidelity && PYTHONPATH=/tmp/fidelity pytest --slow THIS_FILE
"""

from pathlib import Path

import pytest
import torch

from micro_diffusion.evaluation.inception import FILES
from micro_diffusion.evaluation.metrics import ImageMetrics
from tests.evaluation.test_reference import folder_of

COUNT = 24


def random_weights(path: Path, module) -> None:
    """A file of weights for torch-fidelity's Inception, each layer scaled to keep features apart."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.torch, "load", lambda *_, **__: {})
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda *_, **__: None)
        torch.manual_seed(0)
        network = module.FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path="none")
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    torch.save(network.state_dict(), path)


@pytest.mark.slow
def test_scores_are_those_of_torch_fidelity(tmp_path: Path):
    fidelity = pytest.importorskip("torch_fidelity")
    import torch_fidelity.feature_extractor_inceptionv3 as module  # pyright: ignore[reportMissingImports]

    weights = tmp_path / FILES[0]
    random_weights(weights, module)
    ours, real = folder_of(tmp_path / "ours", COUNT), folder_of(tmp_path / "real", COUNT, seed=1)
    expected = fidelity.calculate_metrics(
        input1=str(ours),
        input2=str(real),
        cuda=False,
        fid=True,
        kid=True,
        prc=True,
        kid_subset_size=COUNT,
        feature_extractor="inception-v3-compat",  # else precision and recall are of VGG16
        feature_extractor_weights_path=str(weights),
        verbose=False,
        cache=False,
    )
    metrics = ImageMetrics(
        metrics=["fid", "kid", "precision_recall"],
        reference=str(real),
        networks=str(tmp_path),
        cache=str(tmp_path / "cache"),
        device="cpu",
    )
    found = metrics.of_folder(ours, sorted(path.name for path in ours.iterdir()), [])
    for name, theirs in (("fid", "frechet_inception_distance"), ("kid", "kernel_inception_distance_mean")):
        assert found[name] == pytest.approx(expected[theirs], rel=1e-4)
    for name in ("precision", "recall"):
        assert found[name] == pytest.approx(expected[name], abs=1e-6)
    weights.write_bytes(b"no weights")
    with pytest.raises(ValueError, match="holds no weights of FID's Inception-v3"):
        ImageMetrics(metrics=["fid"], reference=str(real), networks=str(tmp_path), device="cpu").open()
