#!/usr/bin/env bash
# RVP (arXiv 2609.36680), 16 shots on four CLIPs. The settings are in common.sh, and NETWORKS are CLIPs of open_clip, and
# ATTRIBUTES is the folder of your files of sentences (docs/methods.md).
# shellcheck source=common.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

: "${DATASETS:=caltech101 dtd eurosat fgvc_aircraft food101 flowers102 oxfordpets stanfordcars sun397 ucf101 resisc45}"
: "${NETWORKS:=ViT-B-16-quickgelu ViT-B-32-quickgelu RN50-quickgelu RN101-quickgelu}"
: "${METHODS:=rvp}"
: "${ATTRIBUTES:=attributes}"
: "${SEEDS:=7 8 9}"

for network in $NETWORKS; do
    for dataset in $DATASETS; do
        methods clip --clip-model "$network" --dataset "$dataset" --attributes "$ATTRIBUTES" --shots 16 --val-shots 4
    done
done
summary
