# Shared by the recipes beside it, which source it. FOLDER gets raw/ (the download), images/ and latents/.
# An interrupted recipe goes on where it stopped when the same command is given again.
# shellcheck shell=bash disable=SC2034  # the recipes use what is set here

set -euo pipefail

if [[ $# -lt 1 || ! ${2:-all} =~ ^(all|small)$ ]]; then
    echo "usage: bash $0 FOLDER [all|small] [OPTION ...]; small is about 1 %" >&2
    exit 2
fi
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
folder=$(realpath -m "$1")
raw=$folder/raw
size=${2:-all}
encoding=() # options of scripts/precompute.py
converting=() # options of scripts/convert.py
for option in "${@:3}"; do
    if [[ $option =~ ^[+~]*(source\.|preparation\.|engine) ]]; then converting+=("$option"); else encoding+=("$option"); fi
done
read -ra launcher <<< "${LAUNCHER:-python}" # of scripts/precompute.py, such as "composer -n 8"
mkdir -p "$raw"

# hub REPOSITORY [FILE OR OPTION ...]: files of a data set on the Hugging Face hub, into raw/
hub() {
    hf download "$1" "${@:2}" --repo-type dataset --local-dir "$raw"
}

# fetch URL NAME: a file, into raw/; it has its name when it is whole
fetch() {
    [[ -e $raw/$2 ]] && return
    wget --continue --output-document "$raw/$2.part" "$1"
    mv "$raw/$2.part" "$raw/$2"
}

# prepare SOURCE [OPTION OF scripts/convert.py ...]: raw/ to images/ to latents/
prepare() {
    python "$repository/scripts/convert.py" source="$1" "out=$folder/images" \
        preparation.minimum_side=256 preparation.shorter_side=512 "${@:2}" "${converting[@]}"
    "${launcher[@]}" "$repository/scripts/precompute.py" "images=$folder/images" "out=$folder/latents" "${encoding[@]}"
}
