"""Storage formats: what is written as MDS columns comes back as the same batch, within each format's error."""

from typing import Any

import numpy as np
import pytest
import torch
from streaming import LocalDataset, MDSWriter

from micro_diffusion.batch import TokenIds
from micro_diffusion.condition import Condition
from micro_diffusion.data.format.caption_formats import CaptionFeatures, CaptionIds, restore_caption_format
from micro_diffusion.data.format.columns import describe
from micro_diffusion.data.format.latent_formats import Float16Latents, Int8Latents, UInt8Latents, restore_latent_format
from micro_diffusion.data.format.metadata import LatentMetadata
from micro_diffusion.data.format.row_format import RowFormat
from micro_diffusion.data.stream.column_reader import ColumnReader

CAPTIONS = ["one", "one two three four", "", "one two"]
LATENT_FORMATS = [Float16Latents(), Int8Latents(), UInt8Latents(limit=6.0)]
CAPTION_FORMATS = [CaptionFeatures(dtype=dtype, padded=padded) for dtype in ("float16", "int8") for padded in (0, 1)]


class Causal:
    """Features that depend on the caption in every row, padding too, as those of a CLIP text tower."""

    name, dim, max_length, largest = "causal", 6, 5, 60_000

    def __init__(self):
        self.provenance = {"model": "causal"}

    def tokenize(self, captions):
        lengths = torch.tensor([len(caption.split()) + 1 for caption in captions])
        ids = torch.arange(self.max_length) * lengths[:, None] * 1000 % self.largest
        return TokenIds(ids, torch.arange(self.max_length) < lengths[:, None])

    def encode_ids(self, text):
        return Condition(torch.sin(text.ids[..., None] * torch.arange(1, self.dim + 1).float()), text.mask)

    def encode(self, captions):
        return self.encode_ids(self.tokenize(captions))

    def to(self, device):
        return self


def row_format(latents=Float16Latents(), captions=CaptionFeatures()):  # noqa: B008
    return RowFormat(
        latents=latents,
        captions=captions,
        channels=3,
        latent_sizes={8: (4, 4), 4: (2, 2)},
        caption_length=Causal.max_length,
        caption_dim=Causal.dim,
    )


