#!/usr/bin/env bash
# TextCaps: photographs with text in them, five captions each, of which the first is taken (source.captions=5: all).
#   bash scripts/datasets/textcaps.sh FOLDER [all|small]
# The publisher's images are one archive, so small takes the hub's form: the first of its 13 files.
source "$(dirname "$0")/recipe.sh"

if [[ $size == small ]]; then
    hub lmms-lab/TextCaps data/train-00000-of-00013.parquet
    prepare textcaps_hub "source.path=$raw"
else
    fetch https://dl.fbaipublicfiles.com/textvqa/data/textcaps/TextCaps_0.1_train.json TextCaps_0.1_train.json
    fetch https://dl.fbaipublicfiles.com/textvqa/images/train_val_images.zip train_val_images.zip
    unzip -q -o "$raw/train_val_images.zip" -d "$raw"
    prepare textcaps "source.path=$raw"
fi
