#!/usr/bin/env bash
# BLM on CLIP (Cai et al., NeurIPS 2024): BLM and BLM+ over 81 templates x T text prompts, beside iterative label
# mapping over the same. The settings are in common.sh.
# It is not known for sure here which data sets the paper's table has. These are those of its ImageNet networks.
# shellcheck source=common.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

: "${DATASETS:=flowers102 dtd ucf101 food101 gtsrb eurosat oxfordpets stanfordcars sun397 svhn cifar10 cifar100}"
: "${METHODS:=ilm_tp_vp blm_vp blmp_vp}"
: "${SEEDS:=7 8 9}"

for dataset in $DATASETS; do
    methods clip --dataset "$dataset"
done
summary