def stored(folder, form: RowFormat, latents: torch.Tensor) -> tuple[Any, list[dict[str, Any]]]:
    """The batch that comes back from a shard, and the bytes of a row on the disk."""
    columns = dict(form.captions.encode(Causal(), CAPTIONS))
    for resolution in (8, 4):
        columns |= form.latents.encode(
            f"latents_{resolution}", latents[..., : resolution // 2, : resolution // 2].numpy()
        )
    with MDSWriter(out=str(folder), columns=form.columns()) as writer:
        for i, caption in enumerate(CAPTIONS):
            writer.write({**{k: v[i] for k, v in columns.items()}, "caption": caption, "key": str(i)})
    shard = LocalDataset(str(folder)).shards[0]
    names = form.trained_columns(8)
    reader = ColumnReader(shard, names)
    columns = reader.allocate(len(CAPTIONS))
    for i in range(len(CAPTIONS)):
        reader.read(shard, i, i, columns)
    rows: list[dict[str, Any]] = [{name: columns[name][i] for name in names} for i in range(len(CAPTIONS))]
    return form.batch(columns, 8), rows


@pytest.fixture
def latents():
    values = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    values[1] = 0
    return values


@pytest.mark.parametrize("form", LATENT_FORMATS, ids=lambda form: form.name)
def test_latents_come_back_within_the_error_of_their_format(tmp_path, form, latents):
    batch, rows = stored(tmp_path / "mds", row_format(latents=form), latents)
    assert batch["latents"].dtype == torch.float32
    error = (batch["latents"] - latents).abs()
    largest = latents.abs().amax(dim=(2, 3), keepdim=True)
    bound = {
        "float16": latents.abs() / 2048 + 1e-7,
        "int8": largest / 254 + 1e-6,
        "uint8": torch.tensor(6 / 255 + 1e-6),
    }
    assert (error <= bound[form.name]).all()
    assert "latents_4" not in rows[0]
    size = len(rows[0]["latents_8"])
    assert size == 3 * 4 * 4 * (2 if form.name == "float16" else 1)


@pytest.mark.parametrize("form", CAPTION_FORMATS, ids=lambda form: f"{form.dtype}-{'padded' if form.padded else 'cut'}")
def test_captions_come_back_with_their_mask(tmp_path, form, latents):
    batch, rows = stored(tmp_path / "mds", row_format(captions=form), latents)
    tokens, mask, *_ = Causal().encode(CAPTIONS)
    assert mask is not None
    assert torch.equal(batch["caption_mask"], mask)
    kept = torch.ones_like(mask) if form.padded else mask
    error = (batch["caption_tokens"] - tokens).abs()[kept]
    largest = tokens.abs().amax(dim=2, keepdim=True).expand_as(tokens)[kept]
    assert (error <= largest / 2048 + 1e-7 + (largest / 254 if form.dtype == "int8" else 0)).all()
    assert not batch["caption_tokens"][~kept].any()
    lengths = [5] * 4 if form.padded else [2, 5, 1, 3]
    assert [len(row["caption_tokens"]) for row in rows] == [n * 6 * (1 if form.dtype == "int8" else 2) for n in lengths]
    assert batch["caption"] == CAPTIONS


def test_token_ids_give_the_encoder_what_it_needs(tmp_path, latents):
    batch, rows = stored(tmp_path / "mds", row_format(captions=CaptionIds()), latents)
    assert len(rows[0]["caption_ids"]) == 2 * Causal.max_length
    assert "caption_tokens" not in batch
    made = Causal().encode_ids(TokenIds(batch["caption_ids"], batch["caption_mask"]))
    assert torch.equal(made.tokens, Causal().encode(CAPTIONS).tokens)


def test_columns_of_constant_size_may_come_as_one_array(latents):
    form = row_format(latents=Int8Latents(), captions=CaptionFeatures(dtype="int8"))
    columns = {**form.latents.encode("latents_8", latents.numpy()), **form.captions.encode(Causal(), CAPTIONS)}
    arrays = {name: np.ascontiguousarray(entries).reshape(4, -1).view(np.uint8) for name, entries in columns.items()}
    lists = {name: [row.tobytes() for row in rows] for name, rows in arrays.items()}
    captions = {name: [caption.encode() for caption in CAPTIONS] for name in ("caption", "key")}
    one, other = (dict(form.batch({**columns, **captions}, 8)) for columns in (arrays, lists))
    for name in ("latents", "caption_tokens", "caption_mask"):
        assert torch.equal(one[name], other[name])  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("form", [*LATENT_FORMATS, *CAPTION_FORMATS, CaptionIds()], ids=repr)
def test_a_format_is_restored_from_its_description(form):
    restore = restore_latent_format if form in LATENT_FORMATS else restore_caption_format
    assert restore(describe(form)) == form


def test_a_format_of_another_version_is_refused():
    with pytest.raises(ValueError, match="stored as 'int4', but this version knows float16, int8, uint8"):
        restore_latent_format({"name": "int4"})


def test_what_a_format_cannot_hold_is_refused():
    class Vast(Causal):
        largest = 80_000

    class WithoutIds:
        name = "words"

    with pytest.raises(ValueError, match="a token 76000, which 2 bytes cannot hold"):
        CaptionIds().encode(Vast(), ["word " * 18])
    with pytest.raises(ValueError, match="words has no token ids"):
        CaptionIds().encode(WithoutIds(), CAPTIONS)
    with pytest.raises(ValueError, match="set it to float16 or int8"):
        CaptionFeatures(dtype="int4")


def metadata(captions) -> LatentMetadata:
    record = {"samples": 4, "resolutions": [8], "autoencoder": "a", "channels": 3, "downsampling": 2}
    text = {"text_encoder": "causal", "caption_dim": 6, "caption_length": 5, "latent_std": {"8": 1.0}}
    encoders = {"text_encoder": {"model": "causal", "digest": "1"}}
    return LatentMetadata(**record, **text, encoders=encoders, caption_format=describe(captions))


CUT, IDS, SAME = CaptionFeatures(padded=False), CaptionIds(), {"model": "causal", "digest": "1"}


@pytest.mark.parametrize(
    ("captions", "masked", "text_encoder", "message"),
    [
        (CUT, False, None, r"set backbone\.use_caption_mask=true"),
        (CaptionFeatures(), False, SAME, r"set model\.text_encoder=null"),
        (IDS, True, None, r"add \+variant=token_ids"),
        (IDS, True, {"model": "causal", "digest": "2"}, "digest 1 instead of 2"),
    ],
)
def test_training_refuses_captions_that_it_would_misread(captions, masked, text_encoder, message):
    with pytest.raises(ValueError, match=message):
        metadata(captions).check_captions(masked=masked, text_encoder=text_encoder)


@pytest.mark.parametrize(("captions", "masked", "text_encoder"), [(CUT, True, None), (IDS, False, SAME)])
def test_training_takes_captions_that_it_reads_right(captions, masked, text_encoder):
    metadata(captions).check_captions(masked=masked, text_encoder=text_encoder)


def test_a_record_from_before_there_were_formats_is_read_exactly():
    assert metadata(CaptionFeatures()).row_format.latents == Float16Latents()
