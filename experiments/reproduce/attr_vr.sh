#!/usr/bin/env bash
# AttrVR (Cai et al., ICLR 2025) and its baselines AR and VP, 16 shots on CLIP's ViT-B/16. The settings are in common.sh,
# and CHOICES="attr_vr ar vp", and ATTRIBUTES, the folder of your files of sentences (docs/methods.md).
# shellcheck source=common.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

: "${DATASETS:=caltech101 dtd eurosat fgvc_aircraft food101 flowers102 oxfordpets stanfordcars sun397 ucf101 resisc45}"
: "${METHODS:=attr_vr}"
: "${CHOICES=attr_vr ar vp}"
: "${ATTRIBUTES:=attributes}"
: "${SEEDS:=7 8 9}"

for dataset in $DATASETS; do
    for choice in $CHOICES; do
        sentences=()
        [[ $choice == attr_vr ]] && sentences=(--attributes "$ATTRIBUTES")
        methods clip --clip-model ViT-B-16-quickgelu --dataset "$dataset" --method "$choice" --shots 16 --val-shots 4 \
            "${sentences[@]}"
    done
done
summary
