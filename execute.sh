#!/usr/bin/env bash
# From nothing to images. Run it again after an interruption and it goes on where it stopped.
#
#   bash execute.sh quickstart [key=value ...]   data, latents, four short stages, samples and score; on a CPU, minutes
#   bash execute.sh cascade [key=value ...]      a cascade in pixel space, 16 to 32 to 64 px; on a CPU, minutes
#   bash execute.sh mine FOLDER [preset=laptop]  your own images: look, convert, autoencoder, four stages, samples
#   bash execute.sh ldm [key=value ...]          autoencoder, adversarially, and images by class; on a CPU, minutes
#                                                source.path=FOLDER: with your folder for each class
#                                                preset=wikiart_512: at the full size, on GPUs, days
#   bash execute.sh [key=value ...]              the four full-size stages; on GPUs and prepared data, days
#   bash execute.sh recipe [key=value ...]       the same with what has been found out since; docs/recipe.md
#   bash execute.sh test [pytest options]        style, types and tests; --slow adds the slow tests
#
# key=value are Hydra overrides for every training stage. PYTHON=... chooses the interpreter of a new environment.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
root=$PWD

fail() {
    echo "execute.sh: $*" >&2
    exit 1
}

# ---------------------------------------------------------------------------------------------------- environment

supported() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 13))' 2>/dev/null
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3.12 python3.10 python3 python}; do
        if supported "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

# Whether the active environment, other than our own .venv, has the package installed from this very checkout.
active_environment_has_checkout() {
    (cd / && env -u PYTHONPATH python -c '
import sys
from importlib.metadata import distribution
from pathlib import Path

import micro_diffusion

root = Path(sys.argv[1]).resolve()
distribution("micro_diffusion")
installed_from = Path(micro_diffusion.__file__).resolve().parents[1]
sys.exit(installed_from != root or Path(sys.prefix).resolve() == root / ".venv")' "$root") 2>/dev/null
}

create_environment() {
    local python
    python=$(find_python) || {
        [[ -z ${PYTHON:-} ]] || fail "$PYTHON is no Python 3.10, 3.11 or 3.12; set PYTHON to one that is."
        command -v uv >/dev/null || fail "No Python 3.10, 3.11 or 3.12 found; install one, or set PYTHON to its path."
        python=3.11 # uv brings it
    }
    echo "Making .venv with $python"
    if command -v uv >/dev/null; then
        uv venv --quiet --seed --allow-existing --python "$python" .venv
    else
        "$python" -m venv .venv
    fi
}

# The lock file names every package, so that nothing is left to resolve.
install_locked() {
    echo "Installing the packages of requirements.lock into .venv (about 6 GB)"
    if command -v uv >/dev/null; then
        set -- uv pip install --compile-bytecode --python .venv/bin/python # as pip does, or else every start compiles
    else
        .venv/bin/python -m pip --version >/dev/null 2>&1 || .venv/bin/python -m ensurepip
        set -- .venv/bin/python -m pip install --disable-pip-version-check
    fi
    "$@" --quiet --no-deps -r requirements.lock
    "$@" --quiet --no-deps --no-build-isolation -e .
}

use_environment() {
    active_environment_has_checkout && return
    if [[ ! -e .venv/bin/python ]]; then
        create_environment
    elif ! supported .venv/bin/python; then
        fail ".venv holds $(.venv/bin/python --version 2>&1), but 3.10 to 3.12 is needed; remove .venv and run this again."
    fi
    local wanted
    wanted="$root $(cat requirements.lock setup.py pyproject.toml | cksum)"
    if [[ $(cat .venv/installed 2>/dev/null) != "$wanted" ]]; then
        install_locked
        echo "$wanted" >.venv/installed
    fi
    export VIRTUAL_ENV="$root/.venv" PATH="$root/.venv/bin:$PATH"
}

# --------------------------------------------------------------------------------------------------------- steps

output_dir=trained_models
report=()
clocks=()

read_overrides() {
    local override
    for override in "$@"; do
        case $override in
        output_dir=*) output_dir=${override#*=} ;;
        exp_name=* | init_from=*)
            fail "$override is set by execute.sh for each stage; leave it out, or run train.py for a single stage." ;;
        *=* | ~*) ;;
        *) fail "'$override' is neither quickstart, cascade, mine, ldm, recipe, test nor a Hydra override (key=value)." ;;
        esac
    done
}

# line NAME TEXT: one line per step, repeated at the end.
line() {
    local text
    text=$(printf '%-26s %s' "$1" "$2")
    report+=("$text")
    echo "==> $text"
}

duration() {
    local seconds=$1
    if ((seconds < 120)); then
        echo "$seconds s"
    elif ((seconds < 7200)); then
        echo "$((seconds / 60)) min $((seconds % 60)) s"
    else
        echo "$((seconds / 3600)) h $((seconds % 3600 / 60)) min"
    fi
}

