#!/usr/bin/env bash
# JourneyDB: images by Midjourney with their prompts, 200 archives; small takes two of them.
#   bash scripts/datasets/journeydb.sh FOLDER [all|small]
# First accept its conditions at https://huggingface.co/datasets/JourneyDB/JourneyDB and run: hf auth login
source "$(dirname "$0")/recipe.sh"

[[ $size == small ]] && archives=2 || archives=200
mapfile -t names < <(seq -f 'data/train/imgs/%03g.tgz' 0 $((archives - 1)))
hub JourneyDB/JourneyDB data/train/train_anno_realease_repath.jsonl.tgz "${names[@]}"
prepare journeydb "source.path=$raw"
