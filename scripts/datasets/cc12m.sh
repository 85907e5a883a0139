#!/usr/bin/env bash
# CC12M: images of the web with their alternative texts, 2,176 archives; small takes 22 of them.
#   bash scripts/datasets/cc12m.sh FOLDER [all|small]
# The publisher's own table of links, https://github.com/google-research-datasets/conceptual-12m, is downloaded link by
# link when it lies at FOLDER/raw/cc12m.tsv; many links are dead by now. That needs img2dataset, in an environment of its
# own because of its old requirements: uv tool install img2dataset
source "$(dirname "$0")/recipe.sh"

if [[ -e $raw/cc12m.tsv ]]; then
    [[ $size == small ]] && rows=124234 || rows=12423374
    { printf 'url\tcaption\n' && head -n "$rows" "$raw/cc12m.tsv"; } > "$raw/links.tsv"
    img2dataset --url_list "$raw/links.tsv" --input_format tsv --url_col url --caption_col caption \
        --output_format webdataset --output_folder "$raw/webdataset" --processes_count 16 --thread_count 64 \
        --image_size 512 --resize_mode keep_ratio --resize_only_if_bigger True --min_image_size 256 --encode_quality 95
    prepare webdataset "source.path=$raw/webdataset"
else
    if [[ $size == small ]]; then
        mapfile -t names < <(seq -f 'cc12m-train-%04g.tar' 0 21)
        hub pixparse/cc12m-wds "${names[@]}"
    else
        hub pixparse/cc12m-wds --include 'cc12m-train-*.tar'
    fi
    prepare cc12m "source.path=$raw"
fi