# step NAME RESULT COMMAND...: run a command, which leaves the file RESULT when it is done, and say how long it took.
# The seconds of all tries stand beside the result.
step() {
    local name=$1 result=$2 start=$SECONDS status=0 clock spent before
    shift 2
    clock=${result%.*}.seconds
    before=$(fingerprint "$result")
    echo "==> $name: $*"
    "$@" || status=$?
    if ((status == 0)) && [[ -n $before && $before == "$(fingerprint "$result")" ]]; then
        already "$name" "$result"
        return
    fi
    spent=$((SECONDS - start + $(cat "$clock" 2>/dev/null || echo 0)))
    [[ ! -d $(dirname "$clock") ]] || echo "$spent" >"$clock"
    ((status == 0)) || fail "$name failed (status $status); see the message above, then run the same command again."
    [[ -e $result ]] || fail "$name ended without leaving $result."
    note "$name" "$result"
}

# note NAME RESULT: a line for a step that was done.
note() {
    local clock=${2%.*}.seconds
    line "$1" "$(duration "$(cat "$clock" 2>/dev/null || echo 0)"): $2"
    clocks+=("$1" "$clock")
}

already() {
    line "$1" "complete already: $2"
    clocks+=("$1" "${2%.*}.seconds")
}

fingerprint() {
    [[ ! -e $1 ]] || cksum <"$1"
}

# splits AT_ONCE NAME FOLDER COMMAND...: a step of train and eval, whose name stands in place of {split} in the command.
# With AT_ONCE 1 one follows the other, as encoders should on a GPU that may not hold them twice.
splits() {
    local at_once=$1 name=$2 folder=$3
    shift 3
    step "$name" "$folder/train/index.json" xargs -P "$at_once" -I '{split}' \
        bash -c '"$@" || exit 255' '{split}' "$@" <<<$'train\neval' # after a 255 xargs begins nothing more
}

# once NAME RESULT COMMAND...: a step that is skipped when its result is there.
once() {
    if [[ -e $2 ]]; then
        already "$1" "$2"
    else
        step "$@"
    fi
}

# after RUN NAME RESULT COMMAND...: as once, and again where the training of RUN went on since.
after() {
    [[ $3 -nt $1/complete.json ]] || rm -f "$3"
    once "${@:2}"
}

