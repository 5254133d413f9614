#!/usr/bin/env bash
# Methods that train on answers alone, at equal budgets, without a download: digits, 16 shots, on an EfficientNet and on
# a tiny CLIP, which tools/make_tiny_clip.py makes. tools/report.py draws accuracy against questions. The settings are in
# common.sh, and BUDGETS="600 5000", questions of training; ENCODER, whose features BlackVIP's decoder sees;
# CLIP=FOLDER, where the tiny CLIP is; CLIP= takes the scripts' own CLIP.
# shellcheck source=common.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

: "${DATASETS:=digits}"
: "${NETWORKS:=efficientnet_lite0}"
: "${METHODS:=bar blackvip vp}"
: "${BUDGETS:=600}"
: "${ENCODER:=efficientnet_lite0}"
: "${CLIP=$VP_RESULTS_PATH/tiny-clip}"
: "${SEEDS:=7 8 9}"

clip=()
if [[ $CLIP ]]; then
    clip=(--clip-config "$CLIP/tiny-clip.json" --pretrained "$CLIP/tiny-clip.pt")
    [[ $DRY_RUN || -f $CLIP/tiny-clip.pt ]] || "$PYTHON" tools/make_tiny_clip.py "$CLIP" || exit 1
fi
chosen=" $METHODS "
declare -A own=([blackvip]="--encoder $ENCODER" [vp]=--black-box)
for dataset in $DATASETS; do
    for budget in $BUDGETS; do
        few=(--dataset "$dataset" --shots 16 --val-shots 4 --passes 5 --budget "$budget")
        for network in $NETWORKS; do
            METHODS=bar
            [[ $chosen == *" bar "* ]] && methods cnn --network "$network" "${few[@]}"
        done
        for METHODS in $chosen; do
            # shellcheck disable=SC2086 # a flag and its value
            methods clip "${clip[@]}" "${few[@]}" ${own[$METHODS]-}
        done
    done
done
summary
