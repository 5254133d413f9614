#!/usr/bin/env bash
# ILM-VP on CLIP (Chen et al., CVPR 2023, its CLIP section): a visual prompt with one text template for all classes, and
# with a text prompt for each class by iterative label mapping. The settings are in common.sh.
# It is not known for sure here which data sets and how many seeds the paper's table has. These are the data sets of its
# table of ImageNet networks without abide, and the seeds of that table.
# shellcheck source=common.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

: "${DATASETS:=flowers102 dtd ucf101 food101 gtsrb eurosat oxfordpets stanfordcars sun397 svhn cifar10 cifar100}"
: "${METHODS:=single_tp_vp ilm_tp_vp}"
: "${SEEDS:=7 8 9}"

for dataset in $DATASETS; do
    methods clip --dataset "$dataset"
done
summary