# stages LAUNCHER NAME... -- OVERRIDES...: train the configs in a row, each from the result of the one before.
# Where overrides are given, train.py is asked whether a complete run is still the one that they describe.
stages() {
    local launcher=$1 run=once name complete previous=() names=()
    shift
    while [[ $1 != -- ]]; do
        names+=("$1")
        shift
    done
    shift
    (($# == 0)) || run=step
    for name in "${names[@]}"; do
        complete=$output_dir/$name/complete.json
        "$run" "$name" "$complete" "$launcher" train.py --config-path ./configs --config-name "$name.yaml" \
            exp_name="$name" ${previous[@]+"${previous[@]}"} "$@"
        previous=("init_from=$output_dir/$name")
    done
}

# side_by_side "NAME..." OVERRIDES...: train configs that do not start from each other, two at a time with a thread each.
side_by_side() {
    local name names
    read -ra names <<<"$1"
    shift
    printf '%s\n' "${names[@]}" | OMP_NUM_THREADS=1 xargs -P 2 -I {} bash -o pipefail -c \
        'bash "$0" stage {} "$@" 2>&1 | sed -u "s/^/{}: /"' "$root/execute.sh" "$@" ||
        fail "A stage failed; see its message above, then run the same command again."
    for name in "${names[@]}"; do
        note "$name" "$output_dir/$name/complete.json"
    done
}

# add_seconds METRICS: write what each step took into the metrics, and print them.
add_seconds() {
    python - "$1" "${clocks[@]}" <<'PYTHON'
import json, sys
from pathlib import Path

metrics, steps = Path(sys.argv[1]), sys.argv[2:]
content = json.loads(metrics.read_text())
clocks = {name: Path(clock) for name, clock in zip(steps[::2], steps[1::2], strict=True)}
content["seconds"] = {name: int(clock.read_text()) for name, clock in clocks.items() if clock.exists()}
metrics.write_text(json.dumps(content, indent=2) + "\n")
print(metrics.read_text())
PYTHON
}

# ------------------------------------------------------------------------------------------------------ commands

# examine LAST ARGUMENTS...: ask the doctor, unless the last stage is complete.
examine() {
    local complete=$output_dir/$1/complete.json
    shift
    [[ -e $complete ]] || micro-diffusion doctor "$@" || fail "This machine is not ready; do what is said above."
}

# shapes DATA KIND CONFIG: the shapes as MDS images, and as the latents or pixels that are trained on.
shapes() {
    splits 2 convert "$1/images" python scripts/convert.py --config-name 'quickstart_convert_{split}' \
        out="$1/images/{split}"
    splits 2 precompute "$1/$2" python scripts/precompute.py --config-name "$3" images="$1/images/{split}" \
        out="$1/$2/{split}"
}

quickstart() {
    local data=data/quickstart final=$output_dir/quickstart_64_finetune
    examine quickstart_64_finetune --data-later quickstart_{32,64}_{pretrain,finetune} "$@"
    mkdir -p "$output_dir"
    shapes "$data" latents quickstart_precompute
    stages python quickstart_{32,64}_{pretrain,finetune} -- "$@"
    after "$final" samples "$final/samples.png" micro-diffusion generate "$final" --out "$final/samples.png"
    after "$final" score "$final/metrics.json" micro-diffusion evaluate "$final" --out "$final/metrics.json"
    add_seconds "$final/metrics.json"
}

cascade() {
    local data=data/cascade folder=$output_dir/cascade stages=(shapes_16 shapes_32_sr shapes_64_sr) stage
    examine shapes_64_sr --data-later "${stages[@]}" "$@"
    mkdir -p "$output_dir"
    shapes "$data" pixels shapes_precompute
    side_by_side "${stages[*]}" "$@" # networks so small leave a second thread nothing to do
    for stage in "${stages[@]}"; do # made again where the training went on since
        [[ $folder/cascade.yaml -nt $output_dir/$stage/complete.json ]] || rm -rf "$folder"
    done
    once cascade "$folder/cascade.yaml" micro-diffusion export "${stages[@]/#/$output_dir/}" "$folder"
    once samples "$folder/samples.png" micro-diffusion generate "$folder" --all-stages \
        "a large red circle on a white background" "a small blue star on a black background" \
        "a large green triangle on a gray background" "a small orange square on a white background" \
        "a small red circle to the left of a small blue square on a white background" \
        "a large blue circle below a large yellow star on a white background" --out "$folder/samples.png"
    once score "$folder/metrics.json" micro-diffusion evaluate "$folder" --out "$folder/metrics.json"
    for stage in "${stages[@]:1}"; do
        once "psnr_$stage" "$folder/$stage.json" \
            micro-diffusion evaluate "$output_dir/$stage" --out "$folder/$stage.json"
    done
    add_seconds "$folder/metrics.json"
}

# mine FOLDER [preset=NAME] [OVERRIDES...]: somebody's own images, from the folder to a grid.
mine() {
    local folder=${1-} preset=laptop data=data/mine previous=() stage word final=$output_dir/mine_large_finetune
    [[ -d $folder ]] || fail "'$folder' is no folder; give your folder of images: bash execute.sh mine FOLDER"
    shift
    if [[ ${1-} == preset=* ]]; then
        preset=${1#*=}
        shift
    fi
    mkdir -p "$output_dir" "$data/steps"
    for word in "$@"; do printf '%s\n' "$word"; done >"$data/own.args" # after what `look` proposes, so that it counts
    micro-diffusion look "$folder" --preset "$preset" --out "$data/steps" || fail "Change the folder as said above."
    for stage in {small,large}_{pretrain,finetune}; do
        [[ -e $final/complete.json ]] || with "$data/steps/train.args" with "$data/steps/$stage.args" \
            with "$data/steps/plan.args" with "$data/own.args" micro-diffusion plan "mine_$stage"
    done
    with "$data/steps/convert.args" splits 1 convert "$data/images" \
        python scripts/convert.py 'preparation.split={split}' "out=$data/images/{split}"
    with "$data/steps/autoencoder.args" step autoencoder "$output_dir/mine_autoencoder/complete.json" \
        python train.py --config-path ./configs --config-name train_autoencoder.yaml exp_name=mine_autoencoder \
        "output_dir=$output_dir" "train_loader.paths=[$data/images/train]" "eval_loader.paths=[$data/images/eval]"
    local encoder=autoencoder.path=$output_dir/mine_autoencoder/autoencoder
    with "$data/steps/precompute.args" splits 1 precompute "$data/latents" \
        python scripts/precompute.py --config-name quickstart_precompute \
        "images=$data/images/{split}" "out=$data/latents/{split}" "$encoder"
    for stage in mine_{small,large}_{pretrain,finetune}; do
        with "$data/steps/train.args" with "$data/steps/${stage#mine_}.args" with "$data/own.args" \
            step "$stage" "$output_dir/$stage/complete.json" python train.py --config-path ./configs \
            --config-name "$stage.yaml" "exp_name=$stage" "$encoder" ${previous[@]+"${previous[@]}"}
        previous=("init_from=$output_dir/$stage")
    done
    after "$final" samples "$final/samples.png" micro-diffusion generate "$final" --out "$final/samples.png"
    after "$final" copies "$final/copies/0000.png" micro-diffusion generate "$final" --count 8 --out "$final/copies"
    after "$final" nearest "$final/nearest.png" micro-diffusion nearest "$final/copies" --training "$data/images/train" \
        --unseen "$data/images/eval" --out "$final/nearest.png"
    after "$final" report "$final/report.html" micro-diffusion report \
        "$output_dir"/mine_{small,large}_{pretrain,finetune} --out "$final/report.html"
    line next "micro-diffusion generate $final \"...\" --out out.png; a page to try it: micro-diffusion demo $final"
}

# ldm KEY=VALUE...: preset chooses the stages, source.* and preparation.* go to convert, the rest to every training.
ldm() {
    local preset=ldm source=() overrides=() word data=data/ldm launcher=python
    local vaes=(ldm_vae_l1 ldm_vae_gan) unet=ldm_unet
    for word in "$@"; do
        case $word in
        preset=*) preset=${word#*=} ;;
        source.* | preparation.*) source+=("$word") ;;
        *) overrides+=("$word") ;;
        esac
    done
    if [[ $preset == wikiart_512 ]]; then
        data=data launcher=composer vaes=(vae_256_l1 vae_256_gan vae_256_lpips vae_512) unet=unet_512
    elif [[ $preset != ldm ]]; then
        fail "There is no preset=$preset; leave it out, or set it to wikiart_512."
    fi
    set -- ${overrides[@]+"${overrides[@]}"}
    local final=$output_dir/$unet encoder=$output_dir/${vaes[${#vaes[@]} - 1]}/autoencoder
    if [[ " ${source[*]-}" != *" source.path="* ]]; then
        [[ $preset == ldm ]] || fail "preset=$preset has no images; add source.path=FOLDER, with a folder for each class."
        once classes "$data/classes" python scripts/class_folders.py "$data/classes"
    fi
    examine "$unet" --data-later "${vaes[@]}" "$unet" "$@"
    mkdir -p "$output_dir"
    splits 1 convert "$data/images" python scripts/convert.py --config-name "${preset%_*}_convert" \
        'preparation.split={split}' out="$data/images/{split}" ${source[@]+"${source[@]}"}
    stages "$launcher" "${vaes[@]}" -- "$@"
    splits 1 precompute "$data/latents" python scripts/precompute.py --config-name "${preset%_*}_precompute" \
        autoencoder.path="$encoder" images="$data/images/{split}" out="$data/latents/{split}"
    stages "$launcher" "$unet" -- "$@"
    after "$final" samples "$final/samples.png" micro-diffusion generate "$final" --count 8 --out "$final/samples.png"
    after "$final" score "$final/metrics.json" \
        micro-diffusion evaluate "$final" --images "$data/images" --out "$final/metrics.json"
    add_seconds "$final/metrics.json"
}

# with FILE COMMAND...: the command with the lines of a file as its last arguments.
with() {
    local more
    mapfile -t more <"$1"
    "${@:2}" "${more[@]}"
}

# full FAMILY OVERRIDES...: the four full-size stages, as published, or those whose names begin with FAMILY.
full() {
    local family=$1
    shift
    examine "${family}512_finetune" "$family"{256,512}_{pretrain,finetune} "$@"
    mkdir -p "$output_dir"
    stages composer "$family"{256,512}_{pretrain,finetune} -- "$@"
}

recipe() {
    full recipe_ "$@"
}

case ${1-} in
-h | --help) sed -n '2,14s/^# \{0,1\}//p' execute.sh ;;
test)
    use_environment
    python -c 'import hypothesis, pyright, pytest, ruff, xdist' 2>/dev/null ||
        fail "The active environment lacks the packages of the tests; run: python -m pip install -e '.[test]'"
    # Two at a time; the tests of a file stay together, since they share what they have trained.
    exec python -m pytest --numprocesses 2 --dist loadfile "${@:2}"
    ;;
quickstart | cascade | ldm | recipe)
    read_overrides "${@:2}"
    use_environment
    "$1" "${@:2}"
    printf '\n%s\n' "Summary:" "${report[@]}"
    ;;
stage) # one of those that `side_by_side` trains
    read_overrides "${@:3}"
    use_environment
    stages python "$2" -- "${@:3}"
    ;;
mine)
    read_overrides "${@:3}"
    use_environment
    mine "${@:2}"
    printf '\n%s\n' "Summary:" "${report[@]}"
    ;;
*)
    read_overrides "$@"
    use_environment
    full "" "$@"
    printf '\n%s\n' "Summary:" "${report[@]}"
    ;;
esac
