#!/usr/bin/env bash
# SA-1B: photographs, with the captions that LLaVA wrote for PixArt-alpha; small takes 1 % of the archives.
#   bash scripts/datasets/sa1b.sh FOLDER [all|small]
# First accept its conditions at https://ai.meta.com/datasets/segment-anything-downloads and save the list of links,
# lines of file name and link, as FOLDER/raw/links.txt. The links expire; a new list goes on where the old one stopped.
source "$(dirname "$0")/recipe.sh"

if [[ ! -e $raw/links.txt ]]; then
    echo "there is no $raw/links.txt; get it from https://ai.meta.com/datasets/segment-anything-downloads" >&2
    exit 1
fi
mapfile -t lines < <(tr -d '\r' < "$raw/links.txt" | grep '^sa_[0-9]*\.tar' | sort)
[[ $size == small ]] && count=$(((${#lines[@]} + 99) / 100)) || count=${#lines[@]}
hub PixArt-alpha/SAM-LLaVA-Captions10M SA1B_caption.tar.gz
for line in "${lines[@]:0:count}"; do
    IFS=$'\t' read -r name link <<< "$line"
    fetch "$link" "$name"
done
prepare sa1b "source.path=$raw"
