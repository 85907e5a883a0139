#!/usr/bin/env bash
# Any table of links and captions, CSV, TSV or parquet: downloads the images, and makes latents of them.
#   bash scripts/datasets/urls.sh FOLDER [all|small] table=LINKS.csv [url=COLUMN] [caption=COLUMN] [OPTION ...]
# The columns are url and caption unless they are named. Failures are counted by reason, in raw/failures.json. The same
# command goes on where it stopped; shards without any image, as while the network was down, are tried again.
# It needs img2dataset, in an environment of its own because of its old requirements: uv tool install img2dataset
options=() table="" url=url caption=caption
for option in "${@:3}"; do
    case $option in
        table=*) table=${option#*=} ;;
        url=*) url=${option#*=} ;;
        caption=*) caption=${option#*=} ;;
        *) options+=("$option") ;;
    esac
done
set -- "${@:1:2}" "${options[@]}"
source "$(dirname "$0")/recipe.sh"

if [[ -z $table ]]; then
    echo "no table is given; add table=LINKS.csv, with a column of links and one of captions" >&2
    exit 2
fi
if command -v img2dataset > /dev/null; then
    download=(img2dataset)
elif command -v uvx > /dev/null; then
    download=(uvx --quiet --from img2dataset==1.47.0 img2dataset)
else
    echo "img2dataset is missing; install it by itself: uv tool install img2dataset, or pipx install img2dataset" >&2
    exit 2
fi
links=$(dirname "$0")/links.py
python "$links" check "$table" "$url" "$caption" "$size" "$raw/links.csv"
python "$links" again "$raw/webdataset"
"${download[@]}" --url_list "$raw/links.csv" --input_format csv --url_col url --caption_col caption \
    --output_format webdataset --output_folder "$raw/webdataset" --incremental_mode incremental \
    --processes_count "${PROCESSES:-8}" --thread_count "${THREADS:-64}" --timeout "${TIMEOUT:-10}" --retries 1 \
    --image_size 512 --resize_mode keep_ratio --resize_only_if_bigger True --min_image_size 256 --encode_quality 95
python "$links" count "$raw/webdataset"
prepare webdataset "source.path=$raw/webdataset"
