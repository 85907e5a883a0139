"""Latents and pooled captions of transformer latent diffusion become MDS latents, a part at a time."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from micro_diffusion.data.format.latent_formats import UInt8Latents
from micro_diffusion.data.format.metadata import LatentMetadata
from micro_diffusion.data.prepare.import_pairs import import_pairs
from micro_diffusion.data.sources.latent_pairs import HDF5Pairs, LatentPairs, NumpyPairs
from micro_diffusion.data.stream.loader import build_loader

ENCODERS = {
    "autoencoder": {"path": "some/vae", "scaling_factor": 0.125, "shift_factor": 0.0},
    "text_encoder": {"model": "some/clip"},
}
SETTINGS = {"encoders": ENCODERS, "scaling": 0.125, "downsampling": 8, "caption_dim": 6, "part_size": 4}


def arrays(count: int = 10) -> tuple[np.ndarray, np.ndarray, list[str]]:
    draw = np.random.default_rng(0).standard_normal
    latents, features = draw((count, 4, 2, 2)).astype(np.float32) * 8, draw((count, 6)).astype(np.float32)
    return latents, features, [f"image {i}, which is\n{'fine' if i % 2 else 'good'}" for i in range(count)]


def write_csv(path: Path, texts: list[str], column: str = "text") -> str:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([[column, "url"], *([text, "http://x"] for text in texts)])
    return str(path)


def numpy_pairs(folder: Path, latents: np.ndarray, features: np.ndarray, texts: list[str] | None = None) -> NumpyPairs:
    np.save(folder / "latents.npy", latents)
    np.save(folder / "features.npy", features)
    captions = None if texts is None else write_csv(folder / "metadata.csv", texts)
    return NumpyPairs(latents=str(folder / "latents.npy"), features=str(folder / "features.npy"), captions=captions)


def rows(folder: Path) -> dict[str, torch.Tensor]:
    """All that training would read, in order."""
    loader = build_loader(path=str(folder), resolution=16, batch_size=100, shuffle=False, workers=0, drop_last=False)
    (batch,) = loader
    return batch


def check(pairs: LatentPairs, out: Path, texts: list[str]):
    latents, features, _ = arrays()
    import_pairs(pairs=pairs, out=str(out), **SETTINGS)
    batch = rows(out)
    torch.testing.assert_close(batch["latents"], torch.from_numpy(latents) / 8, rtol=1e-3, atol=1e-4)
    assert batch["caption_tokens"].shape == (10, 1, 6)
    torch.testing.assert_close(batch["caption_tokens"][:, 0].float(), torch.from_numpy(features), rtol=1e-3, atol=1e-4)
    assert batch["caption_mask"].all() and batch["caption"] == texts
    metadata = LatentMetadata.read(out)
    assert (metadata.samples, metadata.resolutions, metadata.caption_length) == (10, [16], 1)
    assert metadata.latent_std["16"] == pytest.approx(latents.std() / 8, rel=1e-3)
    metadata.check(in_channels=4, caption_dim=6)
    assert metadata.states_encoder("autoencoder", {**ENCODERS["autoencoder"], "channels": 4})
    assert not metadata.states_encoder("autoencoder", {**ENCODERS["autoencoder"], "scaling_factor": 0.13025})


def test_npy_files(tmp_path):
    latents, features, texts = arrays()
    check(numpy_pairs(tmp_path, latents, features, texts), tmp_path / "out", texts)
    check(numpy_pairs(tmp_path, latents, features), tmp_path / "without", [""] * 10)


def test_hdf5_file(tmp_path):
    h5py = pytest.importorskip("h5py")
    latents, features, texts = arrays()
    with h5py.File(tmp_path / "made.hdf5", "w") as file:
        file["image_latents"], file["text_encodings"] = latents.astype(np.float16), features.astype(np.float16)
        file["other"] = [1]
    captions = write_csv(tmp_path / "metadata.csv", texts)
    check(HDF5Pairs(path=str(tmp_path / "made.hdf5"), captions=captions), tmp_path / "out", texts)
    with h5py.File(tmp_path / "made.hdf5", "a") as file:
        del file["text_encodings"]
    with pytest.raises(ValueError, match=r"has no text_encodings, but image_latents, other"):
        HDF5Pairs(path=str(tmp_path / "made.hdf5")).shape()
    (tmp_path / "text.hdf5").write_text("no such file")
    with pytest.raises(ValueError, match=r"text\.hdf5 cannot be read as HDF5"):
        HDF5Pairs(path=str(tmp_path / "text.hdf5")).shape()


def test_hdf5_without_h5py(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(ImportError, match=r"needs the library h5py; install it: pip install 'micro_diffusion\[hdf5\]'"):
        HDF5Pairs(path=str(tmp_path / "made.hdf5")).shape()


def test_bytes_of_the_forerunner_are_its_numbers(tmp_path):
    """u/255·2 − 1, times 20, as it decodes them; then divided by 8."""
    codes = np.arange(160, dtype=np.uint8).reshape(10, 4, 2, 2)
    import_pairs(pairs=numpy_pairs(tmp_path, codes, arrays()[1]), out=str(tmp_path / "out"), **SETTINGS)
    expected = torch.from_numpy((codes / 255 * 2 - 1) * 20 / 8).float()
    torch.testing.assert_close(rows(tmp_path / "out")["latents"], expected, rtol=1e-3, atol=1e-4)


def test_an_interrupted_import_goes_on(tmp_path, monkeypatch):
    latents, features, texts = arrays()
    pairs = numpy_pairs(tmp_path, latents, features, texts)
    read = NumpyPairs.read

    def broken(self, batch_size):
        for number, batch in enumerate(read(self, batch_size)):
            if number == 2:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(NumpyPairs, "read", broken)
    with pytest.raises(KeyboardInterrupt):
        import_pairs(pairs=pairs, out=str(tmp_path / "out"), **SETTINGS)
    monkeypatch.setattr(NumpyPairs, "read", read)
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out.unfinished").glob("*.mds")}
    assert len(kept) == 2
    check(pairs, tmp_path / "out", texts)
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in kept} == kept


def test_latents_beyond_the_limit_are_refused_or_clipped(tmp_path):
    latents, features, _ = arrays()
    latents[3, 0, 0, 0] = 100
    pairs = numpy_pairs(tmp_path, latents, features)
    with pytest.raises(ValueError, match=r"12\.5 is beyond the limit 2\.5 .*or set latent_format\.clip=true"):
        import_pairs(pairs=pairs, out=str(tmp_path / "no"), latent_format=UInt8Latents(limit=2.5), **SETTINGS)
    form = UInt8Latents(limit=2.5, clip=True)
    import_pairs(pairs=pairs, out=str(tmp_path / "out"), latent_format=form, **SETTINGS)
    made = rows(tmp_path / "out")["latents"]
    assert made[3, 0, 0, 0] == 2.5
    expected = torch.from_numpy(latents / 8).clamp(-2.5, 2.5)
    assert (made - expected).abs().max() <= 2.5 / 255 + 1e-6


def test_files_that_do_not_fit_are_one_sentence(tmp_path):
    latents, features, texts = arrays()

    def refused(message: str, pairs: NumpyPairs, **changes):
        with pytest.raises(ValueError, match=message):
            import_pairs(pairs=pairs, out=str(tmp_path / "out"), **{**SETTINGS, **changes})
        assert not (tmp_path / "out").exists()

    refused(r"different lengths \(10 in .*, 9 in", numpy_pairs(tmp_path, latents, features[:9]))
    refused(r"10 in .*, 10 in .*, 8 in .*csv", numpy_pairs(tmp_path, latents, features, texts[:8]))
    refused("have width 6, not 768; set caption_dim=6", numpy_pairs(tmp_path, latents, features), caption_dim=768)
    refused("has the shape", numpy_pairs(tmp_path, latents[0], features))
    write_csv(tmp_path / "metadata.csv", texts, column="title")
    pairs = numpy_pairs(tmp_path, latents, features)
    table = NumpyPairs(latents=pairs.latents, features=pairs.features, captions=str(tmp_path / "metadata.csv"))
    refused("has no column text; set caption_column to one of: title, url", table)
    features[4, 2] = np.inf
    refused("the captions are not finite in float16, first for '000000004'", numpy_pairs(tmp_path, latents, features))
    Path(pairs.latents).write_bytes(b"PK and no more")
    refused("cannot be read as .npy", pairs)
    Path(pairs.latents).unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no file .*latents\.npy; correct its path"):
        import_pairs(pairs=pairs, out=str(tmp_path / "out"), **SETTINGS)
