#!/usr/bin/env bash
# COCO 2014, the validation split, for evaluation: 40,504 photographs and the first caption of each; small takes 405.
#   bash scripts/datasets/coco.sh FOLDER [all|small]
source "$(dirname "$0")/recipe.sh"

fetch http://images.cocodataset.org/annotations/annotations_trainval2014.zip annotations.zip
fetch http://images.cocodataset.org/zips/val2014.zip val2014.zip
unzip -q -o "$raw/annotations.zip" -d "$raw"
unzip -q -o "$raw/val2014.zip" -d "$raw"
[[ $size == small ]] && limit=405 || limit=null
prepare coco "source.path=$raw" "source.limit=$limit"
