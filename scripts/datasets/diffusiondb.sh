#!/usr/bin/env bash
# DiffusionDB large: images by Stable Diffusion with their prompts, 14,000 archives (6.5 TB); small takes 140.
#   bash scripts/datasets/diffusiondb.sh FOLDER [all|small]
# Images whose own or whose prompt's safety score is above 0.2 are left out (source.maximum_image_nsfw, ..._prompt_nsfw).
source "$(dirname "$0")/recipe.sh"

hub poloclub/diffusiondb metadata-large.parquet
if [[ $size == small ]]; then
    mapfile -t names < <(seq -f 'diffusiondb-large-part-1/part-%06g.zip' 1 140)
    hub poloclub/diffusiondb "${names[@]}"
else
    hub poloclub/diffusiondb --include 'diffusiondb-large-part-*/part-*.zip'
fi
prepare diffusiondb "source.path=$raw"
