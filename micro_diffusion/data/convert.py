"""Any source of captioned pictures -> a folder of MDS images."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from streaming import MDSWriter
from tqdm import tqdm

from micro_diffusion.data.output_folder import is_prepared, unfinished, write_record
from micro_diffusion.data.preparation import COLUMNS, Preparation
from micro_diffusion.data.sources.source import Rejected, Source

log = logging.getLogger(__name__)

HASHES = ["xxh64"]
REJECTS = "rejects.jsonl"


def convert(
    *, source: Source, out: str | Path, preparation: Preparation, processes: int | None = None, size_limit: str = "64mb"
) -> None:
    """Check and encode every picture of a source, and write MDS images with the columns of `preparation.COLUMNS`.

    Pictures that cannot be used are left out, counted by reason, and listed in `rejects.jsonl` beside the shards. The
    result does not depend on `processes`.

    Args:
        source: where the pictures come from; a frozen dataclass.
        out: folder to make. One that holds the same conversion, complete, is left alone.
        preparation: how pictures are checked and encoded.
        processes: that read and encode at the same time; None for one on each processor core.
        size_limit: of a shard file, such as "64mb".

    Raises:
        FileExistsError: when `out` holds something else.
        ValueError: when not a single picture can be used.
    """
    out = Path(out).expanduser()
    if not is_dataclass(source) or isinstance(source, type):
        raise ValueError(f"the source {source!r} is no dataclass; make it one, so that its settings can be recorded")
    recipe = {"source": {"name": type(source).__name__, **asdict(source)}, "preparation": asdict(preparation)}
    if is_prepared(out, recipe):
        return
    rejected: Counter[str] = Counter()
    written = 0
    with unfinished(out) as folder:
        with (
            _rows(source, preparation, processes or os.cpu_count() or 1) as rows,
            MDSWriter(out=str(folder), columns=COLUMNS, hashes=HASHES, size_limit=size_limit) as writer,
            (folder / REJECTS).open("w", encoding="utf-8") as rejects,
        ):
            for row in tqdm(rows, f"convert {out}", preparation.expected(len(source)), unit=" pictures", mininterval=1):
                if isinstance(row, Rejected):
                    rejected[row.reason] += 1
                    rejects.write(json.dumps(row._asdict(), ensure_ascii=False) + "\n")
                else:
                    writer.write(row)
                    written += 1
        if not written:
            reasons = "; ".join(f"{reason}: {count}" for reason, count in rejected.items()) or "it is empty"
            raise ValueError(f"the source gives no picture that can be used ({reasons}); check its settings")
        write_record(folder, recipe, samples=written, rejected=dict(rejected))
    log.info("%s holds %d pictures", out, written)
    for reason, count in rejected.most_common():
        log.warning("left out %d pictures: %s (listed in %s)", count, reason, out / REJECTS)


@contextmanager
def _rows(source: Source, preparation: Preparation, processes: int) -> Iterator[Iterator[dict[str, Any] | Rejected]]:
    """Rows and rejections in the source's order, whatever the number of processes."""
    read, parts = partial(preparation.read, source), source.parts()
    processes = min(processes, len(parts))
    if processes <= 1:
        yield chain.from_iterable(map(read, parts))
        return
    # A forked process is ready at once; a spawned one imports everything again.
    method = "fork" if sys.platform == "linux" else "spawn"
    with multiprocessing.get_context(method).Pool(processes) as pool:
        yield chain.from_iterable(pool.imap(read, parts))
