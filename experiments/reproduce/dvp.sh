#!/usr/bin/env bash
# DVP (Cai et al., ICML 2025), 16 shots on CLIP's ViT-B/16. The settings are in common.sh, and CHOICES="cls cse", and
# ATTRIBUTES, the folder of your files of sentences (docs/methods.md).
# shellcheck source=common.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

: "${DATASETS:=caltech101 dtd eurosat fgvc_aircraft food101 flowers102 oxfordpets stanfordcars sun397 ucf101 resisc45}"
: "${METHODS:=dvp}"
: "${CHOICES=cls cse}"
: "${ATTRIBUTES:=attributes}"
: "${SEEDS:=7 8 9}"

for dataset in $DATASETS; do
    for choice in $CHOICES; do
        causes=()
        [[ $choice == cse ]] && causes=(--causes 3)
        methods clip --clip-model ViT-B-16-quickgelu --dataset "$dataset" --attributes "$ATTRIBUTES" --shots 16 \
            --val-shots 4 "${causes[@]}"
    done
done
summary
