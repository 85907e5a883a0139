"""The classes of a folder of MDS images whose captions are class names."""

from __future__ import annotations

from streaming import LocalDataset

from micro_diffusion.data.format.columns import text_column
from micro_diffusion.data.stream.column_reader import ColumnReader

MOST = 65536
"""What 2 bytes can number."""


def class_names(rows: LocalDataset) -> list[str]:
    """The distinct captions of all rows, sorted, so that they do not depend on the order of the images.

    Raises:
        ValueError: when there are more than can be classes.
    """
    names: set[str] = set()
    for shard in rows.shards:
        reader = ColumnReader(shard, {"caption": "caption"})
        columns = reader.allocate(shard.samples)
        for row in range(shard.samples):
            reader.read(shard, row, row, columns)
        names.update(text_column([bytes(entry) for entry in columns["caption"]]))
        if len(names) > MOST:
            raise ValueError(
                f"the images have more than {MOST} different captions, so these are no class names; set text_encoder "
                "to another one than classes"
            )
    return sorted(names)
