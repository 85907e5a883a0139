"""Tables of links and what img2dataset has made of them, for the recipe urls.sh.

python scripts/datasets/links.py check TABLE URL_COLUMN CAPTION_COLUMN SHARE OUT    the first SHARE of a table, as CSV
python scripts/datasets/links.py again FOLDER    forgets shards without a single image, which are then tried again
python scripts/datasets/links.py count FOLDER    failures by reason, also as failures.json beside FOLDER
"""

import csv
import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from micro_diffusion.data.sources.parquet_files import read_rows
from micro_diffusion.files.whole_file import whole_file


def check(table: str, url: str, caption: str, share: str, out: str) -> None:
    """Write the links of a CSV or parquet table with their captions, a line each; all or the first hundredth."""
    path = Path(table).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no table {path}; set table to a CSV or parquet file")
    read = _parquet if path.suffix == ".parquet" else _csv
    rows = read(path, url, caption)
    if share == "small":
        hundredth = -(-sum(1 for _ in rows) // 100)
        rows = itertools.islice(read(path, url, caption), hundredth)
    found: Counter[str] = Counter()
    with whole_file(Path(out)) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["url", "caption"])
        for link, text in rows:
            words = " ".join(str(text or "").split())  # img2dataset takes a line for a row
            reason = "no link" if not link else "no caption" if not words else "taken"
            found[reason] += 1
            if reason == "taken":
                writer.writerow([link, words])
        if not found["taken"]:
            raise ValueError(f"{path} has no row with a link in {url} and a caption in {caption}; set url and caption")
    print("; ".join(f"{reason}: {number}" for reason, number in found.most_common()))


def again(folder: str) -> None:
    """Remove shards of which nothing could be downloaded, as while there was no network."""
    for path in Path(folder).glob("*_stats.json"):
        if not json.loads(path.read_text())["successes"]:
            shard = path.name.removesuffix("_stats.json")
            for file in (path, *(path.with_name(shard + ending) for ending in (".tar", ".parquet"))):
                file.unlink(missing_ok=True)


def count(folder: str) -> None:
    """Say how many images there are, and why others are not; a ValueError when there is none at all."""
    reasons: Counter[str] = Counter()
    links = images = 0
    for path in sorted(Path(folder).glob("*_stats.json")):
        shard = json.loads(path.read_text())
        links, images = links + shard["count"], images + shard["successes"]
        reasons.update({reason: number for reason, number in shard["status_dict"].items() if reason != "success"})
    failures = "; ".join(f"{reason}: {number}" for reason, number in reasons.most_common())
    if not images:
        raise ValueError(f"none of {links} links gave an image ({failures}); check the network and the table")
    with whole_file(Path(folder).with_name("failures.json")) as unfinished:
        unfinished.write_text(json.dumps(dict(reasons.most_common()), indent=2, ensure_ascii=False) + "\n")
    print(f"{images} images of {links} links; {failures or 'no failures'}")


def _csv(path: Path, url: str, caption: str) -> Iterator[tuple[str | None, str | None]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        names = list(rows.fieldnames or ())
        absent = [column for column in (url, caption) if column not in names]
        if absent:
            raise ValueError(f"{path} has no column {' and no '.join(absent)}; it has {', '.join(names) or 'none'}")
        for row in rows:
            yield row[url], row[caption]


def _parquet(path: Path, url: str, caption: str) -> Iterator[tuple[str | None, str | None]]:
    yield from read_rows(path, [url, caption])  # pyright: ignore[reportReturnType]


if __name__ == "__main__":
    try:
        {"check": check, "again": again, "count": count}[sys.argv[1]](*sys.argv[2:])
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"Error: {error}")
